//! HTTP/2 clients that cost more than they ask for: each ends with its cause, and no other client does.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;

use super::harness::*;
use super::http2::{text, with_client};
use super::{gauge, value};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// `:method GET`, `:scheme http`, `:path /`, `:authority a`; with 0x83 for the method it is a POST.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A client of frames that has sent its preface.
fn raw(worker: &Worker, settings: &[u8]) -> Client {
    let mut client = worker.client();
    client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    client.stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
    client
}

/// Sends `bytes`, reading meanwhile, until the other end has closed.
fn pour(mut client: Client, bytes: Vec<u8>) {
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&bytes));
    let mut sink = [0; 65536];
    while matches!(client.stream.read(&mut sink), Ok(1..)) {}
    let _ = sending.join().unwrap();
}

#[test]
fn each_kind_of_flood_ends_its_connection_and_is_counted() {
    let worker = Worker::start_with(&[answering(|_, _| ok("x"))], |model| {
        model.listeners[0].offenders.strikes = 1;
    });
    let get = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, GET);
    let streams = || (0..2000).map(|number| 2 * number + 1);
    let repeated = |frame: Vec<u8>| frame.repeat(20_000);
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let cases = [
        (Cause::SettingsFlood, repeated(frame(SETTINGS, 0, 0, &[]))),
        (Cause::PingFlood, repeated(frame(PING, 0, 0, &[0; 8]))),
        (Cause::FrameFlood, repeated(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))),
        (Cause::FrameFlood, repeated(frame(99, 0, 0, b"what"))),
        (Cause::DataFlood, [open, repeated(frame(DATA, 0, 1, &[]))].concat()),
        (
            Cause::ContinuationFlood,
            [frame(HEADERS, 0, 1, GET), repeated(frame(CONTINUATION, 0, 1, &[]))].concat(),
        ),
        (
            Cause::ResetFlood,
            streams()
                .flat_map(|id| [get(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat())
                .collect(),
        ),
        (Cause::Http2Protocol, frame(DATA, 0, 0, b"of no stream")),
    ];
    let mut before = worker.client();
    assert_eq!(before.get("/").status, 200);
    for (number, (cut, bytes)) in cases.into_iter().enumerate() {
        let counted = worker.ends(cut);
        pour(raw(&worker, &[]), bytes);
        eventually("it is counted", || worker.ends(cut) > counted);
        let all: u64 = Cause::ALL.iter().map(|cut| worker.ends(*cut)).sum();
        assert_eq!(all, number as u64 + 1, "{cut:?}");
    }
    // All of these but the last, which may have been a mistake.
    eventually("floods are told of", || worker.region.reports(0).written() == 7);
    assert_eq!(before.get("/").status, 200);
    eventually("nothing is active", || gauge(&worker.cell(0).active) == 0);
}

#[test]
fn a_window_that_opens_byte_by_byte_does_not_keep_a_stream() {
    let long = "x".repeat(100_000);
    let worker = Worker::start_with(&[answering(move |_, _| ok(&long))], |model| {
        model.listeners[0].http2.stall = Duration::from_millis(300);
    });
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    let mut client = raw(&worker, &[0, 4, 0, 0, 0, 0]);
    client.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)).unwrap();
    let mut sender = client.stream.try_clone().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let opening = std::thread::spawn(move || {
        let pause = || stopped.recv_timeout(Duration::from_millis(10));
        while pause() == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            sender.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).unwrap();
        }
    });
    let mut taken = 0;
    loop {
        let mut head = [0; 9];
        client.stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        client.stream.read_exact(&mut vec![0; length as usize]).unwrap();
        match head[3] {
            DATA => taken += length,
            RST_STREAM => break,
            _ => {}
        }
    }
    drop(stop);
    opening.join().unwrap();
    assert!(taken < 16 * 1024, "{taken}");
    assert_eq!(worker.ends(Cause::ResponseStall), 1);
    assert_eq!(gauge(&worker.region.worker(0).connections), 1);
}

/// A worker that gives bodies a third of a second.
fn impatient(backend: std::net::SocketAddr) -> Worker {
    Worker::start_with(&[backend], |model| {
        model.listeners[0].timeouts.body_grace = Duration::from_millis(300);
        model.listeners[0].limits.body_rate = 5000;
    })
}

#[test]
fn a_body_that_trickles_is_408_and_only_its_stream_ends() {
    let worker = impatient(answering(|_, body| ok(&body.len().to_string())));
    with_client(&worker, async |mut sender| {
        let post = || Request::post("http://a.test/").body(()).unwrap();
        let (slow, mut trickle) = sender.send_request(post(), false).unwrap();
        let trickling = tokio::task::spawn_local(async move {
            while trickle.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let slow = slow.await.unwrap();
        assert_eq!(slow.status(), 408);
        assert_eq!(slow.headers()["x-steerage-error"], "body_timeout");
        trickling.await.unwrap();
        // One that is fast enough has all the time that it needs.
        let (fast, mut stream) = sender.send_request(post(), false).unwrap();
        for _ in 0..50 {
            stream.send_data(vec![b'x'; 1000].into(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(text(fast.await.unwrap()).await.0, "50000");
    });
    assert_eq!(worker.errors(ErrorClass::BodyTimeout), 1);
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0, "not the backend's");
}

#[test]
fn a_body_that_trickles_under_its_response_ends_the_stream() {
    let worker = impatient(backend(|mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
        stream.write_all(head.as_bytes()).unwrap();
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
    }));
    with_client(&worker, async |mut sender| {
        let post = Request::post("http://a.test/").body(()).unwrap();
        let (response, mut trickle) = sender.send_request(post, false).unwrap();
        let trickling = tokio::task::spawn_local(async move {
            while trickle.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        assert!(body.data().await.unwrap().unwrap_err().is_reset());
        trickling.await.unwrap();
    });
    assert_eq!(worker.ends(Cause::BodyTimeout), 1);
    assert_eq!(value(&worker.cell(0).failures[FailureClass::Reset as usize]), 0);
}
