//! Tunnels: they open by the backend's answer alone, and pass everything, ends included.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use http::Request;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::health::Event;

use super::harness::*;
use super::http2::{text, with_client};
use super::{gauge, value};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A backend that answers every request by 101 and then does `talk`.
fn switching(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    backend(move |mut stream| {
        let head = read_head(&mut stream);
        if !head.is_empty() {
            assert_eq!(header(&head, "connection"), Some("upgrade"), "{head}");
            assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
            stream.write_all(SWITCH.as_bytes()).unwrap();
            talk(stream);
        }
    })
}

fn echo(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// A client in a tunnel.
fn tunnel(worker: &Worker) -> TcpStream {
    let mut client = worker.client();
    client.send(ASK);
    let head = read_head(&mut client.stream);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    assert!(header(&head, "sec-websocket-accept").is_some());
    assert!(header(&head, "content-length").is_none() && !head.contains("transfer-encoding"));
    client.stream
}

#[test]
fn bytes_pass_both_ways_and_the_end_too() {
    let worker = Worker::start(&[switching(echo)]);
    let mut client = tunnel(&worker);
    let cell = worker.cell(0);
    assert_eq!((gauge(&cell.tunnels), gauge(&cell.active)), (1, 1));
    // Nothing that looks like HTTP is touched.
    for piece in [&b"GET / HTTP/1.1\r\nHost: x\n\n"[..], &[0, 255, 13, 10, 13, 10]] {
        client.write_all(piece).unwrap();
        let mut back = vec![0; piece.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, piece);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    eventually("it ended", || gauge(&cell.tunnels) == 0 && gauge(&cell.active) == 0);
    eventually("its connection's end is counted", || value(&cell.ends[Cause::Eof as usize]) == 1);
    assert_eq!(value(&cell.responses[0]), 1);
    assert_eq!((value(&cell.request_body_bytes), value(&cell.response_body_bytes)), (31, 31));
}

#[test]
fn what_both_sides_send_early_is_not_lost() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        stream.write_all(format!("{SWITCH}early").as_bytes()).unwrap();
        echo(stream);
    })]);
    let mut client = worker.client();
    client.send(&format!("{ASK}bird"));
    assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "earlybird");
}

#[test]
fn megabytes_pass_a_slow_reader_whole() {
    const LENGTH: usize = 20_000_000;
    let worker = Worker::start_with(&[switching(echo)], |model| {
        // Shorter than the transfer: bytes on their way are not idleness.
        let timeouts = &mut model.listeners[0].routes[0].timeouts;
        timeouts.half_closed = Duration::from_millis(200);
    });
    let mut client = tunnel(&worker);
    let mut sender = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&vec![7; LENGTH]).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    std::thread::sleep(Duration::from_millis(600));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    sending.join().unwrap();
    assert_eq!(got.len(), LENGTH);
}

#[test]
fn one_way_may_end_and_the_other_go_on() {
    let worker = Worker::start(&[switching(|mut stream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        stream.write_all(format!("got {all}").as_bytes()).unwrap();
    })]);
    let mut client = tunnel(&worker);
    client.write_all(b"all").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got all");
}

#[test]
fn a_reset_of_one_side_resets_the_other() {
    let worker = Worker::start(&[switching(|stream| {
        let _ = (&stream).read(&mut [0; 8]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })]);
    let mut client = tunnel(&worker);
    client.write_all(b"x").unwrap();
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_drain_keeps_tunnels_until_its_deadline_and_cuts_them_then() {
    let mut worker = Worker::start_with(&[switching(echo)], |model| {
        model.global.drain = Duration::from_secs(2);
    });
    let mut client = tunnel(&worker);
    worker.order_drain();
    eventually("new work goes elsewhere", || TcpStream::connect(worker.address).is_err());
    client.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(worker.ends(Cause::Drained), 0);
    let error = client.read(&mut back).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    worker.join();
    assert_eq!(worker.ends(Cause::Drained), 1);
    assert_eq!(gauge(&worker.cell(0).tunnels), 0);
}

#[test]
fn a_draining_backend_keeps_its_tunnels_and_one_that_is_out_loses_them() {
    let other = answering(|_, _| ok("other"));
    let worker = Worker::start(&[switching(echo), other]);
    let mut client = tunnel(&worker);
    worker.apply(0, Event::Drain);
    for _ in 0..4 {
        assert_eq!(worker.get("/").text(), "other");
    }
    client.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    worker.apply(0, Event::Maintain);
    let error = client.read(&mut back).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("it is counted", || worker.ends(Cause::BackendOut) == 1);
    assert_eq!(worker.get("/").text(), "other");
}

#[test]
fn the_deadline_cuts_requests_and_streams_too() {
    let silent = || backend(|mut stream| while stream.read(&mut [0; 64]).is_ok_and(|n| n != 0) {});
    let mut worker = Worker::start_with(&[silent()], |model| {
        model.global.drain = Duration::from_millis(500);
    });
    let mut waiting = worker.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    with_client(&worker, async |mut sender| {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        while gauge(&worker.cell(0).active) != 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        worker.order_drain();
        assert!(response.await.is_err());
    });
    let mut rest = Vec::new();
    let _ = waiting.stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    worker.join();
    assert_eq!(worker.ends(Cause::Drained), 2);
}

#[test]
fn idle_tunnels_end_and_half_closed_ones_sooner() {
    let silent =
        || switching(|mut stream| while stream.read(&mut [0; 64]).is_ok_and(|n| n != 0) {});
    let idle = Worker::start_with(&[silent()], |model| {
        model.listeners[0].routes[0].timeouts.tunnel = Duration::from_millis(300);
    });
    assert_eq!(tunnel(&idle).read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(idle.ends(Cause::TunnelIdle), 1);
    // This backend does not end when its client does.
    let worker = Worker::start_with(
        &[switching(|mut stream| {
            while stream.read(&mut [0; 64]).is_ok_and(|n| n != 0) {}
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            std::thread::park_timeout(Duration::from_secs(20));
        })],
        |model| model.listeners[0].routes[0].timeouts.half_closed = Duration::from_millis(300),
    );
    let mut client = tunnel(&worker);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    eventually("it ended", || gauge(&worker.cell(0).tunnels) == 0);
    assert_eq!(worker.ends(Cause::TunnelHalfClosed), 1);
}

#[test]
fn any_other_answer_is_a_plain_response_and_the_connection_goes_on() {
    let worker = Worker::start(&[answering(|head, _| {
        let status = if head.starts_with("get /chat") { "403 No" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi")
    })]);
    let mut client = worker.client();
    client.send(ASK);
    let refused = client.response();
    assert_eq!((refused.status, refused.text()), (403, "hi"));
    assert_eq!(client.get("/next").status, 200);
    let cell = worker.cell(0);
    assert_eq!((gauge(&cell.tunnels), value(&cell.connections_created)), (0, 1));
}

#[test]
fn http2_in_clear_text_cannot_be_asked_for() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    let mut client = worker.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    );
    let head = client.response();
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(header(head.text(), gone), None, "{}", head.text());
    }
}

#[test]
fn a_101_that_nobody_asked_for_or_for_something_else_is_502() {
    let worker = Worker::start(&[backend(|mut stream| {
        let head = read_head(&mut stream);
        let protocol = if head.starts_with("get /chat") { "other" } else { "websocket" };
        let _ = stream.write_all(
            format!("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\nGET")
                .as_bytes(),
        );
    })]);
    assert_eq!(worker.get("/").status, 502);
    let mut client = worker.client();
    client.send(ASK);
    assert_eq!(client.response().status, 502);
    assert_eq!(worker.errors(ErrorClass::Protocol), 2);
    eventually("nothing is open", || gauge(&worker.cell(0).connections) == 0);
}

#[test]
fn connect_needs_a_route_that_allows_it_and_a_backend_that_accepts() {
    let proxy = || {
        backend(|mut stream| {
            let head = read_head(&mut stream);
            if head.starts_with("connect db.test:5432 http/1.1\r\n") {
                assert_eq!(header(&head, "host"), Some("db.test:5432"));
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                echo(stream);
            } else {
                let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
            }
        })
    };
    let ask = |host| format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let refusing = Worker::start(&[proxy()]);
    let mut client = refusing.client();
    client.send(&ask("db.test:5432"));
    assert_eq!(client.response().status, 405);
    assert_eq!(refusing.errors(ErrorClass::ConnectRefused), 1);
    assert_eq!(value(&refusing.cell(0).connections_created), 0);

    let worker = Worker::start_with(&[proxy()], |model| {
        model.listeners[0].routes[0].connect = true;
    });
    let mut client = worker.client();
    client.send(&ask("db.test:5432"));
    let head = read_head(&mut client.stream);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(header(&head, "content-length").is_none() && !head.contains("transfer-encoding"));
    client.send("SELECT 1");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "SELECT 1");
    let mut client = worker.client();
    client.send(&ask("other.test:1"));
    let refused = client.response();
    assert_eq!((refused.status, refused.text()), (403, "no"));
}

#[test]
fn a_websocket_over_http2_is_one_over_http1_to_the_backend() {
    let worker = Worker::start(&[backend(|mut stream| {
        let head = read_head(&mut stream);
        if !head.starts_with("get /chat http/1.1\r\n") {
            stream.write_all(ok("plain").as_bytes()).unwrap();
            return;
        }
        assert_eq!(header(&head, "host"), Some("a.test"));
        assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
        // The harness gives the head in lower case, and the key has both: so the answer is wrong.
        assert_eq!(header(&head, "sec-websocket-key").unwrap().len(), 24);
        stream.write_all(SWITCH.as_bytes()).unwrap();
        echo(stream);
    })]);
    with_client(&worker, async |mut sender| {
        let plain = || Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(plain(), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "plain");
        // The server's settings have come.
        assert!(sender.is_extended_connect_protocol_enabled());
        let mut request = Request::connect("http://a.test/chat").body(()).unwrap();
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, _) = sender.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 502, "the key was not answered");
        let (response, _) = sender.send_request(plain(), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "plain");
    });
}

#[test]
fn a_tunnel_over_an_http2_stream_passes_bytes_and_ends() {
    let worker = Worker::start_with(
        &[backend(|mut stream| {
            read_head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            echo(stream);
        })],
        |model| model.listeners[0].routes[0].connect = true,
    );
    with_client(&worker, async |mut sender| {
        let request = Request::connect("db.test:5432").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(gauge(&worker.cell(0).tunnels), 1);
        let sent = "ping ".repeat(5000);
        upload.send_data(sent.clone().into(), true).unwrap();
        assert_eq!(text(response).await.0, sent);
    });
    eventually("it ended", || gauge(&worker.cell(0).tunnels) == 0);
}
