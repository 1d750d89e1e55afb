use proptest::prelude::*;

use super::*;
use crate::cases;

const TABLE: &str = include_str!("../../../../tests/hostile/client_hellos.txt");

/// A hello as the table's words make it.
pub(crate) fn hello(words: &str) -> Vec<u8> {
    if let Some(raw) = words.strip_prefix("raw ") {
        return cases::unescaped(raw, &|_| None);
    }
    let mut extensions = Vec::new();
    let mut extend = |kind: u16, content: &[u8]| {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend(vector16(content));
    };
    let (mut session, mut suites, mut compressions) = (0, 2, 1);
    let (mut is_bare, mut behind, mut record, mut more, mut cut) = (false, vec![], 16_384, 0, 0);
    let words = words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>();
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        at += 1;
        let (key, value) = word.split_once(['=', ':']).unwrap_or((word, ""));
        let number = || value.parse::<i64>().unwrap();
        let bytes = || hex(value);
        match key {
            "sni" => {
                let name = cases::unescaped(value, &|_| None);
                extend(0, &vector16(&[&[0][..], &vector16(&name)].concat()));
            }
            "alpn" if word.contains('=') => {
                let each =
                    value.split(',').map(|name| [&[name.len() as u8], name.as_bytes()].concat());
                extend(16, &vector16(&each.collect::<Vec<_>>().concat()));
            }
            "name" | "alpn" => {
                // Hexadecimal digits may be in groups.
                let mut digits = value.to_owned();
                while at < words.len() && words[at].bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    digits += words[at];
                    at += 1;
                }
                extend(if key == "name" { 0 } else { 16 }, &hex(&digits));
            }
            "pad" => {
                let mut left = number() as usize;
                // An extension has 65,535 bytes at most.
                while left > 60_000 {
                    extend(0xfafa, &vec![7; 30_000]);
                    left -= 30_000;
                }
                extend(0xfafb, &vec![7; left]);
            }
            "session" => session = number() as usize,
            "suites" => suites = number() as usize,
            "compressions" => compressions = number() as usize,
            "bare" => is_bare = true,
            "extra" => behind = bytes(),
            "records" => record = number() as usize,
            "length" => more = number(),
            "cut" => cut = number() as usize,
            other => panic!("{other}"),
        }
    }
    let mut body = [&[3, 3][..], &[9; 32], &vector8(session), &vector16(&vec![1; suites])].concat();
    body.extend(vector8(compressions));
    if !is_bare {
        // What does not fit into the length is the reader's to refuse by the message's.
        let length = extensions.len().min(0xffff) as u16;
        body.extend_from_slice(&length.to_be_bytes());
        body.extend(extensions);
    }
    body.extend(behind);
    let length = (body.len() as i64 + more) as u32;
    let message = [&[1][..], &length.to_be_bytes()[1..], &body].concat();
    let records = message.chunks(record).map(|piece| [&[22, 3, 1][..], &vector16(piece)].concat());
    let mut bytes = records.collect::<Vec<_>>().concat();
    bytes.truncate(bytes.len() - cut);
    bytes
}

fn vector8(length: usize) -> Vec<u8> {
    [vec![length as u8], vec![0; length]].concat()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

fn hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Feeds a reader in pieces.
fn read(bytes: &[u8], piece: usize) -> (Result<Option<ClientHello>, Malformed>, Reader) {
    let mut reader = Reader::default();
    for piece in bytes.chunks(piece) {
        match reader.feed(piece) {
            Ok(None) => {}
            outcome => return (outcome, reader),
        }
    }
    (Ok(None), reader)
}

fn word(outcome: &Result<Option<ClientHello>, Malformed>) -> String {
    match outcome {
        Ok(None) => "more".into(),
        Ok(Some(hello)) => {
            let alpn = hello.alpn.iter().map(|name| String::from_utf8_lossy(name));
            let alpn = alpn.collect::<Vec<_>>().join(",");
            format!("{} [{alpn}]", hello.server_name.as_deref().unwrap_or("-"))
        }
        Err(malformed) => match malformed.alert() {
            Alert::UnexpectedMessage => "unexpected_message",
            Alert::RecordOverflow => "record_overflow",
            Alert::DecodeError => "decode_error",
            other => panic!("{other:?}"),
        }
        .into(),
    }
}

#[test]
fn every_case_of_the_table_is_judged_so_however_it_is_cut() {
    let mut cases = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        let bytes = hello(text);
        for piece in [bytes.len(), 1, 2, 7, 1448] {
            let (outcome, reader) = read(&bytes, piece);
            assert_eq!(word(&outcome), expected, "line {line}, in pieces of {piece}");
            if matches!(outcome, Ok(Some(_))) {
                // Whoever is behind sees what the client sent.
                let seen = reader.into_bytes();
                assert_eq!(seen, bytes[..seen.len()], "line {line}");
            }
        }
        cases += 1;
    }
    assert!(cases > 80, "{cases}");
}

#[test]
fn what_follows_the_hello_is_kept() {
    let bytes = [&hello("sni=a.example.com")[..], b"early data"].concat();
    let mut reader = Reader::default();
    assert!(reader.feed(&bytes).unwrap().is_some());
    assert_eq!(reader.into_bytes(), bytes);
}

#[test]
fn a_client_that_says_too_much_is_turned_away_before_it_has_said_all() {
    let mut reader = Reader::default();
    // Records of one byte each: the message's end is never reached.
    let head =
        [&[22, 3, 1, 0, 4, 1, 0, 0xff, 0xf0][..], &[22, 3, 1, 0, 1, 0].repeat(30_000)].concat();
    let taken = head.chunks(100).take_while(|piece| reader.feed(piece).is_ok()).count() * 100;
    assert!((BYTES_MAX - 100..=BYTES_MAX).contains(&taken), "{taken}");
}

#[test]
fn real_clients_are_understood() {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "www.example.com".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    let (outcome, _) = read(&bytes, 100);
    assert_eq!(word(&outcome), "www.example.com [h2]");
}

#[test]
fn alerts_are_records() {
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0..200_usize,
        piece in 1..50_usize,
    ) {
        let mut near = hello("sni=a.example.com alpn=h2,http/1.1 pad=20");
        let from = at.min(near.len());
        let until = (from + bytes.len() % 7).min(near.len());
        near.splice(from..until, bytes.iter().copied().take(5));
        for bytes in [&bytes, &near] {
            let (whole, _) = read(bytes, bytes.len().max(1));
            let (pieces, reader) = read(bytes, piece);
            prop_assert_eq!(whole, pieces);
            prop_assert!(reader.into_bytes().len() <= bytes.len());
        }
    }
}
