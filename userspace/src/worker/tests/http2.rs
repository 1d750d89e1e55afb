//! HTTP/2 clients: what they send reaches HTTP/1 backends as HTTP/1, and their limits hold.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;

use super::harness::*;
use super::{gauge, value};

/// Runs a client's side; the connection itself runs beside it.
pub(super) fn with_client<F, T>(worker: &Worker, talk: impl FnOnce(SendRequest<Bytes>) -> F) -> T
where
    F: Future<Output = T>,
{
    with_builder(worker, &h2::client::Builder::new(), talk)
}

fn with_builder<F, T>(
    worker: &Worker,
    builder: &h2::client::Builder,
    talk: impl FnOnce(SendRequest<Bytes>) -> F,
) -> T
where
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(worker.address).await.unwrap();
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        talk(sender.ready().await.unwrap()).await
    })
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}")).body(()).unwrap()
}

pub(super) async fn text(response: Response<RecvStream>) -> (String, Option<HeaderMap>) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    (String::from_utf8(bytes).unwrap(), body.trailers().await.unwrap())
}

#[test]
fn a_request_by_http2_reaches_the_backend_as_http1() {
    let worker = Worker::start(&[answering(|head, _| {
        format!(
            "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
             Content-Length: {}\r\nX-Kept: 1\r\n\r\n{head}",
            head.len()
        )
    })]);
    with_client(&worker, async |mut sender| {
        let mut request = get("/path?query=1");
        for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-kept"], "1");
        for hop in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
            assert!(!response.headers().contains_key(hop), "{hop}");
        }
        let (head, _) = text(response).await;
        assert!(head.starts_with("get /path?query=1 http/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some("a.test"));
        assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
        assert_eq!(header(&head, "te"), Some("trailers"));
        assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(&head, "x-forwarded-host"), Some("a.test"));
    });
    assert_eq!(value(&worker.cell(0).responses[1]), 1);
}

#[test]
fn streams_run_side_by_side_and_bodies_pass_both_ways() {
    let worker = Worker::start(&[answering(|_, body| ok(std::str::from_utf8(body).unwrap()))]);
    with_client(&worker, async |sender| {
        let exchanges = (0..20).map(|number| {
            let mut sender = sender.clone();
            tokio::task::spawn_local(async move {
                sender = sender.ready().await.unwrap();
                let request = Request::post("http://a.test/").body(()).unwrap();
                let (response, mut upload) = sender.send_request(request, false).unwrap();
                // More than a window, so that both sides have to make room.
                let sent = format!("{number:04}").repeat(50_000);
                let mut left = Bytes::from(sent.clone());
                while !left.is_empty() {
                    upload.reserve_capacity(left.len());
                    let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await;
                    let room = room.unwrap().unwrap().min(left.len());
                    upload.send_data(left.split_to(room), left.is_empty()).unwrap();
                }
                let (got, _) = text(response.await.unwrap()).await;
                assert!(got == sent, "{number}: {} bytes came back", got.len());
            })
        });
        for exchange in exchanges.collect::<Vec<_>>() {
            exchange.await.unwrap();
        }
    });
    let cell = worker.cell(0);
    assert_eq!(value(&cell.responses[1]), 20);
    assert_eq!(value(&cell.request_body_bytes), 20 * 200_000);
    assert_eq!(gauge(&cell.active), 0);
}

#[test]
fn trailers_of_a_backend_reach_the_client() {
    let worker = Worker::start(&[answering(|_, _| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"
            .into()
    })]);
    with_client(&worker, async |mut sender| {
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        let (body, trailers) = text(response.await.unwrap()).await;
        assert_eq!(body, "hello");
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    });
}

#[test]
fn trailers_of_a_client_reach_the_backend() {
    let worker = Worker::start(&[answering(|_, body| ok(std::str::from_utf8(body).unwrap()))]);
    with_client(&worker, async |mut sender| {
        let request = Request::post("http://a.test/").header("trailer", "x-sum").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"hello "), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        upload.send_trailers(trailers).unwrap();
        let (body, _) = text(response.await.unwrap()).await;
        assert_eq!(body, "hello x-sum: 7");
    });
}

#[test]
fn head_and_bodiless_statuses_have_no_body() {
    let worker = Worker::start(&[answering(|head, _| {
        let status = header(head, "x-status").unwrap_or("200 OK");
        let length = if status.starts_with("204") { "" } else { "Content-Length: 5\r\n" };
        format!("HTTP/1.1 {status}\r\n{length}\r\n")
    })]);
    with_client(&worker, async |mut sender| {
        let head = Request::head("http://a.test/").body(()).unwrap();
        let mut unmodified = get("/");
        unmodified.headers_mut().insert("x-status", "304 Same".parse().unwrap());
        let mut nothing = get("/");
        nothing.headers_mut().insert("x-status", "204 None".parse().unwrap());
        for (request, status, length) in
            [(head, 200, Some("5")), (unmodified, 304, Some("5")), (nothing, 204, None)]
        {
            let (response, _) = sender.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status);
            let shown = response.headers().get("content-length").map(|v| v.to_str().unwrap());
            assert_eq!(shown, length);
            assert_eq!(text(response).await.0, "");
        }
    });
    assert_eq!(value(&worker.cell(0).connections_created), 1, "framing was kept right");
}

#[test]
fn the_preface_may_come_in_any_pieces() {
    let worker = Worker::start(&[answering(|_, _| ok("x"))]);
    let mut client = worker.client();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.stream.write_all(&[*byte]).unwrap();
    }
    // An empty SETTINGS frame.
    client.stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let mut frame = [0; 9];
    client.stream.read_exact(&mut frame).unwrap();
    assert_eq!((frame[3], &frame[5..]), (4, &[0; 4][..]), "{frame:?}");
}

#[test]
fn what_merely_begins_like_the_preface_is_http1() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    let mut client = worker.client();
    for piece in ["P", "R", "OPFIND / HT", "TP/1.1\r\nHost: a.test\r\n\r\n"] {
        client.send(piece);
    }
    assert!(client.response().text().starts_with("propfind / http/1.1\r\n"));
    assert!(client.get("/next").text().starts_with("get /next"));
    let mut client = worker.client();
    client.send("PRI");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.rest().is_empty());
}

#[test]
fn host_and_authority_must_agree() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    with_client(&worker, async |mut sender| {
        let mut request = get("/");
        request.headers_mut().insert("host", "b.test".parse().unwrap());
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 400);
    });
    assert_eq!(worker.errors(ErrorClass::BadHost), 1);
}

#[test]
fn a_header_list_that_is_too_long_is_431() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    with_client(&worker, async |mut sender| {
        let mut request = get("/");
        request.headers_mut().insert("x-long", "x".repeat(70_000).parse().unwrap());
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn no_more_streams_are_open_than_allowed() {
    let worker = Worker::start_with(&[answering(|_, _| ok("x"))], |model| {
        model.listeners[0].http2.streams = 3;
    });
    with_client(&worker, async |mut sender| {
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        response.await.unwrap();
        assert_eq!(sender.current_max_send_streams(), 3);
    });
}

/// A backend that takes requests and never answers.
fn silent() -> std::net::SocketAddr {
    backend(|mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|read| read != 0) {})
}

#[test]
fn a_client_that_resets_its_requests_over_and_over_is_cut_off() {
    let worker = Worker::start_with(&[silent()], |model| model.listeners[0].http2.resets = 5);
    with_client(&worker, async |mut sender| {
        for round in 0.. {
            assert!(round < 10_000, "never cut off");
            let Ok(ready) = sender.ready().await else { return };
            sender = ready;
            let Ok((response, mut upload)) = sender.send_request(get("/"), false) else { return };
            tokio::time::sleep(Duration::from_millis(1)).await;
            upload.send_reset(Reason::CANCEL);
            drop(response);
        }
    });
    eventually("nothing is active", || gauge(&worker.cell(0).active) == 0);
    assert!(value(&worker.cell(0).connections_created) < 1000);
    eventually("it is counted", || worker.ends(Cause::ResetFlood) == 1);
}

#[test]
fn a_reset_stream_ends_the_request_at_the_backend_and_nothing_else() {
    let (gone, is_gone) = std::sync::mpsc::channel();
    let worker = Worker::start(&[backend(move |mut stream| {
        let head = read_head(&mut stream);
        if head.starts_with("get /wait ") {
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
            gone.send(()).unwrap();
        } else {
            stream.write_all(ok("x").as_bytes()).unwrap();
        }
    })]);
    with_client(&worker, async |mut sender| {
        let (response, mut upload) = sender.send_request(get("/wait"), false).unwrap();
        while gauge(&worker.cell(0).active) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        upload.send_reset(Reason::CANCEL);
        drop(response);
        while is_gone.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "x");
    });
}

#[test]
fn a_client_that_takes_nothing_loses_its_stream_and_no_other() {
    let long = "x".repeat(300_000);
    let worker = Worker::start_with(&[answering(move |_, _| ok(&long))], |model| {
        model.listeners[0].http2.stall = Duration::from_millis(300);
    });
    // What lies unread on one stream must not take the whole connection's window.
    let builder = h2::client::Builder::new().initial_connection_window_size(1 << 20).to_owned();
    with_builder(&worker, &builder, async |mut sender| {
        let (stalled, _) = sender.send_request(get("/"), true).unwrap();
        let mut stalled = stalled.await.unwrap().into_body();
        let mut got = 0;
        // The window is never given back.
        let error = loop {
            match stalled.data().await.unwrap() {
                Ok(piece) => got += piece.len(),
                Err(error) => break error,
            }
        };
        assert!(error.is_reset(), "{error}");
        assert!(got < 300_000);
        assert_eq!(worker.ends(Cause::ResponseStall), 1);
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0.len(), 300_000);
    });
}

#[test]
fn an_idle_connection_gets_a_goaway_and_ends() {
    let worker = Worker::start_with(&[answering(|_, _| ok("x"))], |model| {
        model.listeners[0].http2.idle = Duration::from_millis(300);
    });
    with_client(&worker, async |mut sender| {
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        text(response.await.unwrap()).await;
        while let Ok(ready) = sender.ready().await {
            sender = ready;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    eventually("it ended", || gauge(&worker.region.worker(0).connections) == 0);
}

#[test]
fn drain_lets_open_streams_end() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let mut worker = Worker::start(&[answering(move |_, _| {
        gone.lock().unwrap().recv().unwrap();
        ok("whole")
    })]);
    with_client(&worker, async |mut sender| {
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        while gauge(&worker.cell(0).active) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        worker.order_drain();
        while let Ok(ready) = sender.ready().await {
            sender = ready;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        go.send(()).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "whole");
    });
    worker.join();
}
