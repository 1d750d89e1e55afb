//! Another configuration while requests are under way.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use steerage_common::health::Event;
use steerage_common::slot::Slot;

use super::harness::*;
use super::{gauge, value};
use crate::config::model::{self, Model};
use crate::region::Tenant;

fn named(address: SocketAddr) -> model::Backend {
    model::Backend {
        host: None,
        address,
        weight: 1,
        tier: 0,
        max_connections: None,
        max_requests: None,
        server_ids: [None; 2],
    }
}

fn tenant(slot: u16) -> Tenant {
    Tenant::new(Slot::new(slot).unwrap(), 0)
}

/// The worker's model with these backends in place of its own.
fn with(worker: &Worker, backends: &[SocketAddr]) -> Model {
    let mut model = worker.model.clone();
    model.services[0].backends = backends.iter().copied().map(named).collect();
    model
}

/// A backend that says when a request is there, and answers when it may; `None` for not at all.
fn held(text: &'static str) -> (SocketAddr, mpsc::Receiver<()>, mpsc::Sender<Option<()>>) {
    let (reached, is_reached) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let address = backend(move |mut stream| {
        while !read_head(&mut stream).is_empty() {
            reached.send(()).unwrap();
            match released.lock().unwrap().recv() {
                Ok(Some(())) => stream.write_all(ok(text).as_bytes()).unwrap(),
                _ => {
                    stream.shutdown(Shutdown::Both).unwrap();
                    return;
                }
            }
        }
    });
    (address, is_reached, release)
}

#[test]
fn the_next_request_of_a_connection_is_under_the_new_rules_and_the_one_under_way_is_not() {
    let (slow, is_reached, release) = held("old");
    let mut worker = Worker::start(&[slow]);
    let mut busy = worker.client();
    let mut idle = worker.client();
    release.send(Some(())).unwrap();
    assert_eq!(idle.get("/").text(), "old");
    is_reached.recv().unwrap();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_reached.recv().unwrap();

    let new = answering(|_, _| ok("new"));
    let model = with(&worker, &[new]);
    let (old, cell) = (worker.tenants[0], tenant(1).slot());
    worker.take(model, vec![tenant(1)]);
    assert_eq!(idle.get("/").text(), "new");
    assert_eq!(gauge(&worker.region.cell(0, old.slot()).active), 1);
    assert_eq!(gauge(&worker.region.cell(0, old.slot()).idle), 0, "what was idle is closed");
    release.send(Some(())).unwrap();
    assert_eq!(busy.response().text(), "old");
    assert_eq!(busy.get("/").text(), "new");
    eventually("nothing of the old backend is left", || {
        let cell = worker.region.cell(0, old.slot());
        gauge(&cell.active) == 0 && gauge(&cell.connections) == 0
    });
    assert_eq!(value(&worker.region.cell(0, cell).responses[1]), 2);
}

#[test]
fn connections_to_a_backend_that_stays_are_kept_whatever_else_changes() {
    let stays = answering(|_, _| ok("stays"));
    let goes = answering(|_, _| ok("goes"));
    let mut worker = Worker::start(&[stays, goes]);
    let mut client = worker.client();
    for _ in 0..4 {
        client.get("/");
    }
    let mut model = with(&worker, &[stays]);
    model.services[0].retry.attempts = 7;
    model.services[0].pool.max_idle = 3;
    let tenants = vec![worker.tenants[0]];
    worker.take(model, tenants);
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "stays");
    }
    assert_eq!(value(&worker.cell(0).connections_created), 1);
    assert_eq!(value(&worker.cell(0).connections_reused), 5);
}

#[test]
fn an_attempt_after_the_change_goes_to_the_new_backends() {
    let (dying, is_reached, release) = held("never");
    let mut worker = Worker::start(&[dying]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_reached.recv().unwrap();
    let new = answering(|_, _| ok("new"));
    let model = with(&worker, &[new]);
    let old = worker.tenants[0];
    worker.take(model, vec![tenant(1)]);
    // The slot of the old backend passes to somebody else, who is up.
    worker.region.apply(old, Event::Removed, &worker.model.services[0].policy());
    let next = Tenant::new(old.slot(), 1);
    worker.region.apply(next, Event::Assigned, &worker.model.services[0].policy());
    release.send(None).unwrap();
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "new"));
}

#[test]
fn who_waits_for_room_finds_it_at_a_new_backend() {
    let (full, is_reached, release) = held("full");
    let mut worker = Worker::start_with(&[full], |model| {
        model.services[0].backends[0].max_requests = Some(1);
        model.services[0].queue_timeout = Duration::from_secs(60);
    });
    let mut first = worker.client();
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_reached.recv().unwrap();
    let mut waiting: Vec<Client> = (0..3).map(|_| worker.client()).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all are taken in", || gauge(&worker.region.worker(0).connections) == 4);
    let new = answering(|_, _| ok("new"));
    let mut model = with(&worker, &[full, new]);
    model.services[0].backends[0].max_requests = Some(1);
    let tenants = vec![worker.tenants[0], tenant(1)];
    worker.take(model, tenants);
    for client in &mut waiting {
        assert_eq!(client.response().text(), "new");
    }
    release.send(Some(())).unwrap();
    assert_eq!(first.response().text(), "full");
}

#[test]
fn a_service_that_is_gone_leaves_its_requests_an_answer() {
    let (dying, is_reached, release) = held("never");
    let mut worker = Worker::start(&[dying]);
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    is_reached.recv().unwrap();
    let mut model = with(&worker, &[]);
    model.services[0].name = "other".into();
    worker.take(model, Vec::new());
    release.send(None).unwrap();
    assert_eq!(client.response().status, 502);
    assert_eq!(client.get("/").status, 503);
}
