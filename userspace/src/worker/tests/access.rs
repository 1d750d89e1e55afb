//! Every request has one line in the access log, whatever becomes of it, and the line is true.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Request;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use serde_json::{Map, Value};
use steerage_common::cause::Cause;
use steerage_common::latency::Timer;

use super::harness::*;
use super::http2::{text, with_client};
use crate::config::model::{AccessLog, Destination, Format, Model};

const PATIENCE: Duration = Duration::from_secs(20);

/// A line.
type Line = Map<String, Value>;

/// A worker that logs.
struct Logged {
    worker: Worker,
    /// Lines that came and were not asked for yet.
    lines: RefCell<Vec<Line>>,
}

impl Logged {
    fn start(backends: &[SocketAddr]) -> Self {
        Self::configured("[[listener.route]]\nservice = 'a'\n", backends, |_| {})
    }

    fn configured(keys: &str, backends: &[SocketAddr], change: impl FnOnce(&mut Model)) -> Self {
        Self::of(Worker::configured(keys, backends, |model| {
            model.global.access_log = everything();
            change(model);
        }))
    }

    fn of(worker: Worker) -> Self {
        Self { worker, lines: RefCell::default() }
    }

    /// The next line.
    fn line(&self) -> Line {
        let end = Instant::now() + PATIENCE;
        while self.lines.borrow().is_empty() {
            assert!(Instant::now() < end, "no line came");
            self.receive(100_000_000);
        }
        self.lines.borrow_mut().remove(0)
    }

    fn receive(&self, nanoseconds: i64) {
        let mut fds = [PollFd::new(&self.worker.log, PollFlags::IN)];
        let patience = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        if poll(&mut fds, Some(&patience)).unwrap() == 0 {
            return;
        }
        let mut batch = vec![0; 256 * 1024];
        let (_, length) = recv(&self.worker.log, &mut batch, RecvFlags::DONTWAIT).unwrap();
        let text = std::str::from_utf8(&batch[..length]).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        self.lines.borrow_mut().extend(lines);
    }

    /// Ends the worker; no line may have been left.
    fn end(mut self) {
        self.worker.order_drain();
        self.worker.join();
        self.receive(0);
        assert!(self.lines.borrow().is_empty(), "a line too many: {:?}", self.lines);
    }
}

/// A log with a line for all.
fn everything() -> AccessLog {
    AccessLog { path: Destination::Output, format: Format::Json, sample: 1.0 }
}

fn assert_is(line: &Line, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(line.get(key).unwrap_or(&Value::Null), value, "{key} of {line:?}");
    }
}

fn number(line: &Line, key: &str) -> f64 {
    line.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {key} in {line:?}"))
}

#[test]
fn a_connection_that_is_passed_on_has_a_line() {
    let backend = backend(|mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
    let start = |backends: &[SocketAddr]| {
        Logged::of(Worker::passing("tcp", "service = 'a'", backends, |model| {
            model.global.access_log = everything();
        }))
    };
    let logged = start(&[backend]);
    let mut client = logged.worker.client();
    client.send("hello");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "hello");
    let line = logged.line();
    assert_is(
        &line,
        &serde_json::json!({
            "listener": "web", "client": "127.0.0.1", "protocol": "tcp", "request_bytes": 5,
            "response_bytes": 5, "service": "a", "backend": backend.to_string(), "attempts": 1,
            "cause": "eof", "error": null, "status": null, "method": null,
        }),
    );
    assert!(number(&line, "connect_ms") <= number(&line, "total_ms"));
    logged.end();
    let nobody = start(&["127.0.0.1:1".parse().unwrap()]);
    let mut client = nobody.worker.client();
    assert!(client.stream.read(&mut [0]).is_err(), "it is reset");
    let line = nobody.line();
    assert_is(&line, &serde_json::json!({ "error": "connect", "cause": "not_taken" }));
    nobody.end();
}

#[test]
fn a_served_request_says_all_there_is() {
    let backend = answering(|_, body| ok(std::str::from_utf8(body).unwrap()));
    let logged = Logged::start(&[backend]);
    let mut client = logged.worker.client();
    client.send(
        "POST /x?y=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: \"me\"\r\nReferer: http://b/\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         Content-Length: 5\r\n\r\nhello",
    );
    assert_eq!(client.response().text(), "hello");
    let line = logged.line();
    assert_is(
        &line,
        &serde_json::json!({
            "listener": "web", "client": "127.0.0.1", "method": "POST", "host": "a.test",
            "client_port": client.stream.local_addr().unwrap().port(),
            "target": "/x?y=1", "protocol": "HTTP/1.1", "status": 200, "request_bytes": 5,
            "response_bytes": 5, "service": "a", "backend": backend.to_string(), "attempts": 1,
            "reused": false, "cause": "done", "error": null, "queue_ms": null, "replay": null,
            "user_agent": "\"me\"", "referer": "http://b/", "tls_version": null,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }),
    );
    assert_eq!(line["request_id"].as_str().unwrap().len(), 36);
    let parts = number(&line, "connect_ms") + number(&line, "first_byte_ms");
    assert!(parts > 0.0 && parts <= number(&line, "total_ms"), "{line:?}");
    // The next one on the same connection finds the backend's open.
    assert_eq!(client.get("/again").status, 200);
    let expected = serde_json::json!({ "reused": true, "connect_ms": null, "target": "/again" });
    assert_is(&logged.line(), &expected);
    drop(client);
    logged.end();
}

#[test]
fn own_answers_name_their_class() {
    let keys = "[[listener.route]]\npath = '/moved'\nredirect = { to = '/there', status = 302 }\n\
                [[listener.route]]\npath = '/app'\nservice = 'a'\n";
    let dead = [nobody(), nobody()];
    let logged = Logged::configured(keys, &dead, |_| {});
    let worker = &logged.worker;
    assert_eq!(worker.get("/none").status, 404);
    assert_is(
        &logged.line(),
        &serde_json::json!({
            "status": 404, "error": "no_route", "cause": "done", "service": null, "attempts": 0
        }),
    );
    assert_eq!(worker.get("/moved").status, 302);
    assert_is(
        &logged.line(),
        &serde_json::json!({ "status": 302, "error": null, "cause": "done", "backend": null }),
    );
    assert_eq!(worker.get("/app").status, 502);
    let line = logged.line();
    assert_is(
        &line,
        &serde_json::json!({
            "status": 502, "error": "connect", "cause": "done", "attempts": 2,
            "replay": "connect", "service": "a"
        }),
    );
    assert!(dead.iter().any(|backend| line["backend"] == backend.to_string()));
    number(&line, "connect_ms");
    // HEAD has no body, and yet has gone out whole.
    let mut client = worker.client();
    client.send("HEAD /none HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert!(client.rest().starts_with("HTTP/1.1 404 "));
    assert_is(&logged.line(), &serde_json::json!({ "status": 404, "cause": "done" }));
    logged.end();
}

#[test]
fn what_never_was_a_request_is_told_too() {
    let logged = Logged::configured("[[listener.route]]\nservice = 'a'\n", &[nobody()], |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(200);
        model.listeners[0].timeouts.body_grace = Duration::from_millis(200);
    });
    for (said, expected) in [
        (
            "nonsense\r\n\r\n",
            serde_json::json!({ "status": 400, "error": "malformed_head", "cause": "http_protocol" }),
        ),
        (
            "GET / HTTP/1.1\r\n",
            serde_json::json!({ "status": 408, "error": "header_timeout", "cause": "header_timeout" }),
        ),
    ] {
        let mut client = logged.worker.client();
        client.send(said);
        client.rest();
        let line = logged.line();
        assert_is(&line, &expected);
        assert_is(&line, &serde_json::json!({ "client": "127.0.0.1", "method": null }));
    }
    logged.end();
}

#[test]
fn whoever_does_not_wait_has_hung_up() {
    let (asked, was_asked) = mpsc::channel();
    let logged = Logged::start(&[backend(move |mut stream| {
        read_head(&mut stream);
        asked.send(stream).unwrap();
    })]);
    let mut client = logged.worker.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let backend = was_asked.recv().unwrap();
    drop(client);
    let expected = serde_json::json!({
        "status": 499, "cause": "hung_up", "attempts": 1, "error": null, "first_byte_ms": null
    });
    assert_is(&logged.line(), &expected);
    drop(backend);
    logged.end();
}

#[test]
fn a_response_that_breaks_off_says_who_did_it() {
    let logged = Logged::configured(
        "[[listener.route]]\nservice = 'a'\n",
        &[backend(|mut stream| {
            let head = read_head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n12345").unwrap();
            if head.starts_with("get /stalls ") {
                let _ = stream.read(&mut [0]);
            } else if head.starts_with("get /much ") {
                while stream.write_all(&[b'x'; 65536]).is_ok() {}
            }
        })],
        |model| {
            model.listeners[0].timeouts.stall = Duration::from_millis(300);
            model.listeners[0].routes[0].timeouts.stall = Duration::from_millis(300);
        },
    );
    for (path, cause) in [("/broken", "backend_broke"), ("/stalls", "backend_stall")] {
        let mut client = logged.worker.client();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let _ = client.stream.read_to_end(&mut Vec::new());
        let expected = serde_json::json!({ "status": 200, "cause": cause, "response_bytes": 5 });
        assert_is(&logged.line(), &expected);
    }
    // A client that takes nothing is cut off for that.
    let mut client = logged.worker.client();
    client.send("GET /much HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let line = logged.line();
    assert_is(&line, &serde_json::json!({ "status": 200, "cause": "response_stall" }));
    drop(client);
    logged.end();
}

#[test]
fn an_upload_that_stops_is_timed_out_by_name() {
    let logged = Logged::configured(
        "[[listener.route]]\nservice = 'a'\n",
        &[answering(|_, _| ok("whole"))],
        |model| model.listeners[0].timeouts.body_grace = Duration::from_millis(200),
    );
    let mut client = logged.worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\n12345");
    assert!(client.rest().starts_with("HTTP/1.1 408 "));
    let expected = serde_json::json!({
        "status": 408, "error": "body_timeout", "cause": "body_timeout", "request_bytes": 5
    });
    assert_is(&logged.line(), &expected);
    logged.end();
}

#[test]
fn streams_have_lines_of_their_own() {
    let (asked, was_asked) = mpsc::channel();
    let logged = Logged::start(&[backend(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() || head.starts_with("get /wait ") {
                asked.send(()).unwrap();
                let _ = stream.read(&mut [0]);
                return;
            }
            let body = read_body(&mut stream, &head);
            stream.write_all(ok(std::str::from_utf8(&body).unwrap()).as_bytes()).unwrap();
        }
    })]);
    with_client(&logged.worker, async |mut sender| {
        let request = Request::post("http://a.test/up?x").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(text(response.await.unwrap()).await.0, "hello");
        assert_is(
            &logged.line(),
            &serde_json::json!({
                "protocol": "HTTP/2", "method": "POST", "host": "a.test", "target": "/up?x",
                "status": 200, "request_bytes": 5, "response_bytes": 5, "cause": "done"
            }),
        );
        let request = Request::get("http://a.test/wait").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        while was_asked.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        upload.send_reset(Reason::CANCEL);
        drop(response);
        // The connection's own task sends it.
        while logged.lines.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            logged.receive(0);
        }
        assert_is(
            &logged.line(),
            &serde_json::json!({ "status": 499, "cause": "reset", "target": "/wait" }),
        );
    });
    logged.end();
}

#[test]
fn a_tunnel_s_line_comes_at_its_end_with_its_bytes() {
    let logged = Logged::start(&[backend(|mut stream| {
        read_head(&mut stream);
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"welcome").unwrap();
        let mut theirs = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut theirs, &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    })]);
    let open = || {
        let mut client = logged.worker.client();
        client.send("GET /t HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
        client.stream.read_exact(&mut [0; 7]).unwrap();
        client
    };
    let mut client = open();
    client.send("hello");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "hello");
    let expected = serde_json::json!({
        "status": 101, "request_bytes": 5, "response_bytes": 12, "cause": "done"
    });
    assert_is(&logged.line(), &expected);
    let client = open();
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_is(&logged.line(), &serde_json::json!({ "status": 101, "cause": "reset" }));
    logged.end();
}

#[test]
fn whoever_stands_in_line_is_told_how_long() {
    let (asked, was_asked) = mpsc::channel();
    let logged = Logged::configured(
        "[[listener.route]]\nservice = 'a'\n",
        &[backend(move |mut stream| {
            let head = read_head(&mut stream);
            let (go, may_go) = mpsc::channel();
            asked.send((head, go)).unwrap();
            if may_go.recv().is_ok() {
                stream.write_all(ok("x").as_bytes()).unwrap();
            }
        })],
        |model| model.services[0].backends[0].max_requests = Some(1),
    );
    let mut first = logged.worker.client();
    first.send("GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let (_, go) = was_asked.recv().unwrap();
    let mut second = logged.worker.client();
    second.send("GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n");
    // Who comes later is answered, so the second one stands in line.
    let mut third = logged.worker.client();
    third.send("nonsense\r\n\r\n");
    assert!(third.rest().starts_with("HTTP/1.1 400 "));
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    let (_, go) = was_asked.recv().unwrap();
    go.send(()).unwrap();
    assert_eq!(second.response().status, 200);
    let lines = [logged.line(), logged.line(), logged.line()];
    let of = |path: &str| {
        lines.iter().find(|line| line.get("target").is_some_and(|of| of == path)).unwrap()
    };
    assert_is(of("/first"), &serde_json::json!({ "queue_ms": null }));
    assert!(number(of("/second"), "queue_ms") >= 0.0);
    // The figures have the same: one stood in line, each made a connection, and both were answered.
    eventually("both to be timed", || logged.worker.times(0)[Timer::Total as usize].0 == 2);
    let [queue, connect, first_byte, total] = logged.worker.times(0);
    assert_eq!((queue.0, connect.0, first_byte.0), (1, 2, 2));
    assert!(total.1 >= first_byte.1 + queue.1, "{total:?} of {first_byte:?} and {queue:?}");
}

#[test]
fn a_listener_can_be_left_out_and_a_format_change_while_serving() {
    let mut logged = Logged::start(&[answering(|_, _| ok("x"))]);
    assert_eq!(logged.worker.get("/one").status, 200);
    assert_eq!(logged.line()["target"], "/one");
    let (mut model, tenants) = (logged.worker.model.clone(), logged.worker.tenants.clone());
    model.listeners[0].access_log = false;
    logged.worker.take(model.clone(), tenants.clone());
    assert_eq!(logged.worker.get("/two").status, 200);
    model.listeners[0].access_log = true;
    model.global.access_log.format = Format::parse("{\"said\": \"$request $status\"}").unwrap();
    logged.worker.take(model, tenants);
    assert_eq!(logged.worker.get("/three").status, 200);
    assert_eq!(logged.line()["said"], "GET /three HTTP/1.1 200");
    let line = logged.worker.region.worker(0);
    eventually("lines are counted", || super::value(&line.log_lines) == 2);
    assert_eq!(super::value(&line.log_dropped), 0);
    logged.end();
}

#[test]
fn drain_s_deadline_is_named() {
    let (asked, was_asked) = mpsc::channel();
    let mut logged = Logged::configured(
        "[[listener.route]]\nservice = 'a'\n",
        &[backend(move |mut stream| {
            read_head(&mut stream);
            asked.send(stream).unwrap();
        })],
        |model| model.global.drain = Duration::from_millis(100),
    );
    let mut client = logged.worker.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let backend = was_asked.recv().unwrap();
    logged.worker.order_drain();
    assert_is(&logged.line(), &serde_json::json!({ "status": 499, "cause": "drained" }));
    drop((client, backend));
    logged.worker.join();
    assert_eq!(logged.worker.ends(Cause::Drained), 1);
}

#[test]
fn lines_that_nobody_takes_hold_no_request_up() {
    let logged = Logged::start(&[answering(|_, _| ok("x"))]);
    let mut client = logged.worker.client();
    let long = "x".repeat(4000);
    let line = logged.worker.region.worker(0);
    let mut requests = 0;
    while super::value(&line.log_dropped) == 0 {
        for _ in 0..100 {
            client.send(&format!("GET /{long} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
            assert_eq!(client.response().status, 200);
        }
        requests += 100;
        assert!(requests < 20_000, "nothing is ever dropped");
    }
}
