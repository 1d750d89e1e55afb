use std::sync::{Arc, Barrier};
use std::time::Duration;

use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::health::Event;

use super::harness::*;
use super::{gauge, value};
use crate::config::model::{Host, Path};

#[test]
fn requests_of_one_client_share_a_connection_to_the_backend() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    let mut client = worker.client();
    for _ in 0..3 {
        let response = client.get("/path?query=1");
        assert_eq!(response.status, 200);
        let request = response.text();
        assert!(request.starts_with("get /path?query=1 http/1.1\r\n"), "{request}");
        assert_eq!(header(request, "host"), Some("a.test"));
        assert_eq!(header(request, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(header(request, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(request, "x-forwarded-host"), Some("a.test"));
    }
    let cell = worker.cell(0);
    assert_eq!(value(&cell.responses[1]), 3);
    assert_eq!((value(&cell.connections_created), value(&cell.connections_reused)), (1, 2));
    assert_eq!((gauge(&cell.idle), gauge(&cell.active)), (1, 0));
    assert_eq!(value(&worker.region.worker(0).active_requests), 0);
    assert_eq!(gauge(&worker.region.worker(0).connections), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let worker = Worker::start(&[answering(|head, _| ok(head.lines().next().unwrap()))]);
    let mut client = worker.client();
    let request = |path| format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(&(0..20).map(request).collect::<String>());
    for path in 0..20 {
        assert_eq!(client.response().text(), format!("get /{path} http/1.1"));
    }
}

#[test]
fn routes_decide_by_host_and_path() {
    let worker = Worker::start_with(&[answering(|_, _| ok("first"))], |model| {
        let route = &mut model.listeners[0].routes[0];
        route.host = Some(Host::Exact("a.test".into()));
        route.path = Path::Prefix("/v1".into());
    });
    assert_eq!(worker.get("/v1/x").text(), "first");
    let refused = worker.get("/v2");
    assert_eq!((refused.status, refused.text().split(':').next()), (404, Some("404 no_route")));
}

#[test]
fn what_is_no_proper_request_is_refused_with_a_reason() {
    let worker = Worker::start(&[answering(|_, _| ok(""))]);
    for (request, status, why) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"),
        ("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405, "CONNECT"),
    ] {
        let mut client = worker.client();
        client.send(request);
        let response = client.response();
        assert_eq!(response.status, status, "{request}");
        assert!(response.text().contains(why), "{}", response.text());
    }
    assert_eq!(worker.errors(ErrorClass::BadHost), 2);
}

#[test]
fn http_1_0_and_the_absolute_form_reach_the_backend_as_http_1_1() {
    let worker = Worker::start(&[answering(|head, _| ok(head))]);
    let mut client = worker.client();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let response = client.rest().to_ascii_lowercase();
    assert!(response.contains("get /old http/1.1\r\n"), "{response}");
    let mut client = worker.client();
    client.send("GET http://b.test/x?y HTTP/1.1\r\nHost: B.test:80\r\n\r\n");
    let response = client.response();
    assert!(response.text().starts_with("get /x?y http/1.1\r\n"), "{}", response.text());
    assert_eq!(header(response.text(), "host"), Some("b.test"));
}

#[test]
fn a_connection_that_the_backend_closes_leaves_the_pool_at_once() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        std::io::Write::write_all(&mut stream, ok("bye").as_bytes()).unwrap();
    })]);
    for request in 1..=3 {
        assert_eq!(worker.get("/").status, 200);
        let cell = worker.cell(0);
        eventually("the pool is empty", || gauge(&cell.idle) == 0);
        assert_eq!(value(&cell.connections_created), request);
        assert_eq!(value(&cell.connections_reused), 0);
    }
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0);
}

#[test]
fn the_pool_keeps_to_its_limits() {
    let start = |change: fn(&mut crate::config::model::Pool)| {
        Worker::start_with(&[answering(|_, _| ok(""))], |model| change(&mut model.services[0].pool))
    };
    let closed = |worker: &Worker, reason| value(&worker.cell(0).ends[reason as usize]);

    let worker = start(|pool| pool.max_requests = 2);
    let mut client = worker.client();
    for _ in 0..4 {
        client.get("/");
    }
    assert_eq!(closed(&worker, Cause::Requests), 2);

    let worker = start(|pool| pool.max_idle = 0);
    worker.get("/");
    assert_eq!(closed(&worker, Cause::PoolFull), 1);

    let worker = start(|pool| pool.idle = Duration::from_millis(1));
    worker.get("/");
    eventually("it was idle too long", || closed(&worker, Cause::Idle) == 1);

    let worker = start(|pool| pool.max_age = Duration::from_millis(1));
    worker.get("/");
    eventually("it grew too old", || closed(&worker, Cause::Age) == 1);

    let worker = start(|_| {});
    worker.get("/");
    worker.apply(0, Event::Drain);
    eventually("its backend takes no more work", || closed(&worker, Cause::BackendOut) == 1);
    assert_eq!(gauge(&worker.cell(0).idle), 0);
}

/// The promise: a load of many requests at a time does not make a connection for each of them.
#[test]
fn as_many_connections_are_kept_as_the_load_needs() {
    const AT_A_TIME: usize = 20;
    let all = Arc::new(Barrier::new(AT_A_TIME));
    let worker = Worker::start_with(
        &[answering(move |_, _| {
            all.wait();
            ok("")
        })],
        |model| model.services[0].pool.max_idle = 2,
    );
    let mut clients: Vec<Client> = (0..AT_A_TIME).map(|_| worker.client()).collect();
    for _ in 0..5 {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
    }
    assert_eq!(value(&worker.cell(0).connections_created), AT_A_TIME as u64);
    eventually("the pool shrinks when the load is gone", || gauge(&worker.cell(0).idle) == 0);
}
