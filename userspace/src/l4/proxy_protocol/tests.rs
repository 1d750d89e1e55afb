use proptest::prelude::*;

use super::*;
use crate::cases;

const TABLE: &str = include_str!("../../../../tests/hostile/proxy_headers.txt");

/// The table's word for an outcome.
fn word(outcome: &Result<Option<(Header, usize)>, Malformed>) -> String {
    match outcome {
        Ok(None) => "more".into(),
        Ok(Some((header, _))) => header.addresses.map_or("own".into(), |addresses| {
            format!("{}>{}", addresses.source, addresses.destination)
        }),
        Err(malformed) => match malformed {
            Malformed::None => "none",
            Malformed::Endless => "endless",
            Malformed::Line => "line",
            Malformed::Command(_) => "command",
            Malformed::Family(_) => "family",
            Malformed::Length(_) => "length",
            Malformed::Notes => "notes",
            Malformed::Checksum => "checksum",
        }
        .into(),
    }
}

#[test]
fn every_case_of_the_table_is_judged_so_however_it_is_cut() {
    let named = |name: &str| (name == "V2").then(|| b"\r\n\r\n\0\r\nQUIT\n".to_vec());
    let mut cases = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        let bytes = cases::unescaped(text, &named);
        let whole = parse(&bytes);
        assert_eq!(word(&whole), expected, "line {line}");
        // The first word that is not "more" is the last one: bytes that follow change nothing.
        let by_byte = (1..=bytes.len()).map(|end| parse(&bytes[..end]));
        let first = by_byte.into_iter().find(|outcome| *outcome != Ok(None));
        assert_eq!(first.unwrap_or(Ok(None)), whole, "line {line}, byte by byte");
        cases += 1;
    }
    assert!(cases > 80, "{cases}");
}

#[test]
fn the_longest_line_is_taken_and_what_follows_is_left() {
    let line = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(line.len(), v1::BYTES_MAX);
    let bytes = [&line[..], b"PROXY "].concat();
    assert_eq!(parse(&bytes), Ok(Some((Header::default(), line.len()))));
}

#[test]
fn families_that_differ_become_one() {
    let addresses = Addresses {
        source: "192.0.2.1:1000".parse().unwrap(),
        destination: "[2001:db8::1]:443".parse().unwrap(),
    };
    let header = Header { addresses: Some(addresses), notes: Notes::default() };
    let line = header.to_bytes(Version::V1);
    assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1000 443\r\n");
    assert!(parse(&line).unwrap().is_some());
    let mapped = Addresses {
        source: "[::ffff:192.0.2.1]:1000".parse().unwrap(),
        destination: "[::ffff:192.0.2.2]:443".parse().unwrap(),
    };
    let header = Header { addresses: Some(mapped), notes: Notes::default() };
    assert_eq!(header.to_bytes(Version::V1), b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n");
}

#[test]
fn without_a_client_it_speaks_for_ourselves() {
    assert_eq!(Header::default().to_bytes(Version::V1), b"PROXY UNKNOWN\r\n");
    let local = Header::default().to_bytes(Version::V2);
    assert_eq!((local.len(), local[12]), (16, 0x20));
}

#[test]
fn notes_that_find_no_room_are_left_out() {
    let mut notes = Notes::default();
    notes.set(Kind::Authority, &[b'a'; 4000]);
    notes.set(Kind::Alpn, &[b'b'; 255]);
    notes.set(Kind::UniqueId, b"id");
    let bytes = Header { addresses: None, notes }.to_bytes(Version::V2);
    let (header, length) = parse(&bytes).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    assert_eq!(header.notes.get(Kind::Authority).map(<[u8]>::len), Some(4000));
    assert_eq!(
        (header.notes.get(Kind::Alpn), header.notes.get(Kind::UniqueId)),
        (None, Some(&b"id"[..]))
    );
}

#[test]
fn a_note_of_tls_is_one() {
    let tls = Tls {
        version: "TLSv1.3".into(),
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        has_certificate: true,
        common_name: Some("client".into()),
    };
    let bytes = tls.to_bytes();
    assert_eq!(bytes[..8], [7, 0, 0, 0, 0, 0x21, 0, 7]);
    let mut notes = Notes::default();
    notes.set(Kind::Tls, &bytes);
    assert_eq!(notes.get(Kind::Tls), Some(&*bytes));
    assert_eq!(Tls::default().to_bytes(), [1, 0, 0, 0, 1]);
}

fn ends() -> impl Strategy<Value = Addresses> {
    let v4 = || any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.into(), port));
    // Of documentation: never a mapped one.
    let v6 = || {
        any::<([u8; 12], u16)>().prop_map(|(ip, port)| {
            let mut whole = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            whole[4..].copy_from_slice(&ip);
            SocketAddr::new(whole.into(), port)
        })
    };
    let both = |(source, destination)| Addresses { source, destination };
    prop_oneof![(v4(), v4()).prop_map(both), (v6(), v6()).prop_map(both)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        addresses in proptest::option::of(ends()),
        authority in "[a-z.]{0,40}",
        id in proptest::collection::vec(any::<u8>(), 0..140),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut notes = Notes::default();
        notes.set(Kind::Authority, authority.as_bytes());
        notes.set(Kind::UniqueId, &id);
        let header = Header { addresses, notes };
        for version in [Version::V1, Version::V2] {
            let bytes = header.to_bytes(version);
            let read = parse(&[&bytes[..], &rest].concat()).unwrap();
            let notes = if version == Version::V1 { Notes::default() } else { header.notes.clone() };
            prop_assert_eq!(read, Some((Header { addresses, notes }, bytes.len())));
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0..16_usize) {
        let signed = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20", &bytes[..]].concat();
        for bytes in [&bytes[..], &signed[cut.min(signed.len())..], &signed] {
            if let Ok(Some((_, length))) = parse(bytes) {
                prop_assert!(length <= bytes.len() && length <= BYTES_MAX);
            }
        }
    }
}
