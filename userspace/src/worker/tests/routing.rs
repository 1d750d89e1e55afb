//! What routes do with requests and responses, over real sockets.

use std::io::{Read, Write};

use steerage_common::error::ErrorClass;

use super::harness::*;
use super::value;

/// A worker whose only route has these keys, and a backend that answers with the request's head.
fn worker(keys: &str) -> Worker {
    let echo = answering(|head, _| {
        format!("HTTP/1.1 200 OK\r\nX-Server: b\r\nContent-Length: {}\r\n\r\n{head}", head.len())
    });
    routed(keys, &[echo])
}

/// A worker whose only route has these keys, and these backends.
fn routed(keys: &str, backends: &[std::net::SocketAddr]) -> Worker {
    let route = format!("[[listener.route]]\nservice = 'a'\n{keys}\n");
    Worker::configured(&route, backends, |_| {})
}

/// A worker whose only route has these keys, and no service.
fn routed_to(keys: &str) -> Worker {
    Worker::configured(&format!("[[listener.route]]\n{keys}\n"), &[nobody()], |_| {})
}

/// A request of three lines on a connection of its own.
fn ask(worker: &Worker, line: &str) -> Response {
    let mut client = worker.client();
    client.send(&format!("{line} HTTP/1.1\r\nHost: a.test:8080\r\nX-Debug: 1\r\n\r\n"));
    client.response()
}

#[test]
fn the_backend_gets_the_rewritten_request() {
    let worker = worker(
        "path = '/v1'\nrewrite = { prefix = '/api' }\nhost_header = 'name:inner.test'\n\
         request_headers = { set = { X-Env = 'prod' }, add = { X-Debug = '2' } }\n\
         response_headers = { remove = ['x-server'], set = { X-Frame-Options = 'DENY' } }",
    );
    let response = ask(&worker, "GET /v1/x?y=z");
    let seen = response.text();
    assert!(seen.starts_with("get /api/x?y=z http/1.1\r\n"), "{seen}");
    assert_eq!(header(seen, "host"), Some("inner.test"));
    assert_eq!(header(seen, "x-forwarded-host"), Some("a.test:8080"));
    assert_eq!(header(seen, "x-env"), Some("prod"));
    assert!(seen.contains("x-debug: 1\r\n") && seen.contains("x-debug: 2\r\n"), "{seen}");
    assert_eq!(header(&response.head, "x-server"), None);
    assert_eq!(header(&response.head, "x-frame-options"), Some("deny"));
}

/// A worker whose listener has these keys and whose only backend is `backend`.
fn marked(keys: &str, backend: std::net::SocketAddr) -> Worker {
    let keys = format!("forwarding = {{ {keys} }}\n[[listener.route]]\nservice = 'a'\n");
    Worker::configured(&keys, &[backend], |_| {})
}

#[test]
fn a_request_that_comes_back_is_a_loop() {
    // The backend passes on what it gets, to wherever it is told.
    let next = std::sync::Arc::new(std::sync::Mutex::new(None::<std::net::SocketAddr>));
    let ring = next.clone();
    let relay = backend(move |mut stream| {
        let head = read_head(&mut stream);
        let mut onward = std::net::TcpStream::connect(ring.lock().unwrap().unwrap()).unwrap();
        // Heads are read in lower case.
        let head = head.replacen("get / http", "GET / HTTP", 1);
        onward.write_all(head.as_bytes()).unwrap();
        let head = read_head(&mut onward).replacen("http", "HTTP", 1);
        let body = read_body(&mut onward, &head);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    });
    // Two in a row are no loop, though their configurations are the same but for the name.
    let last = marked("via = 'inner'", answering(|head, _| ok(head)));
    let worker = marked("", relay);
    *next.lock().unwrap() = Some(last.address);
    let seen = worker.get("/");
    let via: Vec<&str> =
        seen.text().lines().filter_map(|line| line.strip_prefix("via: ")).collect();
    assert!(via.len() == 2 && via[0].starts_with("1.1 steerage-"), "{via:?}");
    assert_eq!(via[1], "1.1 inner");
    // One after itself is.
    *next.lock().unwrap() = Some(worker.address);
    let response = worker.get("/");
    assert_eq!((response.status, response.text()), (508, "508 loop: the request runs in a loop\n"));
    assert_eq!(worker.errors(ErrorClass::Loop), 1);
}

#[test]
fn a_request_has_an_id_that_the_client_may_learn() {
    let echo = answering(|head, _| ok(head));
    let worker = marked("request_id_response = true", echo);
    let first = worker.get("/");
    let id = header(&first.head, "x-request-id").unwrap();
    assert_eq!(header(first.text(), "x-request-id"), Some(id));
    assert_ne!(header(&worker.get("/").head, "x-request-id"), Some(id));
    let broken = marked("request_id_response = true", nobody());
    let response = broken.get("/");
    assert_eq!(response.status, 502);
    assert!(header(&response.head, "x-request-id").is_some());
    let plain = marked("request_id = 'off'", echo);
    assert_eq!(header(plain.get("/").text(), "x-request-id"), None);
}

#[test]
fn what_strangers_say_of_others_reaches_no_backend() {
    let keys = "forwarded = true, traceparent = 'begin'";
    let worker = marked(keys, answering(|head, _| ok(head)));
    let mut client = worker.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\n\
         X-Request-Id: mine\r\nVia: 1.1 x\r\nConnection: via, x-forwarded-for, forwarded\r\n\r\n",
    );
    let response = client.response();
    let seen = response.text();
    assert!(!seen.contains("10.0.0.1") && !seen.contains("mine"), "{seen}");
    assert_eq!(header(seen, "forwarded"), Some("for=127.0.0.1;host=a.test;proto=http"));
    assert_eq!(header(seen, "via"), Some("1.1 x"), "the hops before are kept");
    assert!(header(seen, "traceparent").is_some_and(|trace| trace.ends_with("-03")));
}

#[test]
fn the_host_can_be_the_backends_address() {
    let worker = worker("host_header = 'backend'");
    let address = worker.model.services[0].backends[0].address.to_string();
    assert_eq!(header(ask(&worker, "GET /").text(), "host"), Some(address.as_str()));
}

#[test]
fn a_redirect_needs_no_backend_and_keeps_the_connection() {
    let worker = routed_to(
        "redirect = { to = 'https://${host}/new${uri}', status = 308 }\n\
         response_headers = { set = { Cache-Control = 'no-store' } }",
    );
    let mut client = worker.client();
    for _ in 0..2 {
        client.send("GET /a?b HTTP/1.1\r\nHost: a.test:8080\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text()), (308, ""));
        assert_eq!(header(&response.head, "location"), Some("https://a.test/new/a?b"));
        assert_eq!(header(&response.head, "cache-control"), Some("no-store"));
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    let rest = client.rest();
    assert!(rest.starts_with("HTTP/1.0 400 ") || rest.starts_with("HTTP/1.1 400 "), "{rest}");
    assert_eq!(worker.errors(ErrorClass::BadHost), 1);
}

#[test]
fn an_answer_needs_no_backend_and_is_the_same_for_all() {
    let worker = routed_to(
        "answer = { status = 403, body = \"no\\n\", type = 'text/html' }\n\
         response_headers = { set = { Cache-Control = 'no-store' } }",
    );
    let mut client = worker.client();
    for _ in 0..2 {
        client.send("GET /a?b HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text()), (403, "no\n"));
        assert_eq!(header(&response.head, "content-type"), Some("text/html"));
        assert_eq!(header(&response.head, "cache-control"), Some("no-store"));
        assert_eq!(header(&response.head, "x-steerage-error"), None);
    }
    let worker = routed_to("answer = { status = 204 }");
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text()), (204, ""));
    assert_eq!(header(&response.head, "content-type"), None);
}

#[test]
fn a_redirected_upload_hears_of_it() {
    let worker = routed_to("redirect = { to = '/elsewhere' }");
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10000000\r\n\r\n");
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&vec![b'x'; 10_000_000]));
    let response = client.response();
    assert_eq!(response.status, 307);
    assert_eq!(header(&response.head, "location"), Some("http://a.test/elsewhere"));
    let _ = sending.join().unwrap();
}

#[test]
fn a_body_that_is_too_long_by_its_length_reaches_no_backend() {
    let worker = worker("max_body = '4B'");
    let mut client = worker.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfour");
    assert_eq!(client.response().status, 200);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 413, "and no 100 before it");
    assert_eq!(response.text(), "413 body_too_large: the request body is too large\n");
    let cell = worker.cell(0);
    assert_eq!((value(&cell.responses[1]), value(&cell.connections_reused)), (1, 0));
}

#[test]
fn a_chunked_body_is_broken_off_where_it_is_too_long() {
    // The backend waits for the whole body, as most do.
    let worker = worker("max_body = '1KiB'");
    let mut client = worker.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&format!("400\r\n{}\r\n", "x".repeat(1024)));
    client.send("1\r\nx\r\n");
    let response = client.response();
    assert_eq!(response.status, 413);
    assert_eq!(worker.errors(ErrorClass::BodyTooLarge), 1);
    let cell = worker.cell(0);
    assert_eq!(cell.failures.iter().map(value).sum::<u64>(), 0, "not the backend's fault");
    assert_eq!(value(&cell.responses[1]), 0);
    // Exactly the limit passes.
    let mut client = worker.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&format!("400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024)));
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_body_that_is_too_long_after_the_response_began_breaks_it_off() {
    let early = backend(|mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun";
        stream.write_all(head.as_bytes()).unwrap();
        let mut sink = [0; 4096];
        while matches!(stream.read(&mut sink), Ok(1..)) {}
    });
    let worker = routed("max_body = '1KiB'", &[early]);
    let mut client = worker.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(read_head(&mut client.stream).starts_with("http/1.1 200 "));
    client.send(&format!("401\r\n{}\r\n", "x".repeat(1025)));
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(rest.len() < 100 && b"begun".starts_with(&rest), "{rest:?}");
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0);
}
