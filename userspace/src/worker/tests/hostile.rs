//! What is not HTTP, or could be two things at once: `tests/hostile/requests.txt`.
//!
//! Each sequence is sent to a worker whose backend records what reaches it and judges it by rules of its
//! own. The client must get the answers of the proper requests before it, then the refusal with its
//! class, then the connection's end; and the next client must be served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use steerage_common::error::ErrorClass;

use super::harness::*;
use super::value;
use crate::cases;

const CORPUS: &str = include_str!("../../../../tests/hostile/requests.txt");

const PROPER: &[u8] = b"GET /legit HTTP/1.1\r\nHost: a\r\n\r\n";

const EVIL: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

struct Sequence {
    line: usize,
    class: ErrorClass,
    proper: usize,
    bytes: Vec<u8>,
}

fn sequences() -> Vec<Sequence> {
    let mut sequences = Vec::new();
    for (number, head, text) in cases::lines(CORPUS) {
        let (name, proper) = head.split_once(" +").unwrap_or((head, "0"));
        let class = ErrorClass::ALL.iter().find(|class| class.name() == name);
        let (class, proper) = (*class.unwrap(), proper.parse().unwrap());
        let controls: Vec<u8> = (0..=0x7f).filter(|byte: &u8| byte.is_ascii_control()).collect();
        let controls = controls.into_iter().filter(|byte| !b"\t\r\n".contains(byte));
        match text.split_once("{CTL}") {
            None => {
                let bytes = unescaped(text);
                sequences.push(Sequence { line: number, class, proper, bytes });
            }
            Some((before, after)) => sequences.extend(controls.map(|byte| {
                let bytes = [&unescaped(before)[..], &[byte], &unescaped(after)].concat();
                Sequence { line: number, class, proper, bytes }
            })),
        }
    }
    sequences
}

fn unescaped(text: &str) -> Vec<u8> {
    let named = |name: &str| match name {
        "OK" => Some(PROPER.to_vec()),
        "EVIL" => Some(EVIL.to_vec()),
        _ => None,
    };
    cases::unescaped(text, &named)
}

/// What reached the backend.
#[derive(Default)]
struct Record {
    whole: usize,
    wrong: Vec<String>,
}

/// A backend that trusts nobody.
fn recording(record: Arc<Mutex<Record>>) -> SocketAddr {
    backend(move |mut stream| {
        while let Some(head) = raw_head(&mut stream) {
            let wrong = judge(&head);
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            // Of a body that is not whole nothing counts.
            let is_whole = has_body(&mut stream, &text);
            let mut record = record.lock().unwrap();
            record.wrong.extend(wrong.map(|why| format!("{why}: {text:?}")));
            if !is_whole {
                return;
            }
            record.whole += 1;
            drop(record);
            if stream.write_all(ok("").as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn raw_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

/// What is wrong with a head.
fn judge(head: &[u8]) -> Option<&'static str> {
    let lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    let (_, lines) = lines.split_last()?;
    let count = |name: &str| {
        let is_named = |line: &&&[u8]| {
            let line = String::from_utf8_lossy(line).to_ascii_lowercase();
            line.split(':').next().is_some_and(|start| start.trim() == name)
        };
        lines.iter().filter(is_named).count()
    };
    if !lines.iter().all(|line| line.ends_with(b"\r")) {
        Some("a bare LF")
    } else if lines.iter().any(|line| line[..line.len() - 1].contains(&b'\r')) {
        Some("a bare CR")
    } else if lines.iter().any(|line| line.starts_with(b" ") || line.starts_with(b"\t")) {
        Some("a folded header")
    } else if count("content-length") + count("transfer-encoding") > 1 {
        Some("two lengths")
    } else if count("host") != 1 {
        Some("not one host")
    } else if head.windows(9).any(|window| window == b"/smuggled") {
        Some("smuggled")
    } else {
        None
    }
}

/// Reads a body; whether it is whole.
fn has_body(stream: &mut TcpStream, head: &str) -> bool {
    if let Some(length) = header(head, "content-length") {
        let mut body = vec![0; length.parse().unwrap()];
        return stream.read_exact(&mut body).is_ok();
    }
    if header(head, "transfer-encoding").is_none() {
        return true;
    }
    loop {
        let Some(line) = raw_line(stream) else { return false };
        let Ok(size) = usize::from_str_radix(&line, 16) else { return false };
        if size == 0 {
            return raw_line(stream).is_some_and(|line| line.is_empty());
        }
        let mut chunk = vec![0; size + 2];
        if stream.read_exact(&mut chunk).is_err() || !chunk.ends_with(b"\r\n") {
            return false;
        }
    }
}

fn raw_line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

/// Sends each sequence in pieces, and looks at what everybody saw.
fn try_all(pieces: impl Fn(&[u8]) -> Vec<&[u8]>) {
    let record = Arc::new(Mutex::new(Record::default()));
    let worker = Worker::start(&[recording(record.clone())]);
    let all = sequences();
    assert!(all.len() > 200);
    let mut proper = 0;
    for Sequence { line, class, proper: before, bytes } in &all {
        let what = format!("line {line}: {}", bytes.escape_ascii());
        let what = &what[..what.len().min(400)];
        let counted = worker.errors(*class);
        let mut client = worker.client();
        client.stream.set_nodelay(true).unwrap();
        for piece in pieces(bytes) {
            // It may have heard enough.
            if client.stream.write_all(piece).is_err() {
                break;
            }
        }
        for _ in 0..*before {
            assert_eq!(client.response().status, 200, "{what}");
        }
        let refusal = client.response();
        assert_eq!(refusal.status, class.status(), "{what}");
        assert_eq!(header(&refusal.head, "x-steerage-error"), Some(class.name()), "{what}");
        assert_eq!(header(&refusal.head, "connection"), Some("close"), "{what}");
        assert_eq!(client.rest(), "", "{what}");
        assert_eq!(worker.errors(*class), counted + 1, "{what}");
        assert_eq!(worker.get("/legit").status, 200, "{what}");
        proper += before + 1;
        let record = record.lock().unwrap();
        assert_eq!(record.wrong, [""; 0], "{what}");
        assert_eq!(record.whole, proper, "{what}");
    }
    assert_eq!(worker.cell(0).failures.iter().map(value).sum::<u64>(), 0);
}

#[test]
fn no_hostile_request_reaches_a_backend_in_one_piece() {
    try_all(|bytes| vec![bytes]);
}

#[test]
fn no_hostile_request_reaches_a_backend_in_many_pieces() {
    // Cut where the longest ones still are some hundred pieces.
    try_all(|bytes| bytes.chunks(bytes.len().div_ceil(100).max(7)).collect());
}
