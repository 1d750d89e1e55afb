//! Every client's connection ends by one cause, which is counted once.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use socket2::SockRef;
use steerage_common::cause::Cause;

use super::harness::{Client, Worker, answering, backend, eventually, ok, read_head};

/// How a client behaves, and how that is to be counted.
type Ending = (Cause, &'static str, fn(&mut Client));

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn reset(client: &Client) {
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

const ENDINGS: &[Ending] = &[
    (Cause::Eof, "closes without a request", |_| {}),
    (Cause::Eof, "closes after its request", |client| {
        assert_eq!(client.get("/").status, 200);
    }),
    (Cause::Eof, "closes within a head", |client| client.send("GET / HT")),
    (Cause::Reset, "resets", |client| {
        assert_eq!(client.get("/").status, 200);
        reset(client);
    }),
    (Cause::Done, "wants no more", |client| {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        client.rest();
    }),
    (Cause::Done, "speaks HTTP/1.0", |client| {
        client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
        client.rest();
    }),
    (Cause::HttpProtocol, "speaks no HTTP", |client| {
        client.send("nonsense\r\n\r\n");
        client.rest();
    }),
    (Cause::HeaderTimeout, "never ends its head", |client| {
        client.send("GET / HTTP/1.1\r\n");
        client.rest();
    }),
    (Cause::Idle, "says nothing", |client| {
        client.rest();
    }),
];

#[test]
fn each_end_has_its_cause() {
    let worker = Worker::start_with(&[answering(|_, _| ok("whole"))], |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(200);
        model.listeners[0].timeouts.idle = Duration::from_millis(400);
    });
    let all = || Cause::ALL.iter().map(|cause| worker.ends(*cause)).sum::<u64>();
    for (number, (cause, what, act)) in (1..).zip(ENDINGS) {
        let before = worker.ends(*cause);
        let mut client = worker.client();
        act(&mut client);
        drop(client);
        eventually(what, || worker.ends(*cause) == before + 1);
        assert_eq!(all(), number, "{what}: once");
    }
}

#[test]
fn who_does_not_wait_for_the_answer_has_hung_up() {
    let (asked, was_asked) = mpsc::channel();
    let worker = Worker::start(&[backend(move |mut stream| {
        read_head(&mut stream);
        asked.send(stream).unwrap();
    })]);
    let mut client = worker.client();
    client.send(GET);
    let backend = was_asked.recv().unwrap();
    drop(client);
    eventually("it is known", || worker.ends(Cause::HungUp) == 1);
    eventually("the backend's is of no use", || {
        worker.cell(0).ends[Cause::Abandoned as usize].load(std::sync::atomic::Ordering::Relaxed)
            == 1
    });
    drop(backend);
}

#[test]
fn a_tunnel_s_end_is_its_connection_s() {
    let worker = Worker::start(&[backend(|mut stream| {
        read_head(&mut stream);
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut theirs = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut theirs, &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    })]);
    let open = || {
        let mut client = worker.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
        client
    };
    let mut client = open();
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "");
    eventually("it is known", || worker.ends(Cause::Eof) == 1);
    reset(&open());
    eventually("it is known", || worker.ends(Cause::Reset) == 1);
}
