//! PROXY headers: whose are believed, what follows from them, and what backends are told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;

use super::harness::*;
use crate::cases;
use crate::config::model::Model;
use crate::l4::proxy_protocol::{Addresses, Header, Kind, Notes, Version, parse};

const TABLE: &str = include_str!("../../../../tests/hostile/proxy_headers.txt");

const FROM_HERE: &str = "proxy_protocol = { accept_from = ['127.0.0.0/8'] }\n";
const FROM_ELSEWHERE: &str = "proxy_protocol = { accept_from = ['192.0.2.0/24', '::1'] }\n";

const ROUTE: &str = "[[listener.route]]\nservice = 'a'\n";

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A backend that answers with who asks, as it is told.
fn telling() -> SocketAddr {
    answering(|head, _| ok(header(head, "x-forwarded-for").unwrap_or("nobody")))
}

/// Tells what reached it, whole.
fn hearing() -> (SocketAddr, Receiver<Vec<u8>>) {
    let (told, hears) = channel();
    let told = std::sync::Mutex::new(told);
    let address = backend(move |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let _ = told.lock().unwrap().send(all);
    });
    (address, hears)
}

fn http(accept: &str, change: impl FnOnce(&mut Model)) -> Worker {
    Worker::configured(&format!("{accept}{ROUTE}"), &[telling()], change)
}

fn named(name: &str) -> Option<Vec<u8>> {
    (name == "V2").then(|| b"\r\n\r\n\0\r\nQUIT\n".to_vec())
}

#[test]
fn the_client_is_whom_the_header_names() {
    let worker = http(FROM_HERE, |_| {});
    let mut cases = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        let Some((source, _)) = expected.split_once('>') else { continue };
        let mut bytes = cases::unescaped(text, &named);
        // Nothing behind the header but a request.
        let (_, length) = parse(&bytes).unwrap().unwrap();
        bytes.truncate(length);
        bytes.extend_from_slice(GET.as_bytes());
        let ip = source.parse::<SocketAddr>().unwrap().ip().to_string();
        for pieces in [bytes.len(), 1, 5] {
            let mut client = worker.client();
            for piece in bytes.chunks(pieces) {
                client.stream.write_all(piece).unwrap();
            }
            assert_eq!(client.response().text(), ip, "line {line}");
            assert_eq!(client.get("/").text(), ip, "and for all requests");
        }
        cases += 1;
    }
    assert!(cases > 5, "{cases}");
    // One that names nobody.
    for own in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN a b c\r\n"] {
        let mut client = worker.client();
        client.send(&format!("{own}{GET}"));
        assert_eq!(client.response().text(), "127.0.0.1");
    }
}

#[test]
fn a_proxy_that_sends_no_proper_header_is_cut_off() {
    let worker = http(FROM_HERE, |_| {});
    let mut counted = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        if expected.contains('>') || ["own", "more"].contains(&expected) {
            continue;
        }
        let mut client = worker.client();
        let bytes = [cases::unescaped(text, &named), GET.into()].concat();
        client.stream.write_all(&bytes).unwrap();
        let read = client.stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(ErrorKind::ConnectionReset), "line {line}");
        counted += 1;
        eventually("it is counted", || worker.ends(Cause::ProxyHeader) == counted);
    }
    assert!(counted > 50, "{counted}");
    // A header that nobody finishes, and a look at the port.
    let mut client = worker.client();
    client.send("PROXY TCP4");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.stream.read(&mut [0]).is_err());
    eventually("it is counted", || worker.ends(Cause::ProxyHeader) == counted + 1);
    drop(worker.client());
    eventually("it is counted", || worker.ends(Cause::Eof) == 1);
}

#[test]
fn a_header_must_come_in_time() {
    let worker = http(FROM_HERE, |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(200);
    });
    let mut client = worker.client();
    client.send("PROXY TCP4 192.0.2.1");
    assert!(client.stream.read(&mut [0]).is_err());
    assert_eq!(worker.ends(Cause::PreambleTimeout), 1);
}

#[test]
fn nobody_else_is_believed() {
    let worker = http(FROM_ELSEWHERE, |_| {});
    let mut refused = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        let bytes = cases::unescaped(text, &named);
        if !(expected.contains('>') || expected == "own") {
            continue;
        }
        let mut client = worker.client();
        let _ = client.stream.write_all(&bytes);
        let _ = client.stream.write_all(GET.as_bytes());
        assert_eq!(client.response().status, 400, "line {line}");
        refused += 1;
    }
    let all = || ErrorClass::ALL.iter().map(|class| worker.errors(*class)).sum::<u64>();
    eventually("each is counted", || all() == refused);
    assert_eq!(worker.get("/").text(), "127.0.0.1");
    assert_eq!(worker.ends(Cause::ProxyHeader), 0);
    // For a tcp listener they are bytes.
    let (server, hears) = hearing();
    let keys = format!("{FROM_ELSEWHERE}service = 'a'");
    let worker = Worker::passing("tcp", &keys, &[server], |_| {});
    let line = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nx";
    worker.client().send(line);
    assert_eq!(hears.recv().unwrap(), line.as_bytes());
}

#[test]
fn limits_are_those_of_the_client_that_is_named() {
    let worker = http(FROM_HERE, |model| {
        model.listeners[0].limits.connections_per_address = 1;
    });
    let ask = |ip: &str| {
        let mut client = worker.client();
        client.send(&format!("PROXY TCP4 {ip} 192.0.2.9 1 2\r\n{GET}"));
        let status = client.response().status;
        (client, status)
    };
    let (_one, first) = ask("192.0.2.1");
    let (_other, second) = ask("192.0.2.2");
    let (_third, third) = ask("192.0.2.1");
    assert_eq!((first, second, third), (200, 200, 429));
}

#[test]
fn a_client_that_is_named_may_be_a_trusted_proxy_itself() {
    let worker = http(FROM_HERE, |model| {
        model.global.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    });
    let ask = |ip: &str| {
        let mut client = worker.client();
        client.send(&format!(
            "PROXY TCP4 {ip} 192.0.2.9 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\
             X-Forwarded-For: 10.1.1.1\r\n\r\n"
        ));
        client.response().text().to_owned()
    };
    assert_eq!(ask("192.0.2.1"), "10.1.1.1, 192.0.2.1");
    assert_eq!(ask("198.51.100.1"), "198.51.100.1");
}

/// Reads the header that a connection to a backend begins with.
fn introduction(stream: &mut TcpStream) -> Header {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
        if let Some((header, length)) = parse(&bytes).unwrap() {
            assert_eq!(length, bytes.len());
            return header;
        }
    }
}

#[test]
fn a_backend_is_told_of_the_client_by_the_first_bytes() {
    for version in [Version::V1, Version::V2] {
        let (told, hears) = channel();
        let told = std::sync::Mutex::new(told);
        let server = backend(move |mut stream| {
            let header = introduction(&mut stream);
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            told.lock().unwrap().send((header, rest)).unwrap();
        });
        let keys = format!("{FROM_HERE}service = 'a'");
        let worker = Worker::passing("tcp", &keys, &[server], |model| {
            model.services[0].upstream.proxy_protocol = Some(version);
        });
        let mut notes = Notes::default();
        notes.set(Kind::UniqueId, b"some id");
        let (source, destination) =
            ("[2001:db8::1]:7".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
        let header = Header { addresses: Some(Addresses { source, destination }), notes };
        let mut client = worker.client();
        client.stream.write_all(&header.to_bytes(Version::V2)).unwrap();
        client.send("bytes");
        drop(client);
        let (heard, rest) = hears.recv().unwrap();
        assert_eq!((heard.addresses, &*rest), (header.addresses, "bytes"));
        // Only the second version has room for them.
        let id = (version == Version::V2).then_some(&b"some id"[..]);
        assert_eq!(heard.notes.get(Kind::UniqueId), id);

        // Of a connection without a header its own ends are told.
        let mut client = worker.client();
        client.stream.write_all(&Header::default().to_bytes(version)).unwrap();
        let source = client.stream.local_addr().unwrap();
        drop(client);
        let told = hears.recv().unwrap().0.addresses;
        assert_eq!(told, Some(Addresses { source, destination: worker.address }));
    }
}

#[test]
fn a_connection_to_a_backend_is_of_one_client_then() {
    let connections = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let made = connections.clone();
    let server = backend(move |mut stream| {
        let source = introduction(&mut stream).addresses.unwrap().source;
        made.lock().unwrap().push(source);
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            stream.write_all(ok(&source.port().to_string()).as_bytes()).unwrap();
        }
    });
    let worker = Worker::start_with(&[server], |model| {
        model.services[0].upstream.proxy_protocol = Some(Version::V1);
    });
    let mut clients: Vec<_> = (0..4).map(|_| worker.client()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            let port = client.stream.local_addr().unwrap().port();
            assert_eq!(client.get("/").text(), port.to_string());
        }
    }
    let mut sources = connections.lock().unwrap().clone();
    assert_eq!(sources.len(), 4, "and each is used again by its client");
    sources.dedup();
    assert_eq!(sources.len(), 4);
}
