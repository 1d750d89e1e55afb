use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;

use super::super::RETIRE;
use super::harness::*;
use super::{gauge, value};

#[test]
fn a_draining_worker_finishes_what_it_is_at_and_nothing_else() {
    let (heard, request) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let mut worker = Worker::start(&[answering(move |_, _| {
        heard.send(()).unwrap();
        may_answer.lock().unwrap().recv().unwrap();
        ok("done")
    })]);
    let mut idle = worker.client();
    answer.send(()).unwrap();
    assert_eq!(idle.get("/").text(), "done");
    request.recv().unwrap();
    let mut busy = worker.client();
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    request.recv().unwrap();

    worker.order_drain();
    assert_eq!(idle.rest(), "");
    assert!(!worker.region.is_live(0));
    answer.send(()).unwrap();
    let response = busy.response();
    assert_eq!((response.status, response.text()), (200, "done"));
    assert_eq!(header(&response.head, "connection"), Some("close"));
    assert_eq!(busy.rest(), "");
    worker.join();
}

#[test]
fn a_worker_that_is_followed_leaves_the_queue_to_its_successor() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (shared, route) = (socket.try_clone().unwrap(), "[[listener.route]]\nservice = 'a'\n");
    let backend = answering(|_, _| ok("done"));
    let mut worker = Worker::listening(socket, route, &[backend], |_| {});
    let mut first = worker.client();
    assert_eq!(first.get("/").text(), "done");
    worker.order(RETIRE);
    assert_eq!(first.rest(), "");
    worker.join();
    // Accepted by nobody; the successor has the same socket.
    let mut second = worker.client();
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut accepted, _) = shared.accept().unwrap();
    assert!(read_head(&mut accepted).starts_with("get / "));
}

#[test]
fn a_request_that_was_on_its_way_when_a_drain_began_is_answered() {
    let mut worker = Worker::start(&[answering(|_, _| ok("done"))]);
    let mut client = worker.client();
    eventually("it is accepted", || value(&worker.region.worker(0).accepted) == 1);
    worker.order_drain();
    eventually("the drain has begun", || !worker.region.is_live(0));
    let response = client.get("/");
    assert_eq!((response.status, response.text()), (200, "done"));
    assert_eq!(header(&response.head, "connection"), Some("close"));
    assert_eq!(client.rest(), "");
    worker.join();
}

#[test]
fn draining_ends_with_its_time() {
    let mut worker = Worker::start_with(
        &[backend(|mut stream| {
            read_head(&mut stream);
            std::thread::park();
        })],
        |model| model.global.drain = Duration::from_millis(50),
    );
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is under way", || gauge(&worker.cell(0).active) == 1);
    worker.order_drain();
    worker.join();
    assert!(matches!(client.stream.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_worker_outlives_its_supervisor_until_there_is_another_one() {
    let mut worker = Worker::start(&[answering(|_, _| ok("still here"))]);
    worker.control = None;
    let mut client = worker.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "still here");
    }
    worker.region.control().supervisor_epoch.store(2, Ordering::Release);
    assert_eq!(client.rest(), "");
    worker.join();
}

#[test]
fn a_worker_shows_that_it_lives() {
    let worker = Worker::start(&[answering(|_, _| ok(""))]);
    let line = worker.region.worker(0);
    assert_eq!(gauge(&line.pid), std::process::id());
    assert!(worker.region.is_live(0));
    assert_eq!(gauge(&line.supervisor_epoch), 1);
    let before = value(&line.heartbeat_ms);
    eventually("the heart beats", || value(&line.heartbeat_ms) > before);
}

#[test]
fn there_are_no_more_connections_than_permits() {
    let worker =
        Worker::start_with(&[answering(|_, _| ok(""))], |model| model.global.max_connections = 1);
    let mut first = worker.client();
    assert_eq!(first.get("/").status, 200);
    let mut second = worker.client();
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    second.stream.set_nonblocking(true).unwrap();
    assert_eq!(first.get("/").status, 200);
    assert_eq!(second.stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(value(&worker.region.worker(0).accepted), 1);
    second.stream.set_nonblocking(false).unwrap();
    drop(first);
    assert_eq!(second.response().status, 200);
}

#[test]
fn at_the_limit_idle_connections_make_room_and_others_stay() {
    let (heard, request) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let backend = answering(move |head, _| {
        if head.starts_with("get /slow") {
            heard.send(()).unwrap();
            may_answer.lock().unwrap().recv().unwrap();
        }
        ok("done")
    });
    let worker = Worker::start_with(&[backend], |model| model.global.max_connections = 3);
    let (mut idle, mut kept, mut busy) = (worker.client(), worker.client(), worker.client());
    for client in [&mut idle, &mut kept] {
        assert_eq!(client.get("/").text(), "done");
    }
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    request.recv().unwrap();
    // One place is wanted, so one of the idle two goes; the one with a request does not.
    let mut next = worker.client();
    assert_eq!(next.get("/").text(), "done");
    answer.send(()).unwrap();
    assert_eq!(busy.response().text(), "done");
    assert_eq!(value(&worker.region.worker(0).accepted), 4);
    for client in [&mut idle, &mut kept] {
        client.stream.set_nonblocking(true).unwrap();
    }
    let ends = [&mut idle, &mut kept].map(|client| client.stream.read(&mut [0]).ok());
    assert_eq!(ends.iter().filter(|end| **end == Some(0)).count(), 1, "{ends:?}");
}

#[test]
fn a_slow_head_is_told_off_and_an_idle_connection_just_ends() {
    let worker = Worker::start_with(&[answering(|_, _| ok(""))], |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(50);
        model.listeners[0].timeouts.idle = Duration::from_millis(100);
    });
    let mut client = worker.client();
    assert_eq!(client.rest(), "", "nothing was asked");
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow");
    let reply = client.rest();
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    let mut client = worker.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.rest(), "", "idle after a request");
}

#[test]
fn a_head_that_comes_byte_by_byte_is_over_in_its_time() {
    let worker = Worker::start_with(&[answering(|_, _| ok(""))], |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(300);
    });
    let mut client = worker.client();
    assert_eq!(client.get("/").status, 200, "the time is each head's own");
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(20_000));
        head.bytes().take_while(|byte| sender.write_all(&[*byte]).is_ok()).count()
    });
    let reply = client.rest();
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert!(reply.contains("header_timeout"), "{reply}");
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
    assert_eq!(worker.errors(ErrorClass::HeaderTimeout), 1);
}

#[test]
fn a_body_that_trickles_is_told_off_and_no_fault_of_the_backend() {
    let worker = Worker::start_with(&[answering(|_, _| ok(""))], |model| {
        model.listeners[0].timeouts.body_grace = Duration::from_millis(300);
        model.listeners[0].limits.body_rate = 1000;
    });
    for head in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = worker.client();
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n"));
        let mut sender = client.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            while sender.write_all(b"1\r\nx\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        let reply = client.rest();
        assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("body_timeout"), "{reply}");
        client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        sending.join().unwrap();
    }
    assert_eq!(worker.errors(ErrorClass::BodyTimeout), 2);
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0);
}

#[test]
fn a_client_that_takes_nothing_of_its_response_is_left() {
    let worker = Worker::start_with(
        &[backend(|mut stream| {
            read_head(&mut stream);
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            while stream.write_all(&[0; 65536]).is_ok() {}
        })],
        |model| model.listeners[0].timeouts.stall = Duration::from_millis(300),
    );
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("its connection is over", || {
        gauge(&worker.region.worker(0).connections) == 0
            && value(&worker.region.worker(0).accepted) == 1
    });
    assert_eq!(gauge(&worker.cell(0).active), 0);
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0);
    assert_eq!(worker.ends(Cause::ResponseStall), 1);
}

#[test]
fn a_backend_that_takes_nothing_of_a_body_is_given_up() {
    let worker = Worker::start_with(
        &[backend(|mut stream| {
            read_head(&mut stream);
            std::thread::park_timeout(Duration::from_secs(20));
        })],
        |model| {
            model.listeners[0].routes[0].max_body = None;
            model.listeners[0].routes[0].timeouts.stall = Duration::from_millis(300);
        },
    );
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n");
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&[0; 65536]).is_ok() {});
    let response = client.response();
    assert_eq!(
        (response.status, header(&response.head, "x-steerage-error")),
        (504, Some("stall_timeout"))
    );
    assert_eq!(value(&worker.cell(0).failures[FailureClass::Stall as usize]), 1);
    drop(client);
    sending.join().unwrap();
}

#[test]
fn a_backend_that_stalls_within_its_response_is_given_up() {
    let worker = Worker::start_with(
        &[backend(|mut stream| {
            read_head(&mut stream);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).unwrap();
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        })],
        |model| {
            let timeouts = &mut model.listeners[0].routes[0].timeouts;
            timeouts.stall = Duration::from_millis(100);
        },
    );
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.rest().ends_with("\r\n\r\nhello"));
    let class = FailureClass::Stall;
    eventually("it counts", || value(&worker.cell(0).failures[class as usize]) == 1);
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let worker = Worker::start_with(&[answering(|_, _| ok(""))], |model| {
        model.listeners[0].limits.connections_per_address = 2;
        model.listeners[0].offenders.strikes = 2;
    });
    let (mut first, mut second) = (worker.client(), worker.client());
    assert_eq!((first.get("/").status, second.get("/").status), (200, 200));
    let refusal = worker.client().response();
    assert_eq!(refusal.status, 429);
    assert_eq!(worker.region.reports(0).written(), 0, "once is no offence");
    assert_eq!(worker.client().response().status, 429);
    eventually("it is told of", || worker.region.reports(0).written() == 1);
    let report = worker.region.reports(0).since(0)[0];
    assert_eq!((report.address[..4].to_vec(), report.hold_ms), (vec![127, 0, 0, 1], 30_000));
    assert_eq!(header(&refusal.head, "x-steerage-error"), Some("too_many_connections"));
    drop(first);
    eventually("there is room again", || gauge(&worker.region.worker(0).connections) == 1);
    assert_eq!(worker.get("/").status, 200);
    assert_eq!(worker.errors(ErrorClass::TooManyConnections), 2);
}
