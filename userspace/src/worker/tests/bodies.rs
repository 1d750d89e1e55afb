use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use super::harness::*;
use super::value;

const LARGE: usize = 8 << 20;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 509) as u8).collect()
}

/// Length and a checksum that depends on the order.
fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
    format!("{}:{sum}", bytes.len())
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in bytes.chunks(70_001) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

#[test]
fn large_uploads_pass_whole_with_a_length_and_in_chunks() {
    let worker = Worker::start(&[answering(|_, body| ok(&digest(body)))]);
    let bytes = pattern(LARGE);
    let mut client = worker.client();
    client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    client.stream.write_all(&bytes).unwrap();
    assert_eq!(client.response().text(), digest(&bytes));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.stream.write_all(&chunked(&bytes)).unwrap();
    assert_eq!(client.response().text(), digest(&bytes));
    assert_eq!(value(&worker.cell(0).request_body_bytes), 2 * LARGE as u64);
    assert_eq!(value(&worker.cell(0).connections_reused), 1);
}

#[test]
fn large_downloads_pass_whole_with_a_length_and_in_chunks() {
    let worker = Worker::start(&[backend(|mut stream| {
        let bytes = pattern(LARGE);
        loop {
            let head = read_head(&mut stream);
            if head.starts_with("get /length") {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
            } else if head.starts_with("get /chunks") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
                stream.write_all(&chunked(&bytes)).unwrap();
            } else {
                return;
            }
        }
    })]);
    let mut client = worker.client();
    assert!(client.get("/length").body == pattern(LARGE));
    assert!(client.get("/chunks").body == pattern(LARGE));
    assert_eq!(value(&worker.cell(0).response_body_bytes), 2 * LARGE as u64);
}

#[test]
fn chunks_pass_as_they_come() {
    let (send, next) = std::sync::mpsc::channel::<()>();
    let next = std::sync::Mutex::new(next);
    let worker = Worker::start(&[backend(move |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..3 {
            stream.write_all(b"5\r\nevent\r\n").unwrap();
            // The next one comes only when the client has had this one.
            next.lock().unwrap().recv().unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    read_head(&mut client.stream);
    for _ in 0..3 {
        let mut chunk = [0; 10];
        client.stream.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk, b"5\r\nevent\r\n");
        send.send(()).unwrap();
    }
}

#[test]
fn trailers_pass_to_whoever_asks_for_them() {
    let worker = Worker::start(&[answering(|head, _| {
        assert_eq!(header(head, "te"), Some("trailers"));
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n"
            .into()
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    assert_eq!(client.response().text(), "hix-sum: 42");
}

#[test]
fn a_backend_that_reads_nothing_holds_the_client_back() {
    let stuck = backend(|mut stream| {
        read_head(&mut stream);
        std::thread::park();
    });
    // As nothing is read from the client either, its leaving is not seen.
    let worker = Worker::start_with(&[stuck], |model| {
        model.global.drain = Duration::ZERO;
        model.listeners[0].routes[0].max_body = None;
    });
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n");
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let chunk = pattern(1 << 20);
    let refused = (0..1024).find_map(|taken| {
        let error = client.stream.write_all(&chunk).err()?;
        Some((taken, error.kind()))
    });
    let (taken, kind) = refused.unwrap();
    assert_eq!(kind, ErrorKind::WouldBlock);
    // What the kernel's buffers of four sockets hold at most, and hyper's.
    assert!(taken < 64, "{taken} MiB");
}

#[test]
fn an_answer_before_the_end_of_the_body_reaches_the_client() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        let answer = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 8\r\n\r\ntoo much";
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut sink = [0; 4096];
        while matches!(stream.read(&mut sink), Ok(1..)) {}
    })]);
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n");
    // The other end may stop taking bytes at any time now.
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let chunk = pattern(1 << 20);
        (0..64).all(|_| sender.write_all(&chunk).is_ok())
    });
    let response = client.response();
    assert_eq!((response.status, response.text()), (413, "too much"));
    sending.join().unwrap();
}

#[test]
fn head_and_empty_responses_leave_the_connection_usable() {
    let worker = Worker::start(&[answering(|head, _| {
        if head.starts_with("head") {
            "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".into()
        } else {
            "HTTP/1.1 204 No Content\r\n\r\n".into()
        }
    })]);
    let mut client = worker.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = read_head(&mut client.stream);
        assert_eq!(header(&head, "content-length"), Some("1234"));
        assert_eq!(client.get("/").status, 204);
    }
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}
