//! Connections that a tcp listener passes on: bytes, ends, limits, and what becomes of the backend.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::health::Event;

use super::harness::*;
use super::{gauge, value};
use crate::config::model::Model;

fn start(backends: &[SocketAddr], change: impl FnOnce(&mut Model)) -> Worker {
    Worker::passing("tcp", "service = 'a'", backends, change)
}

fn timeouts(model: &mut Model) -> &mut crate::config::model::StreamTimeouts {
    &mut model.listeners[0].streams.as_mut().unwrap().routes[0].timeouts
}

fn echo(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes that differ wherever they stand.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn is_reset(outcome: std::io::Result<usize>) -> bool {
    outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_pass_both_ways_and_the_end_too() {
    let worker = start(&[backend(echo)], |_| {});
    let mut client = worker.client().stream;
    let cell = worker.cell(0);
    for piece in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4", &[0, 255, 22, 3, 1]] {
        client.write_all(piece).unwrap();
        let mut back = vec![0; piece.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, piece);
    }
    assert_eq!((gauge(&cell.tunnels), gauge(&cell.active), gauge(&cell.connections)), (1, 1, 1));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    eventually("it ended", || gauge(&cell.tunnels) == 0 && gauge(&cell.active) == 0);
    assert_eq!((worker.ends(Cause::Eof), gauge(&cell.connections)), (1, 0));
    assert_eq!(value(&cell.ends[Cause::Eof as usize]), 1);
    assert_eq!((value(&cell.request_body_bytes), value(&cell.response_body_bytes)), (33, 33));
    assert_eq!(value(&cell.connections_created), 1);
}

#[test]
fn megabytes_pass_both_ways_at_once_whole_and_slow_readers_are_not_idle() {
    const LENGTH: usize = 24_000_000;
    /// Shorter than the readers pause, and longer than a busy host holds a thread up.
    const HALF_CLOSED: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(1500);
    // Made before anybody connects: while it is made nothing moves.
    let bytes = std::sync::Arc::new(pattern(LENGTH));
    let (wanted, theirs) = (digest(&bytes), bytes.clone());
    let sums = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sums.0);
    let server = backend(move |mut stream| {
        let (mut writer, bytes) = (stream.try_clone().unwrap(), theirs.clone());
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        std::thread::sleep(PAUSE);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        sender.lock().unwrap().send(digest(&got)).unwrap();
    });
    let worker = start(&[server], |model| {
        timeouts(model).half_closed = HALF_CLOSED;
    });
    let client = worker.client().stream;
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    std::thread::sleep(PAUSE);
    let mut got = Vec::new();
    (&client).read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert_eq!(digest(&got), wanted);
    assert_eq!(sums.1.recv().unwrap(), wanted);
    let cell = worker.cell(0);
    eventually("it ended", || gauge(&cell.tunnels) == 0);
    let passed = (value(&cell.request_body_bytes), value(&cell.response_body_bytes));
    assert_eq!(passed, (LENGTH as u64, LENGTH as u64));
}

#[test]
fn small_messages_go_to_and_fro_after_much_has_passed() {
    let worker = start(&[backend(echo)], |_| {});
    let mut client = worker.client().stream;
    for length in [1, 100_000, 3, 200_000, 5_000, 1, 70_000, 2] {
        let piece = pattern(length * 4);
        let mut writer = client.try_clone().unwrap();
        let sent = piece.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut back = vec![0; piece.len()];
        client.read_exact(&mut back).unwrap();
        writing.join().unwrap();
        assert_eq!(digest(&back), digest(&piece), "{length}");
    }
}

#[test]
fn one_way_may_end_and_the_other_go_on() {
    let worker = start(
        &[backend(|mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(format!("got {}", all.len()).as_bytes()).unwrap();
        })],
        |_| {},
    );
    for length in [12, 4_000_000] {
        let mut client = worker.client();
        client.stream.write_all(&pattern(length)).unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), format!("got {length}"));
    }
}

#[test]
fn a_reset_of_one_side_resets_the_other() {
    let resetting = |length: usize| {
        backend(move |mut stream| {
            let mut left = vec![0; length];
            stream.read_exact(&mut left).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        })
    };
    // Copied, and spliced.
    for length in [100, 1_000_000] {
        let worker = start(&[resetting(length)], |_| {});
        let mut client = worker.client().stream;
        client.write_all(&pattern(length)).unwrap();
        assert!(is_reset(client.read(&mut [0; 8])), "{length}");
    }
    let (told, hears) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let worker = start(
        &[backend(move |mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
            told.lock().unwrap().send(is_reset(stream.read(&mut [0; 5]))).unwrap();
        })],
        |_| {},
    );
    let mut client = worker.client().stream;
    client.write_all(b"hello").unwrap();
    eventually("it passed", || value(&worker.cell(0).request_body_bytes) == 5);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(hears.recv().unwrap());
    eventually("it is counted", || worker.ends(Cause::Reset) == 1);
}

#[test]
fn silence_ends_it_and_half_of_it_sooner() {
    let worker = start(&[backend(echo)], |model| {
        timeouts(model).tunnel = Duration::from_millis(200);
    });
    assert_eq!(worker.client().rest(), "");
    assert_eq!(worker.ends(Cause::TunnelIdle), 1);
    let silent = backend(|mut stream| {
        // It never ends its half.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        std::thread::sleep(Duration::from_secs(60));
    });
    let worker = start(&[silent], |model| {
        timeouts(model).half_closed = Duration::from_millis(200);
    });
    let mut client = worker.client();
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "");
    assert_eq!(worker.ends(Cause::TunnelHalfClosed), 1);
}

#[test]
fn a_backend_that_cannot_be_reached_costs_nobody_a_connection() {
    let worker = start(&[nobody(), backend(echo)], |_| {});
    for _ in 0..8 {
        let mut client = worker.client();
        client.send("x");
        client.stream.read_exact(&mut [0]).unwrap();
    }
    let (dead, alive) = (worker.cell(0), worker.cell(1));
    let failures: u64 = dead.failures.iter().map(value).sum();
    assert!((1..=5).contains(&failures), "the breaker ends it: {failures}");
    assert_eq!(value(&dead.ejections), u64::from(failures == 5));
    assert_eq!(value(&alive.connections_created), 8);
}

#[test]
fn a_client_that_no_backend_takes_is_reset() {
    let worker = start(&[nobody()], |_| {});
    assert!(is_reset(worker.client().stream.read(&mut [0])));
    assert_eq!((worker.errors(ErrorClass::Connect), worker.ends(Cause::NotTaken)), (1, 1));
    worker.apply(0, Event::Maintain);
    assert!(is_reset(worker.client().stream.read(&mut [0])));
    assert_eq!((worker.errors(ErrorClass::NoBackend), worker.ends(Cause::NotTaken)), (1, 2));
}

#[test]
fn a_full_backend_has_a_line_and_an_address_its_limit() {
    let worker = start(&[backend(echo)], |model| {
        model.services[0].backends[0].max_connections = Some(1);
        model.services[0].queue_timeout = Duration::from_millis(300);
    });
    let mut first = worker.client();
    first.send("x");
    first.stream.read_exact(&mut [0]).unwrap();
    assert!(is_reset(worker.client().stream.read(&mut [0])));
    assert_eq!(worker.errors(ErrorClass::QueueTimeout), 1);
    let mut waiting = worker.client();
    waiting.send("y");
    drop(first);
    waiting.stream.read_exact(&mut [0]).unwrap();
    let [queue, connect, first_byte, total] = worker.times(0).map(|(count, _)| count);
    assert_eq!((queue, connect, first_byte, total), (1, 2, 0, 0));

    let worker = start(&[backend(echo)], |model| {
        model.listeners[0].limits.connections_per_address = 1;
    });
    let mut first = worker.client();
    first.send("x");
    first.stream.read_exact(&mut [0]).unwrap();
    assert!(is_reset(worker.client().stream.read(&mut [0])));
    assert_eq!(worker.ends(Cause::TooMany), 1);
}

#[test]
fn a_drain_waits_for_connections_until_its_deadline() {
    let mut worker = start(&[backend(echo)], |model| {
        model.global.drain = Duration::from_millis(500);
    });
    let mut client = worker.client();
    client.send("x");
    client.stream.read_exact(&mut [0]).unwrap();
    worker.order_drain();
    client.send("y");
    client.stream.read_exact(&mut [0]).unwrap();
    assert!(is_reset(client.stream.read(&mut [0])));
    worker.join();
    assert_eq!(worker.ends(Cause::Drained), 1);
}

#[test]
fn a_backend_that_is_taken_out_keeps_nothing() {
    let worker = start(&[backend(echo)], |_| {});
    let mut client = worker.client();
    client.send("x");
    client.stream.read_exact(&mut [0]).unwrap();
    worker.apply(0, Event::Maintain);
    assert!(is_reset(client.stream.read(&mut [0])));
    eventually("it is counted", || worker.ends(Cause::BackendOut) == 1);
}
