//! Requests whose backend connection is lost: which are sent again, and which must not be.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::SockRef;
use std::time::Duration;
use steerage_common::abi::FailureClass;
use steerage_common::error::ErrorClass;
use steerage_common::replay::{Refusal, Rule};

use super::harness::*;
use super::ledger::Ledger;
use super::value;

fn replays(worker: &Worker, rule: Rule) -> u64 {
    value(&worker.cell(0).replays[rule as usize])
}

fn refusals(worker: &Worker, refusal: Refusal) -> u64 {
    value(&worker.cell(0).refusals[refusal as usize])
}

fn failures(worker: &Worker) -> u64 {
    worker.cell(0).failures.iter().map(value).sum()
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A backend whose connections answer one request, read another and end without an answer.
fn dying_on_the_second(
    end: impl Fn(&TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let executed = Arc::new(AtomicUsize::new(0));
    let count = executed.clone();
    let address = backend(move |mut stream| {
        for number in 0..2 {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            read_body(&mut stream, &head);
            count.fetch_add(1, Ordering::Relaxed);
            if number == 0 {
                stream.write_all(ok("done").as_bytes()).unwrap();
            }
        }
        end(&stream);
    });
    (address, executed)
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// The promise: a request that a backend may have executed is sent again only if that does no harm.
#[test]
fn a_kept_connection_lost_after_the_request_arrived_is_replayed_for_idempotent_ones_only() {
    for end in [|_: &TcpStream| {}, reset] {
        let (address, executed) = dying_on_the_second(end);
        let worker = Worker::start(&[address]);
        let mut client = worker.client();
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.get("/").status, 200, "a GET may run twice");
        assert_eq!(executed.load(Ordering::Relaxed), 3);
        assert_eq!(replays(&worker, Rule::Idempotent), 1);
        client.send(POST);
        let response = client.response();
        assert_eq!(response.status, 502);
        assert_eq!(header(&response.head, "x-steerage-error"), Some("stale_unproven"));
        assert_eq!(executed.load(Ordering::Relaxed), 4, "a POST may not");
        assert_eq!(refusals(&worker, Refusal::Unproven), 1);
        assert_eq!(worker.errors(ErrorClass::StaleUnproven), 1);
        assert_eq!(failures(&worker), 0, "a stale connection is nobody's failure");
    }
}

#[test]
fn a_fresh_connection_that_is_lost_is_a_failure_and_tried_elsewhere_if_idempotent() {
    let fatal = || {
        backend(|mut stream| {
            let head = read_head(&mut stream);
            read_body(&mut stream, &head);
            reset(&stream);
        })
    };
    let worker = Worker::start(&[fatal(), answering(|_, _| ok("fine"))]);
    for _ in 0..2 {
        assert_eq!(worker.get("/").status, 200);
    }
    assert_eq!(replays(&worker, Rule::FreshLost), 1);
    assert_eq!(value(&worker.cell(0).failures[FailureClass::Reset as usize]), 1);
    let statuses: Vec<u16> = (0..2)
        .map(|_| {
            let mut client = worker.client();
            client.send(POST);
            client.response().status
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 1, "{statuses:?}");
    assert_eq!(refusals(&worker, Refusal::NotIdempotent), 1);
    assert_eq!(worker.errors(ErrorClass::Reset), 1);
}

/// The race: the backend closes right after its response, while the next request is on its way.
#[test]
fn no_post_is_lost_or_doubled_when_the_backend_closes_kept_connections() {
    let ledger = Ledger::default();
    let seen = ledger.clone();
    let address = backend(move |mut stream| seen.serve(&mut stream));
    ledger.race(&Worker::start(&[address]));
}
