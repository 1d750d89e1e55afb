//! Backends that are spoken to by HTTP/2.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, Version};
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::replay::Rule;

use super::harness::*;
use super::http2::{text, with_client};
use super::{gauge, value};
use crate::config::model::{Model, UpstreamProtocol};

pub(super) fn http2(model: &mut Model) {
    model.services[0].upstream.protocol = UpstreamProtocol::Http2;
}

fn start(backend: SocketAddr) -> Worker {
    Worker::start_with(&[backend], http2)
}

/// A backend by the crate h2, which takes so many streams at a time: `answer` is a task for each.
fn serving<F>(
    streams: u32,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    serving_by(builder, answer)
}

pub(super) fn serving_by<F>(
    builder: h2::server::Builder,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let answer = Arc::new(answer);
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, builder) = (answer.clone(), builder.clone());
                tokio::task::spawn_local(async move {
                    let Ok(mut connection) = builder.handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::task::spawn_local(answer(request, respond));
                    }
                });
            }
        });
    });
    address
}

async fn say(mut respond: SendResponse<Bytes>, body: String) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(body.into(), true).unwrap();
}

async fn read(body: &mut RecvStream) -> (String, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    (String::from_utf8(all).unwrap(), body.trailers().await.unwrap())
}

#[test]
fn requests_of_all_clients_share_one_connection() {
    let worker = start(serving(100, async |request, respond| {
        assert_eq!(request.version(), Version::HTTP_2);
        let headers = request.headers();
        for gone in ["host", "connection", "transfer-encoding", "upgrade", "keep-alive"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        say(respond, format!("{} {} {:?}", request.method(), request.uri(), headers["cookie"]))
            .await;
    }));
    let mut client = worker.client();
    for _ in 0..3 {
        client.send(
            "GET /path?query=1 HTTP/1.1\r\nHost: a.test:81\r\nConnection: upgrade\r\n\
             Upgrade: irc/6.9\r\nCookie: a=1\r\n\r\n",
        );
        let response = client.response();
        assert_eq!(response.text(), "GET http://a.test:81/path?query=1 \"a=1\"");
        assert_eq!(header(&response.head, "transfer-encoding"), Some("chunked"));
    }
    with_client(&worker, async |sender| {
        let requests = (0..50).map(|_| {
            let mut sender = sender.clone();
            tokio::task::spawn_local(async move {
                sender = sender.ready().await.unwrap();
                let request = Request::get("http://a.test/").header("cookie", "b=2");
                let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
                assert_eq!(text(response.await.unwrap()).await.0, "GET http://a.test/ \"b=2\"");
            })
        });
        for request in requests.collect::<Vec<_>>() {
            request.await.unwrap();
        }
    });
    let cell = worker.cell(0);
    assert_eq!((value(&cell.connections_created), gauge(&cell.connections)), (1, 1));
    assert_eq!((value(&cell.responses[1]), gauge(&cell.active)), (53, 0));
}

#[test]
fn a_burst_makes_no_more_connections_than_its_streams_need() {
    let worker = start(serving(4, async |_, respond| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        say(respond, "x".into()).await;
    }));
    // The backend's limit is not known before its first answer.
    assert_eq!(worker.get("/").status, 200);
    let clients: Vec<Client> = (0..12).map(|_| worker.client()).collect();
    let clients = clients.into_iter().map(|mut client| {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client
    });
    for mut client in clients.collect::<Vec<_>>() {
        assert_eq!(client.response().status, 200);
    }
    assert!(value(&worker.cell(0).connections_created) <= 4);
    assert!(value(&worker.cell(0).connections_created) >= 3);
}

/// `max_connections` holds whatever the number of requests; they wait in line for a stream.
#[test]
fn no_more_connections_are_made_than_the_backend_may_have() {
    let (at_once, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (at_once_there, most_there) = (at_once.clone(), most.clone());
    let backend = serving(3, move |request, respond| {
        let (at_once, most) = (at_once_there.clone(), most_there.clone());
        async move {
            most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let hold = request.uri().path() == "/hold";
            tokio::time::sleep(Duration::from_millis(if hold { 1000 } else { 5 })).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            say(respond, "ok".into()).await;
        }
    });
    let worker = Worker::start_with(&[backend], |model| {
        http2(model);
        model.services[0].queue_timeout = Duration::from_millis(500);
        model.services[0].backends[0].max_connections = Some(2);
    });
    with_client(&worker, async |sender| {
        let get = |path: &'static str| {
            let mut sender = sender.clone();
            tokio::task::spawn_local(async move {
                sender = sender.ready().await.unwrap();
                let request = Request::get(format!("http://a.test{path}")).body(()).unwrap();
                let (response, _) = sender.send_request(request, true).unwrap();
                response.await.unwrap().status()
            })
        };
        for request in (0..60).map(|_| get("/")).collect::<Vec<_>>() {
            assert_eq!(request.await.unwrap(), 200);
        }
        let held = (0..6).map(|_| get("/hold")).collect::<Vec<_>>();
        while at_once.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(get("/").await.unwrap(), 503, "the line is longer than its time");
        for request in held {
            assert_eq!(request.await.unwrap(), 200);
        }
    });
    assert_eq!(value(&worker.cell(0).connections_created), 2);
    assert_eq!(most.load(Ordering::SeqCst), 6, "both connections were used up");
    assert_eq!(worker.errors(ErrorClass::QueueTimeout), 1);
}

#[test]
fn bodies_and_trailers_pass_between_http2_and_http2() {
    let worker = start(serving(100, async |request, mut respond| {
        let (body, trailers) = read(&mut request.into_body()).await;
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(format!("{} bytes", body.len()).into(), false).unwrap();
        let mut back = HeaderMap::new();
        back.insert("grpc-status", "0".parse().unwrap());
        back.insert("x-sum", trailers.unwrap()["x-sum"].clone());
        stream.send_trailers(back).unwrap();
    }));
    with_client(&worker, async |mut sender| {
        let request = Request::post("http://a.test/").header("te", "trailers").body(()).unwrap();
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        let mut left = Bytes::from(vec![b'x'; 1_000_000]);
        while !left.is_empty() {
            upload.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await;
            let room = room.unwrap().unwrap().min(left.len());
            upload.send_data(left.split_to(room), false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        upload.send_trailers(trailers).unwrap();
        let (body, trailers) = text(response.await.unwrap()).await;
        assert_eq!(body, "1000000 bytes");
        let trailers = trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-sum"]),
            (&"0".parse().unwrap(), &"7".parse().unwrap())
        );
    });
}

#[test]
fn a_refused_stream_is_sent_again_whatever_the_method() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let worker = start(serving(100, move |request, mut respond| {
        let count = count.clone();
        async move {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                say(respond, read(&mut request.into_body()).await.0).await;
            }
        }
    }));
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "hello");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let cell = worker.cell(0);
    assert_eq!(value(&cell.replays[Rule::StreamRefused as usize]), 1);
    assert_eq!(
        FailureClass::ALL.iter().map(|c| value(&cell.failures[*c as usize])).sum::<u64>(),
        0
    );
}

#[test]
fn a_stream_that_the_backend_resets_is_not_sent_again_unless_that_does_no_harm() {
    let resetting =
        || serving(100, async |_, mut respond| respond.send_reset(Reason::INTERNAL_ERROR));
    let worker = Worker::start_with(&[resetting(), resetting()], |model| {
        http2(model);
        model.services[0].retry.attempts = 1;
    });
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().status, 502);
    let replays = || {
        let of = |backend| value(&worker.cell(backend).replays[Rule::FreshLost as usize]);
        of(0) + of(1)
    };
    assert_eq!(replays(), 0);
    assert_eq!(worker.get("/").status, 502);
    assert_eq!(replays(), 1);
    assert_eq!(worker.errors(ErrorClass::Reset), 2);
    // One stream's end is not the others'.
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A backend of frames: `serve` gets each connection after the settings were exchanged.
fn framing(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let connections = AtomicU64::new(0);
    backend(move |mut stream| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        send(&mut stream, SETTINGS, 0, 0, &[]);
        serve(stream, connections.fetch_add(1, Ordering::SeqCst) as usize);
    })
}

fn send(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    let _ = stream.write_all(&frame);
}

fn go_away(stream: &mut TcpStream, last: u32) {
    send(stream, GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
}

/// The stream of the next request; `None` at the end.
fn next_request(stream: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).ok()?;
        if head[3] == HEADERS {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

/// `:status 200`, and nothing else.
fn ok_frame(stream: &mut TcpStream, id: u32) {
    send(stream, HEADERS, 5, id, &[0x88]);
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_request_that_a_goaway_leaves_out_is_sent_again_on_a_fresh_connection() {
    let worker = start(framing(|mut stream, number| {
        while let Some(id) = next_request(&mut stream) {
            if number == 0 {
                go_away(&mut stream, 0);
            } else {
                ok_frame(&mut stream, id);
            }
        }
    }));
    let mut client = worker.client();
    client.send(POST);
    assert_eq!(client.response().status, 200);
    let cell = worker.cell(0);
    assert_eq!(value(&cell.replays[Rule::GoneAway as usize]), 1);
    assert_eq!(value(&cell.connections_created), 2);
}

#[test]
fn a_request_that_a_goaway_includes_is_waited_for_and_the_next_goes_elsewhere() {
    let worker = start(framing(|mut stream, number| {
        while let Some(id) = next_request(&mut stream) {
            if number == 0 {
                go_away(&mut stream, id);
                std::thread::sleep(Duration::from_millis(200));
            }
            ok_frame(&mut stream, id);
        }
    }));
    let mut client = worker.client();
    for _ in 0..3 {
        client.send(POST);
        assert_eq!(client.response().status, 200);
    }
    let cell = worker.cell(0);
    assert_eq!(value(&cell.connections_created), 2);
    assert_eq!(value(&cell.replays[Rule::GoneAway as usize]), 0);
    eventually("the old one is closed", || gauge(&cell.connections) == 1);
}

#[test]
fn a_connection_that_ends_loses_what_must_not_be_executed_twice() {
    // Answers one request, and ends at the second.
    let worker = start(framing(|mut stream, _| {
        if let Some(id) = next_request(&mut stream) {
            ok_frame(&mut stream, id);
            next_request(&mut stream);
        }
    }));
    let mut client = worker.client();
    client.send(POST);
    assert_eq!(client.response().status, 200);
    client.send(POST);
    let lost = client.response();
    assert_eq!(
        (lost.status, header(&lost.head, "x-steerage-error")),
        (502, Some("stale_unproven"))
    );
    client.send(POST);
    assert_eq!(client.response().status, 200);
    assert_eq!(client.get("/").status, 200, "a GET is sent again");
    let cell = worker.cell(0);
    assert_eq!(value(&cell.replays[Rule::Idempotent as usize]), 1);
    assert_eq!(value(&cell.failures[FailureClass::Reset as usize]), 0, "nobody's fault");
    // A reset is that of a backend that has not read everything.
    let by_backend = [Cause::Eof, Cause::Reset].map(|cause| &cell.ends[cause as usize]);
    eventually("the ends are counted", || by_backend.into_iter().map(value).sum::<u64>() >= 2);
}

/// The beginning of a response: its head, and a piece of its body.
fn begin(stream: &mut TcpStream, id: u32) {
    send(stream, HEADERS, 4, id, &[0x88]);
    send(stream, DATA, 0, id, b"hello");
}

/// What a backend does with its first request, and what it comes to.
struct Case {
    name: &'static str,
    request: &'static str,
    act: fn(&mut TcpStream, u32),
    /// What the client gets: a whole response of this status, or `None` for the beginning of one.
    status: Option<u16>,
    error: Option<&'static str>,
    failure: Option<FailureClass>,
    /// How many connections this and the next request take.
    connections: u64,
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn cases() -> Vec<Case> {
    let broken = |name, act, failure, connections| {
        let (request, failure) = (GET, Some(failure));
        Case { name, request, act, status: None, error: None, failure, connections }
    };
    let refused = |name, act, error, failure, connections| {
        let (request, status, error, failure) = (POST, Some(502), Some(error), Some(failure));
        Case { name, request, act, status, error, failure, connections }
    };
    let right = |name, act| {
        let (request, status) = (GET, Some(200));
        Case { name, request, act, status, error: None, failure: None, connections: 1 }
    };
    vec![
        broken(
            "closes in the body",
            |stream, id| {
                begin(stream, id);
                stream.shutdown(Shutdown::Both).unwrap();
            },
            FailureClass::Reset,
            2,
        ),
        broken(
            "resets the stream in the body",
            |stream, id| {
                begin(stream, id);
                send(stream, RST_STREAM, 0, id, &[0, 0, 0, 2]);
            },
            FailureClass::Reset,
            1,
        ),
        broken("stalls in the body", begin, FailureClass::Stall, 1),
        refused(
            "resets the stream, because it must not be tried again",
            |stream, id| send(stream, RST_STREAM, 0, id, &[0, 0, 0, 11]),
            "reset",
            FailureClass::Reset,
            1,
        ),
        refused(
            "sends data of no stream",
            |stream, _| send(stream, DATA, 0, 0, b"what"),
            "protocol",
            FailureClass::Protocol,
            2,
        ),
        refused(
            "sends a head that is none",
            |stream, id| send(stream, HEADERS, 5, id, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            "protocol",
            FailureClass::Protocol,
            2,
        ),
        right("answers by 103 before 200", |stream, id| {
            send(stream, HEADERS, 4, id, b"\x08\x03103");
            ok_frame(stream, id);
        }),
        right("is asked for a refused stream again", |stream, id| {
            send(stream, RST_STREAM, 0, id, &[0, 0, 0, 7]);
        }),
    ]
}

#[test]
fn each_misbehaviour_has_its_outcome_for_client_connection_and_health() {
    for case in cases() {
        let is_first = Arc::new(AtomicU64::new(0));
        let act = case.act;
        let backend = framing(move |mut stream, _| {
            while let Some(id) = next_request(&mut stream) {
                match is_first.fetch_add(1, Ordering::SeqCst) {
                    0 => act(&mut stream, id),
                    _ => ok_frame(&mut stream, id),
                }
            }
        });
        let worker = Worker::start_with(&[backend], |model| {
            http2(model);
            model.listeners[0].routes[0].timeouts.stall = Duration::from_millis(300);
        });
        let mut client = worker.client();
        client.send(case.request);
        let head = read_head(&mut client.stream);
        let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        assert_eq!(status, Some(case.status.unwrap_or(200)), "{}: {head}", case.name);
        assert_eq!(header(&head, "x-steerage-error"), case.error, "{}", case.name);
        if case.status.is_none() {
            let mut rest = Vec::new();
            let _ = client.stream.read_to_end(&mut rest);
            assert_eq!(rest, b"5\r\nhello\r\n", "{}: no end of it", case.name);
        }
        let cell = worker.cell(0);
        let failures = || -> Vec<FailureClass> {
            let failed = |class: &FailureClass| value(&cell.failures[*class as usize]) != 0;
            FailureClass::ALL.into_iter().filter(failed).collect()
        };
        let expected: Vec<FailureClass> = case.failure.into_iter().collect();
        eventually(case.name, || failures() == expected);
        assert_eq!(worker.get("/").status, 200, "{}", case.name);
        assert_eq!(value(&cell.connections_created), case.connections, "{}", case.name);
    }
}

#[test]
fn a_backend_that_opens_no_window_stalls() {
    let worker = Worker::start_with(
        &[framing(|mut stream, _| while next_request(&mut stream).is_some() {})],
        |model| {
            http2(model);
            model.listeners[0].routes[0].timeouts.stall = Duration::from_millis(300);
        },
    );
    let mut client = worker.client();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10000000\r\n\r\n");
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let _ = sender.write_all(&[0; 10_000_000]);
    });
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
fn a_backend_that_speaks_no_http2_or_is_not_there_is_502() {
    let worker = start(answering(|_, _| ok("HTTP/1")));
    assert_eq!(worker.get("/").status, 502);
    let worker = start(nobody());
    let clients: Vec<Client> = (0..5).map(|_| worker.client()).collect();
    let clients = clients.into_iter().map(|mut client| {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client
    });
    for mut client in clients.collect::<Vec<_>>() {
        assert!(matches!(client.response().status, 502 | 503));
    }
}

#[test]
fn idle_connections_are_closed() {
    let worker = Worker::start_with(
        &[serving(100, async |_, respond| say(respond, "x".into()).await)],
        |model| {
            http2(model);
            model.services[0].upstream.idle = Duration::from_millis(200);
        },
    );
    assert_eq!(worker.get("/").status, 200);
    let cell = worker.cell(0);
    eventually("it was closed", || value(&cell.ends[Cause::Idle as usize]) == 1);
    assert_eq!(gauge(&cell.connections), 0);
    assert_eq!(worker.get("/").status, 200);
}

#[test]
fn a_client_that_leaves_takes_its_stream_with_it_and_no_other() {
    let (gone, is_gone) = std::sync::mpsc::channel();
    let (came, has_come) = std::sync::mpsc::channel();
    let worker = start(serving(100, move |request, mut respond| {
        let (gone, came) = (gone.clone(), came.clone());
        async move {
            if request.uri().path() == "/wait" {
                came.send(()).unwrap();
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                gone.send(reason).unwrap();
            } else {
                say(respond, "x".into()).await;
            }
        }
    }));
    let mut client = worker.client();
    client.send("GET /wait HTTP/1.1\r\nHost: a.test\r\n\r\n");
    has_come.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(client);
    assert_eq!(is_gone.recv_timeout(Duration::from_secs(20)).unwrap(), Reason::CANCEL);
    assert_eq!(worker.get("/").status, 200);
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}
