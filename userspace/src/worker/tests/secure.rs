//! Backends that are spoken to by TLS.

mod peer;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use steerage_common::abi::{FailureClass, Handshake};
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::replay::{Refusal, Rule};

use super::harness::*;
use super::ledger::Ledger;
use super::{gauge, value};
use crate::config::model::{Trust, UpstreamProtocol, UpstreamTls};
use peer::*;

fn handshakes(worker: &Worker, kind: Handshake) -> u64 {
    value(&worker.cell(0).handshakes[kind as usize])
}

fn closed(worker: &Worker, cause: Cause) -> u64 {
    value(&worker.cell(0).ends[cause as usize])
}

fn replays(worker: &Worker, rule: Rule) -> u64 {
    value(&worker.cell(0).replays[rule as usize])
}

fn failures(worker: &Worker, backend: usize, class: FailureClass) -> u64 {
    value(&worker.cell(backend).failures[class as usize])
}

/// A worker with one backend that it reaches by TLS over HTTP/1.1.
fn start(backend: SocketAddr, trust: Trust) -> Worker {
    Worker::start_with(&[backend], speaking(tls(trust), UpstreamProtocol::Http1))
}

/// The promise: connections over TLS are kept like plain ones, and a new one goes on where a former left
/// off.
#[test]
fn connections_are_kept_and_sessions_resumed() {
    let known = Authority::new("Own");
    let address = serving(known.server(NAME, NOW, false), |tls| {
        assert_eq!(tls.conn.server_name(), Some(NAME));
        assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        for _ in 0..4 {
            let head = read_head(tls);
            if head.is_empty() {
                return;
            }
            tls.write_all(ok("fine").as_bytes()).unwrap();
        }
        say_goodbye(tls);
    });
    let worker = start(address, known.trusted());
    let mut client = worker.client();
    for round in 0..5 {
        for _ in 0..4 {
            assert_eq!(client.get("/").text(), "fine");
        }
        eventually("the backend's goodbye is heard", || {
            closed(&worker, Cause::CloseNotify) == round + 1
        });
    }
    let cell = worker.cell(0);
    assert_eq!((value(&cell.connections_created), value(&cell.connections_reused)), (5, 15));
    assert_eq!(handshakes(&worker, Handshake::Full), 1);
    assert_eq!(handshakes(&worker, Handshake::Resumed), 4);
    assert_eq!(handshakes(&worker, Handshake::Failed), 0);
    assert_eq!((gauge(&cell.connections), gauge(&cell.idle)), (0, 0));
}

/// What TLS itself says on an idle connection (tickets, other keys) is nobody's response: else every
/// connection of TLS 1.3 would be thrown away.
#[test]
fn what_tls_says_to_itself_on_an_idle_connection_is_no_poison() {
    let known = Authority::new("Own");
    let (said, is_said) = std::sync::mpsc::channel();
    let address = serving(known.server(NAME, NOW, false), move |tls| {
        while !read_head(tls).is_empty() {
            tls.write_all(ok("fine").as_bytes()).unwrap();
            // Its records follow the response as late tickets would.
            tls.conn.refresh_traffic_keys().unwrap();
            tls.flush().unwrap();
            said.send(()).unwrap();
        }
    });
    let worker = start(address, known.trusted());
    let mut client = worker.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "fine");
        is_said.recv().unwrap();
    }
    let cell = worker.cell(0);
    assert_eq!((value(&cell.connections_created), value(&cell.connections_reused)), (1, 9));
    assert_eq!(closed(&worker, Cause::Poison), 0);
}

/// What a backend does on an idle connection, and why that is closed then.
type Ending = (fn(&mut Secure), Cause);

#[test]
fn bytes_that_nobody_asked_for_are_poison_and_goodbyes_and_ends_are_none() {
    let known = Authority::new("Own");
    let endings: [Ending; 4] = [
        (|tls| tls.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(), Cause::Poison),
        (say_goodbye, Cause::CloseNotify),
        (|tls| tls.sock.shutdown(std::net::Shutdown::Write).unwrap(), Cause::EofWithoutCloseNotify),
        (send_alert, Cause::TlsAlert),
    ];
    for (ending, reason) in endings {
        let address = serving(known.server(NAME, NOW, false), move |tls| {
            read_head(tls);
            tls.write_all(ok("fine").as_bytes()).unwrap();
            ending(tls);
            await_end(tls);
        });
        let worker = start(address, known.trusted());
        let mut client = worker.client();
        assert_eq!(client.get("/").text(), "fine");
        eventually(&format!("it is closed: {}", reason.name()), || closed(&worker, reason) == 1);
        assert_eq!(client.get("/").text(), "fine", "on a connection of its own");
        assert_eq!(value(&worker.cell(0).connections_reused), 0);
    }
}

#[test]
fn each_fault_of_a_backend_is_a_502_with_its_class_and_another_backend_is_tried() {
    let (known, stranger) = (Authority::new("Own"), Authority::new("Strange"));
    let secure = |authority: &Authority, name, years| {
        serving(authority.server(name, years, false), |tls| answer(tls, "bad"))
    };
    let plain = backend(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let speaks_first = backend(|mut stream| {
        let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let hangs_up = backend(drop);
    let mut old = known.server(NAME, NOW, false);
    old.alpn_protocols = vec![b"smtp".to_vec()];
    let other_protocol = serving(old, |tls| answer(tls, "bad"));
    let wants_clients = serving(known.server(NAME, NOW, true), |tls| answer(tls, "bad"));
    for (what, address, class) in [
        ("name", secure(&known, "a.test", NOW), ErrorClass::TlsCertificateName),
        ("expired", secure(&known, NAME, (2019, 2020)), ErrorClass::TlsCertificateTime),
        ("to come", secure(&known, NAME, (3000, 4000)), ErrorClass::TlsCertificateTime),
        ("issuer", secure(&stranger, NAME, NOW), ErrorClass::TlsCertificateIssuer),
        ("speaks first", speaks_first, ErrorClass::NoTls),
        ("plain", plain, ErrorClass::NoTls),
        ("hangs up", hangs_up, ErrorClass::TlsHandshake),
        ("no protocol", other_protocol, ErrorClass::TlsAlert),
        ("wants clients", wants_clients, ErrorClass::TlsAlert),
    ] {
        let worker = start(address, known.trusted());
        let mut client = worker.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let response = client.response();
        assert_eq!(response.status, 502, "{what}");
        assert_eq!(header(&response.head, "x-steerage-error"), Some(class.name()), "{what}");
        assert_eq!(worker.errors(class), 1, "{what}");
        assert_eq!(failures(&worker, 0, FailureClass::Tls), 1, "{what}");
        let is_late = what == "wants clients";
        assert_eq!(handshakes(&worker, Handshake::Failed), u64::from(!is_late), "{what}");
        drop(worker);

        let good = serving(known.server(NAME, NOW, false), |tls| answer(tls, "good"));
        let speaking = speaking(tls(known.trusted()), UpstreamProtocol::Http1);
        let worker = Worker::start_with(&[address, good], speaking);
        for _ in 0..4 {
            assert_eq!(worker.get("/").text(), "good", "{what}");
        }
        let rule = if is_late { Rule::FreshLost } else { Rule::Connect };
        assert!(replays(&worker, rule) > 0, "{what}");
        assert!(failures(&worker, 0, FailureClass::Tls) > 0, "{what}");
        assert_eq!(failures(&worker, 1, FailureClass::Tls), 0, "{what}");
    }
}

/// The promise: a handshake that never ends is cut off, in the same time as the connection's making.
#[test]
fn a_backend_that_does_not_shake_hands_is_given_up() {
    let silent = backend(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let worker = Worker::start_with(&[silent], |model| {
        speaking(tls(Trust::Anybody), UpstreamProtocol::Http1)(model);
        model.listeners[0].routes[0].timeouts.connect = Duration::from_millis(100);
    });
    let response = worker.get("/");
    assert_eq!(response.status, 504);
    assert_eq!(header(&response.head, "x-steerage-error"), Some("connect_timeout"));
    assert_eq!(handshakes(&worker, Handshake::Failed), 1);
    assert_eq!(failures(&worker, 0, FailureClass::ConnectTimeout), 1);
}

#[test]
fn a_backend_that_asks_who_is_there_is_shown_the_certificate() {
    let known = Authority::new("Own");
    let address = serving(known.server(NAME, NOW, true), |tls| answer(tls, "known"));
    let (client, _files) = known.client("known");
    let tls = UpstreamTls { client: Some(client), ..tls(known.trusted()) };
    let worker = Worker::start_with(&[address], speaking(tls, UpstreamProtocol::Http1));
    for _ in 0..3 {
        assert_eq!(worker.get("/").text(), "known");
    }
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}

/// Without `sni` the certificate is to be for the backend's own name, or its address.
#[test]
fn a_backend_is_known_by_its_name_or_else_its_address() {
    let known = Authority::new("Own");
    for (host, name) in [(Some("backend.test"), "backend.test"), (None, "127.0.0.1")] {
        let sni = host.map(str::to_owned);
        let address = serving(known.server(name, NOW, false), move |tls| {
            assert_eq!(tls.conn.server_name(), sni.as_deref(), "an address is no SNI");
            answer(tls, "known");
        });
        let worker = Worker::start_with(&[address], |model| {
            let nameless = UpstreamTls { name: None, ..tls(known.trusted()) };
            speaking(nameless, UpstreamProtocol::Http1)(model);
            model.services[0].backends[0].host = host.map(str::to_owned);
        });
        assert_eq!(worker.get("/").text(), "known");
    }
}

/// How a backend ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Goodbye,
    Fin,
    Alert,
    Reset,
}

impl End {
    const ALL: [Self; 4] = [Self::Goodbye, Self::Fin, Self::Alert, Self::Reset];

    fn make(self, tls: &mut Secure) {
        match self {
            Self::Goodbye => say_goodbye(tls),
            Self::Fin => {}
            Self::Alert => send_alert(tls),
            Self::Reset => reset(&tls.sock),
        }
    }
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// The promise of plain connections holds here as well: what a backend may have executed is sent again
/// only if that does no harm, however the connection ended.
#[test]
fn a_kept_connection_lost_after_the_request_arrived_is_replayed_for_idempotent_ones_only() {
    let known = Authority::new("Own");
    for end in End::ALL {
        let executed = Arc::new(AtomicUsize::new(0));
        let count = executed.clone();
        let address = serving(known.server(NAME, NOW, false), move |tls| {
            for number in 0..2 {
                let head = read_head(tls);
                if head.is_empty() {
                    return;
                }
                read_body(tls, &head);
                count.fetch_add(1, Ordering::Relaxed);
                if number == 0 {
                    tls.write_all(ok("done").as_bytes()).unwrap();
                }
            }
            end.make(tls);
        });
        let worker = start(address, known.trusted());
        let mut client = worker.client();
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.get("/").status, 200, "{end:?}: a GET may run twice");
        assert_eq!(executed.load(Ordering::Relaxed), 3, "{end:?}");
        assert_eq!(replays(&worker, Rule::Idempotent), 1, "{end:?}");
        client.send(POST);
        let response = client.response();
        assert_eq!(response.status, 502, "{end:?}");
        assert_eq!(header(&response.head, "x-steerage-error"), Some("stale_unproven"), "{end:?}");
        assert_eq!(executed.load(Ordering::Relaxed), 4, "{end:?}: a POST may not");
        let refused = &worker.cell(0).refusals[Refusal::Unproven as usize];
        assert_eq!(value(refused), 1, "{end:?}");
        let failed: u64 = FailureClass::ALL.iter().map(|c| failures(&worker, 0, *c)).sum();
        assert_eq!(failed, 0, "{end:?}: a stale connection is nobody's failure");
    }
}

/// The race: the backend ends the connection right after its response, while the next request is on its
/// way, in any of the ways that there are.
#[test]
fn no_post_is_lost_or_doubled_when_the_backend_ends_kept_connections() {
    let known = Authority::new("Own");
    let (ledger, turn) = (Ledger::default(), AtomicUsize::new(0));
    let seen = ledger.clone();
    let address = serving(known.server(NAME, NOW, false), move |tls| {
        seen.serve(tls);
        End::ALL[turn.fetch_add(1, Ordering::Relaxed) % End::ALL.len()].make(tls);
    });
    ledger.race(&start(address, known.trusted()));
}

/// The promise of `auto`: what the backend takes is what it is spoken to by, also when it changes its mind.
#[test]
fn the_version_is_what_was_agreed_on_and_may_change() {
    let known = Authority::new("Own");
    let (address, config) = bilingual(known.server(NAME, NOW, false));
    let auto = speaking(tls(known.trusted()), UpstreamProtocol::Auto);
    let worker = Worker::start_with(&[address], auto);
    let agree_to = |protocols: &[&str]| {
        let mut config = config.lock().unwrap();
        let mut changed = (**config).clone();
        changed.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        *config = Arc::new(changed);
    };
    let mut client = worker.client();
    let mut made = 0;
    for (protocols, expected) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1"], "h1"),
        (&[], "h1"),
        (&["h2"], "h2"),
        (&["h2", "http/1.1"], "h2"),
    ] {
        agree_to(protocols);
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), expected, "{protocols:?}");
        }
        made += 1;
        assert_eq!(value(&worker.cell(0).connections_created), made, "{protocols:?}");
        assert_eq!(client.get("/end").text(), expected);
        eventually("the connection is gone", || gauge(&worker.cell(0).connections) == 0);
    }
    let failed: u64 = FailureClass::ALL.iter().map(|class| failures(&worker, 0, *class)).sum();
    assert_eq!(failed, 0);
}

/// A burst to a backend of which nothing is known makes one connection to find out.
#[test]
fn who_comes_first_asks_for_all() {
    let known = Authority::new("Own");
    for (protocols, expected, most) in [(&["h2"][..], "h2", 1), (&["http/1.1"], "h1", 16)] {
        let mut config = known.server(NAME, NOW, false);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (address, _) = bilingual(config);
        let auto = speaking(tls(known.trusted()), UpstreamProtocol::Auto);
        let worker = Worker::start_with(&[address], auto);
        let mut clients: Vec<Client> = (0..16).map(|_| worker.client()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().text(), expected);
        }
        let made = value(&worker.cell(0).connections_created);
        assert!((1..=most).contains(&made), "{expected}: {made} connections");
    }
}

#[test]
fn a_backend_that_has_to_take_http2_and_does_not_is_a_502() {
    let known = Authority::new("Own");
    let mut config = known.server(NAME, NOW, false);
    for (protocols, class) in [(&["http/1.1"][..], "tls_alert"), (&[], "no_http2")] {
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (address, _) = bilingual(config.clone());
        let http2 = speaking(tls(known.trusted()), UpstreamProtocol::Http2);
        let worker = Worker::start_with(&[address], http2);
        let response = worker.get("/");
        assert_eq!(response.status, 502);
        assert_eq!(header(&response.head, "x-steerage-error"), Some(class));
        assert_eq!(failures(&worker, 0, FailureClass::Tls), 1);
    }
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A tunnel goes over HTTP/1.1 where the backend may choose, and its ends are passed on.
#[test]
fn tunnels_pass_bytes_both_ways_and_their_end() {
    const BYTES: usize = 1 << 20;
    let known = Authority::new("Own");
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Auto] {
        let address = serving(known.server(NAME, NOW, false), |tls| {
            assert_eq!(tls.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(header(&read_head(tls), "upgrade"), Some("websocket"));
            // The first bytes come with the answer.
            tls.write_all(format!("{SWITCH}hello").as_bytes()).unwrap();
            let mut echo = vec![0; BYTES];
            tls.read_exact(&mut echo).unwrap();
            tls.write_all(&echo).unwrap();
            let mut rest = Vec::new();
            tls.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"bye", "and then close_notify, which is no error");
        });
        let worker = Worker::start_with(&[address], speaking(tls(known.trusted()), protocol));
        let mut client = worker.client();
        client.send(ASK);
        assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
        let mut hello = [0; 5];
        client.stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        let mut writer = client.stream.try_clone().unwrap();
        let copy = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut echo = vec![0; BYTES];
        client.stream.read_exact(&mut echo).unwrap();
        writing.join().unwrap();
        assert!(echo == sent, "every byte comes back");
        client.send("bye");
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.rest(), "");
        eventually("it has ended", || gauge(&worker.cell(0).tunnels) == 0);
    }
}

/// The body is not sent before the backend asks for it, and then passes whole.
#[test]
fn a_body_waits_for_the_backend_and_long_ones_pass_both_ways() {
    const BYTES: usize = 3 << 20;
    let known = Authority::new("Own");
    let address = serving(known.server(NAME, NOW, false), |tls| {
        let head = read_head(tls);
        if header(&head, "expect").is_some() {
            tls.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        let body = String::from_utf8(read_body(tls, &head)).unwrap();
        tls.write_all(ok(&body).as_bytes()).unwrap();
        say_goodbye(tls);
    });
    let worker = start(address, known.trusted());
    let body = "0123456789abcdef".repeat(BYTES / 16);
    let mut client = worker.client();
    client.send(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {BYTES}\r\n\r\n"
    ));
    assert!(read_head(&mut client.stream).starts_with("http/1.1 100 "));
    client.send(&body);
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.text() == body);
}

/// The promise: what is decided anew about TLS holds for the next request; no connection of the former
/// identity is used again.
#[test]
fn a_change_of_the_identity_closes_what_was_made_under_the_former() {
    let known = Authority::new("Own");
    let address = serving(known.server(NAME, NOW, false), |tls| answer(tls, "fine"));
    let mut worker = start(address, known.trusted());
    let mut client = worker.client();
    assert_eq!(client.get("/").text(), "fine");
    let tenants = worker.tenants.clone();
    let made = |worker: &Worker| value(&worker.cell(0).connections_created);

    let mut model = worker.model.clone();
    model.services[0].retry.attempts = 7;
    worker.take(model.clone(), tenants.clone());
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!(made(&worker), 1, "other changes keep it");

    model.services[0].upstream_tls = Some(tls(Trust::Anybody));
    worker.take(model.clone(), tenants.clone());
    eventually("the idle one is closed", || gauge(&worker.cell(0).connections) == 0);
    assert_eq!(client.get("/").text(), "fine");
    assert_eq!((made(&worker), gauge(&worker.cell(0).idle)), (2, 1));
    assert_eq!(handshakes(&worker, Handshake::Full), 2, "nor is its session");

    model.services[0].upstream_tls = Some(tls(Authority::new("Other").trusted()));
    worker.take(model.clone(), tenants.clone());
    let response = client.get("/");
    assert_eq!(header(&response.head, "x-steerage-error"), Some("tls_certificate_issuer"));

    model.services[0].upstream_tls = None;
    worker.take(model, tenants);
    assert_eq!(client.get("/").status, 502, "it speaks TLS alone");
    assert_eq!(handshakes(&worker, Handshake::Full), 2);
}
