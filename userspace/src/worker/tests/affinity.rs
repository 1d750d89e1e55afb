//! Clients that stay with their backend, and requests that wait for one.

use std::io::Write as _;
use std::sync::mpsc;
use std::time::Duration;

use steerage_common::error::ErrorClass;
use steerage_common::health::Event;

use super::harness::*;

fn named(count: usize) -> Vec<std::net::SocketAddr> {
    (0..count).map(|number| answering(move |_, _| ok(&number.to_string()))).collect()
}

/// A `GET` with a cookie; the backend that answered, and the cookie that it sets.
fn ask(worker: &Worker, cookie: Option<&str>) -> (String, Option<String>) {
    let mut client = worker.client();
    let line = cookie.map_or(String::new(), |cookie| format!("Cookie: a=b; {cookie}\r\n"));
    client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
    let response = client.response();
    let set = header(&response.head, "set-cookie").map(str::to_owned);
    (response.text().to_owned(), set)
}

/// The promise: a client with its cookie stays, whatever others do, until its backend is gone.
#[test]
fn a_cookie_ties_a_client_to_its_backend() {
    let worker = Worker::start_with(&named(3), |model| {
        model.services[0].sticky_cookie = Some("SRV".into());
    });
    let (home, set) = ask(&worker, None);
    let set = set.unwrap();
    assert!(set.starts_with("srv=") && set.ends_with("; path=/; httponly; samesite=lax"), "{set}");
    assert!(!set.contains("127.0.0.1"));
    let cookie = set.split(';').next().unwrap().replacen("srv", "SRV", 1);
    for _ in 0..6 {
        assert_eq!(ask(&worker, Some(&cookie)), (home.clone(), None), "no cookie is set anew");
    }
    let index: usize = home.parse().unwrap();
    worker.apply(index, Event::Drain);
    assert_eq!(ask(&worker, Some(&cookie)).0, home, "one that drains keeps its clients");
    worker.apply(index, Event::Maintain);
    let (other, set) = ask(&worker, Some(&cookie));
    assert_ne!(other, home);
    assert!(set.is_some_and(|set| !set.contains(&cookie[4..])), "and a new cookie");
    let (_, set) = ask(&worker, Some("SRV=0000000000000000"));
    assert!(set.is_some(), "a made-up token names nobody");
}

#[test]
fn requests_over_a_backends_limit_wait_their_turn_and_not_for_ever() {
    let (reached, is_reached) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let slow = backend(move |mut stream| {
        loop {
            if read_head(&mut stream).is_empty() {
                return;
            }
            reached.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            stream.write_all(ok("done").as_bytes()).unwrap();
        }
    });
    let worker = Worker::start_with(&[slow], |model| {
        model.services[0].backends[0].max_requests = Some(1);
        model.services[0].queue_timeout = Duration::from_millis(300);
    });
    let mut first = worker.client();
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    is_reached.recv().unwrap();
    let mut second = worker.client();
    second.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let timed_out = second.response();
    assert_eq!(timed_out.status, 503);
    assert_eq!(header(&timed_out.head, "x-steerage-error"), Some("queue_timeout"));
    assert_eq!(worker.errors(ErrorClass::QueueTimeout), 1);
    let mut third = worker.client();
    third.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    release.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    release.send(()).unwrap();
    assert_eq!(third.response().status, 200, "the next one had its turn");
}
