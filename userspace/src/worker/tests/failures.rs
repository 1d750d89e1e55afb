use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use steerage_common::abi::FailureClass;
use steerage_common::error::ErrorClass;
use steerage_common::health::{Event, State};
use steerage_common::replay::Rule;

use super::harness::*;
use super::{gauge, value};
use crate::config::model::ErrorPage;

fn failures(worker: &Worker, backend: usize, class: FailureClass) -> u64 {
    value(&worker.cell(backend).failures[class as usize])
}

fn all_failures(worker: &Worker, backend: usize) -> u64 {
    worker.cell(backend).failures.iter().map(value).sum()
}

#[test]
fn a_connection_that_fails_is_tried_elsewhere_until_the_breaker_knows() {
    let worker = Worker::start(&[nobody(), answering(|_, _| ok("here"))]);
    for _ in 0..20 {
        let response = worker.get("/");
        assert_eq!((response.status, response.text()), (200, "here"));
    }
    assert_eq!(failures(&worker, 0, FailureClass::Connect), 5, "then it is ejected");
    assert_eq!(value(&worker.cell(0).replays[Rule::Connect as usize]), 5);
    assert_eq!(value(&worker.cell(0).ejections), 1);
    assert_eq!(worker.region.word(worker.tenants[0].slot()).state(), State::Ejected);
}

#[test]
fn errors_look_as_the_listener_says() {
    let worker = Worker::start_with(&[nobody()], |model| {
        let listener = &mut model.listeners[0];
        listener.error_header = false;
        listener.error_pages.push(ErrorPage {
            status: 502,
            content_type: "text/html".into(),
            body: "<p>sorry".into(),
        });
    });
    let response = worker.get("/");
    assert_eq!((response.status, response.text()), (502, "<p>sorry"));
    assert_eq!(header(&response.head, "content-type"), Some("text/html"));
    assert_eq!(header(&response.head, "x-steerage-error"), None);
    let mut client = worker.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let head = client.rest().to_ascii_lowercase();
    assert!(head.ends_with("\r\n\r\n") && head.contains("content-length: 8\r\n"), "{head}");
}

#[test]
fn without_a_backend_the_reply_says_so() {
    let worker = Worker::start(&[nobody(), nobody()]);
    let response = worker.get("/");
    assert_eq!(
        (response.status, response.text()),
        (502, "502 connect: no connection to the backend\n")
    );
    assert_eq!(header(&response.head, "x-steerage-error"), Some("connect"));
    worker.apply(0, Event::Maintain);
    worker.apply(1, Event::Maintain);
    let response = worker.get("/");
    assert_eq!(response.status, 503);
    assert_eq!(response.text(), "503 no_backend: no backend takes requests\n");
    let counts = (worker.errors(ErrorClass::NoBackend), worker.errors(ErrorClass::Connect));
    assert_eq!(counts, (1, 1));
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_given_up() {
    let (closed, is_closed) = mpsc::channel();
    let worker = Worker::start_with(
        &[backend(move |mut stream| {
            read_head(&mut stream);
            // Nothing more comes: the proxy closes its connection.
            closed.send(stream.read(&mut [0])).unwrap();
        })],
        |model| {
            model.listeners[0].routes[0].timeouts.first_byte = Duration::from_millis(50);
        },
    );
    let response = worker.get("/");
    assert_eq!(
        (response.status, response.text().split(':').next()),
        (504, Some("504 first_byte_timeout"))
    );
    assert!(matches!(is_closed.recv().unwrap(), Ok(0) | Err(_)));
    assert_eq!(failures(&worker, 0, FailureClass::FirstByteTimeout), 1);
}

#[test]
fn a_client_that_stalls_within_its_body_is_to_blame_itself() {
    let worker = Worker::start_with(&[answering(|_, _| ok(""))], |model| {
        model.listeners[0].routes[0].timeouts.first_byte = Duration::from_millis(50);
    });
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf ");
    assert_eq!(client.response().status, 408);
    assert_eq!(all_failures(&worker, 0), 0);
}

#[test]
fn what_is_not_http_or_breaks_off_is_a_bad_gateway() {
    for (answer, class) in [
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", FailureClass::Protocol),
        ("", FailureClass::Reset),
        ("HTTP/1.1 200 OK\r\nContent-", FailureClass::Reset),
    ] {
        let worker = Worker::start(&[backend(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        })]);
        let response = worker.get("/");
        assert_eq!(response.status, 502, "{answer:?}");
        assert_eq!(header(&response.head, "x-steerage-error"), Some(class.name()));
        assert_eq!(failures(&worker, 0, class), 1);
    }
}

#[test]
fn a_response_that_breaks_off_ends_the_clients_connection_too() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        stream.write_all(b"4\r\nhalf\r\n").unwrap();
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let all = client.rest();
    assert!(all.ends_with("4\r\nhalf\r\n"), "no end of the body is pretended: {all}");
    eventually("it counts", || failures(&worker, 0, FailureClass::Reset) == 1);
}

#[test]
fn a_gateway_failure_of_the_backend_is_passed_on_and_counted() {
    let failing = answering(|_, _| {
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy".into()
    });
    let worker = Worker::start(&[failing, answering(|_, _| ok("fine"))]);
    let statuses: Vec<u16> = (0..20).map(|_| worker.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 5, "{statuses:?}");
    assert_eq!(failures(&worker, 0, FailureClass::GatewayStatus), 5);
    assert!(!worker.region.accepts_new(worker.tenants[0].slot()));
    assert_eq!(worker.errors(ErrorClass::Connect), 0, "none of them is ours");
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let (heard, request) = mpsc::channel();
    let (closed, is_closed) = mpsc::channel();
    let worker = Worker::start(&[backend(move |mut stream| {
        read_head(&mut stream);
        heard.send(()).unwrap();
        closed.send(stream.read(&mut [0])).unwrap();
    })]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    request.recv().unwrap();
    assert_eq!(gauge(&worker.cell(0).active), 1);
    drop(client);
    assert!(matches!(is_closed.recv().unwrap(), Ok(0) | Err(_)));
    eventually("nothing is in flight", || gauge(&worker.cell(0).active) == 0);
    assert_eq!(all_failures(&worker, 0), 0);
    assert_eq!(value(&worker.region.worker(0).active_requests), 0);
}

#[test]
fn a_client_that_leaves_within_its_body_harms_nobody() {
    let (closed, is_closed) = mpsc::channel();
    let worker = Worker::start(&[backend(move |mut stream| {
        read_head(&mut stream);
        let mut body = Vec::new();
        let end = stream.read_to_end(&mut body).map(|_| body.len());
        closed.send(end.unwrap_or(0)).unwrap();
    })]);
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf ");
    drop(client);
    assert!(is_closed.recv().unwrap() < 10);
    eventually("nothing is in flight", || gauge(&worker.cell(0).active) == 0);
    assert_eq!(all_failures(&worker, 0), 0);
}
