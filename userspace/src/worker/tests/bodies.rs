use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;

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
fn a_sized_response_passes_whole_however_it_is_cut() {
    // Several sizes around those from which on pieces are not copied, or need more than one read.
    const SIZES: [usize; 7] = [1, 127, 16_383, 16_384, 65_536, 131_072, 400_000];
    // The last one's digits are not the shortest: the client gets them as they are.
    let head =
        |bytes: usize| format!("HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: \t{bytes:03} \r\n\r\n");
    let worker = Worker::start(&[backend(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        loop {
            let request = read_head(&mut stream);
            let Some((bytes, cut)) = request
                .strip_prefix("get /")
                .and_then(|rest| rest.split_once(' ')?.0.split_once('/'))
            else {
                return;
            };
            let (bytes, cut): (usize, usize) = (bytes.parse().unwrap(), cut.parse().unwrap());
            let mut all = head(bytes).into_bytes();
            all.extend_from_slice(&pattern(bytes));
            let (first, second) = all.split_at(cut.min(all.len()));
            stream.write_all(first).unwrap();
            // Two reads, mostly: whether they are makes no difference.
            std::thread::yield_now();
            stream.write_all(second).unwrap();
        }
    })]);
    let mut client = worker.client();
    let mut requests = 0;
    for bytes in SIZES {
        let length = head(bytes).len();
        for cut in [0, 1, 30, length - 3, length, length + 1, length + bytes - 1] {
            let response = client.get(&format!("/{bytes}/{cut}"));
            assert_eq!(response.status, 200);
            let told = header(&response.head, "content-length").unwrap().trim();
            assert_eq!(told, format!("{bytes:03}"), "cut at {cut}");
            assert_eq!(header(&response.head, "a"), Some("b"));
            assert!(response.body == pattern(bytes), "{bytes} cut at {cut}");
            requests += 1;
        }
    }
    let cell = worker.cell(0);
    assert_eq!(value(&cell.connections_created), 1, "each response left it usable");
    assert_eq!(value(&cell.connections_reused), requests - 1);
    let bytes = 7 * SIZES.iter().sum::<usize>() as u64;
    assert_eq!(value(&cell.response_body_bytes), bytes);
}

#[test]
fn what_follows_a_sized_response_reaches_nobody() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        let second = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        stream.write_all(format!("{}{second}", ok("good")).as_bytes()).unwrap();
        // Closed by the other side.
        while stream.read(&mut [0; 64]).is_ok_and(|count| count != 0) {}
    })]);
    let mut client = worker.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "good");
    }
    let cell = worker.cell(0);
    eventually("both are closed", || value(&cell.ends[Cause::Poison as usize]) == 2);
}

#[test]
fn what_came_of_a_sized_response_that_breaks_off_is_delivered() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let all = client.rest();
    assert!(all.ends_with("\r\n\r\nhalf"), "{all}");
    let failures = &worker.cell(0).failures[FailureClass::Reset as usize];
    eventually("it counts", || value(failures) == 1);
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
