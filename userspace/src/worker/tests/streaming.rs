//! When things pass: a body when the backend asks for it, a piece when it comes, an answer when there
//! is one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use steerage_common::cause::Cause;

use super::harness::*;
use super::http2::{text, with_client};
use super::{gauge, value};

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\
    Expect: 100-continue\r\n\r\n";

/// Fails if a byte comes within a moment.
fn assert_silence(stream: &mut TcpStream) {
    let patience = stream.read_timeout().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = stream.read(&mut [0]).expect_err("something came");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    stream.set_read_timeout(patience).unwrap();
}

/// A backend that checks that the body waits, and asks for it.
fn asking() -> SocketAddr {
    backend(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            assert_eq!(header(&head, "expect"), Some("100-continue"), "{head}");
            assert_silence(&mut stream);
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            let body = read_body(&mut stream, &head);
            stream.write_all(ok(std::str::from_utf8(&body).unwrap()).as_bytes()).unwrap();
        }
    })
}

#[test]
fn a_body_that_is_expected_to_wait_passes_when_the_backend_asks() {
    let worker = Worker::start(&[asking()]);
    let mut client = worker.client();
    for _ in 0..2 {
        client.send(EXPECTING);
        assert_eq!(read_head(&mut client.stream), "http/1.1 100 continue\r\n\r\n");
        client.send("hello");
        assert_eq!(client.response().text(), "hello");
        // A client need not wait.
        client.send(&format!("{EXPECTING}hello"));
        let mut response = client.response();
        if response.status == 100 {
            response = client.response();
        }
        assert_eq!(response.text(), "hello");
    }
    assert_eq!(value(&worker.cell(0).connections_created), 1);
    with_client(&worker, async |mut sender| {
        let mut request = Request::post("http://a.test/").body(()).unwrap();
        request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        request.headers_mut().insert("content-length", "5".parse().unwrap());
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "hello");
    });
}

#[test]
fn a_body_that_the_backend_does_not_want_is_never_asked_for() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // Nothing of the body comes after that either.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    })]);
    let mut client = worker.client();
    client.send(EXPECTING);
    let refused = client.response();
    assert_eq!((refused.status, refused.text()), (417, "no"));
    assert_eq!(header(&refused.head, "connection"), Some("close"));
    assert_eq!(client.rest(), "");
    with_client(&worker, async |mut sender| {
        let request = Request::post("http://a.test/").header("expect", "100-continue");
        let (response, _upload) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 417);
        assert_eq!(text(response).await.0, "no");
    });
    let broken = &worker.cell(0).ends[Cause::Abandoned as usize];
    eventually("both connections are closed", || value(broken) == 2);
}

#[test]
fn a_backend_that_does_not_know_the_header_gets_the_body_after_a_while() {
    let worker = Worker::start(&[answering(|_, body| ok(std::str::from_utf8(body).unwrap()))]);
    let mut client = worker.client();
    client.send(EXPECTING);
    assert_eq!(read_head(&mut client.stream), "http/1.1 100 continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.response().text(), "hello");
}

#[test]
fn nothing_is_expected_of_http10_nor_without_a_body() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    for request in [
        "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
    ] {
        let mut client = worker.client();
        client.send(request);
        assert_eq!(header(client.response().text(), "expect"), None);
    }
}

#[test]
fn other_informational_responses_end_here() {
    let worker = Worker::start(&[answering(|_, _| {
        format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{}", ok("final"))
    })]);
    let mut client = worker.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "final");
    }
}

/// A backend that sends one chunk for each message, and ends by an empty one.
fn dictated() -> (SocketAddr, Sender<&'static str>) {
    let (say, said) = channel::<&'static str>();
    let said: Mutex<Receiver<&'static str>> = Mutex::new(said);
    let address = backend(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            let start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                         Transfer-Encoding: chunked\r\n\r\n";
            stream.write_all(start.as_bytes()).unwrap();
            loop {
                let piece = said.lock().unwrap().recv().unwrap();
                stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
                if piece.is_empty() {
                    break;
                }
            }
        }
    });
    (address, say)
}

const EVENTS: [&str; 3] = ["data: one\n\n", "data: two\n\n", "data: three\n\n"];

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let (address, say) = dictated();
    let worker = Worker::start(&[address]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let head = read_head(&mut client.stream);
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    for event in EVENTS {
        say.send(event).unwrap();
        let mut chunk = vec![0; format!("{:x}\r\n{event}\r\n", event.len()).len()];
        client.stream.read_exact(&mut chunk).unwrap();
        assert!(String::from_utf8(chunk).unwrap().contains(event));
    }
    say.send("").unwrap();
    let mut end = [0; 5];
    client.stream.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    with_client(&worker, async |mut sender| {
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        for event in EVENTS {
            say.send(event).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), event);
        }
        say.send("").unwrap();
        assert!(body.data().await.is_none_or(|piece| piece.unwrap().is_empty()));
    });
}

#[test]
fn each_piece_of_an_upload_arrives_before_the_next_is_sent() {
    let (heard, hear) = channel();
    let worker = Worker::start(&[backend(move |mut stream| {
        let head = read_head(&mut stream);
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        let mut piece = [0; 64];
        loop {
            let read = stream.read(&mut piece).unwrap();
            if read == 0 || piece[..read].ends_with(b"0\r\n\r\n") {
                let _ = stream.write_all(ok("").as_bytes());
                return;
            }
            heard.send(String::from_utf8(piece[..read].to_vec()).unwrap()).unwrap();
        }
    })]);
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in ["one", "two", "six"] {
        client.send(&format!("3\r\n{piece}\r\n"));
        let mut got = String::new();
        while !got.contains(piece) {
            got += &hear.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

#[test]
fn an_answer_before_the_end_of_the_upload_is_delivered() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        stream.read_exact(&mut [0; 100]).unwrap();
        stream.write_all(b"HTTP/1.1 413 Big\r\nContent-Length: 3\r\n\r\nbig").unwrap();
        // Reads no more, but is there.
        std::thread::park_timeout(Duration::from_secs(20));
    })]);
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 50000000\r\n\r\n");
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&[0; 65_536]).is_ok() {});
    let early = client.response();
    assert_eq!((early.status, early.text()), (413, "big"));
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
    with_client(&worker, async |mut sender| {
        let request = Request::post("http://a.test/").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        upload.send_data(vec![0; 60_000].into(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(text(response).await.0, "big");
    });
    eventually("nothing is active", || gauge(&worker.cell(0).active) == 0);
}

#[test]
fn an_http10_client_gets_no_chunks_and_the_end_of_the_connection() {
    let worker = Worker::start(&[answering(|head, _| {
        if head.starts_with("get /known") {
            return ok("known");
        }
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            .into()
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let whole = client.rest();
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "onetwo");
    // With its length it may stay.
    let mut client = worker.client();
    for _ in 0..2 {
        client.send("GET /known HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!(header(&response.head, "connection"), Some("keep-alive"));
        assert_eq!(response.text(), "known");
    }
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}
