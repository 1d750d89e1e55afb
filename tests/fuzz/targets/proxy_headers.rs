//! PROXY headers: the verdict is the same with every further byte, a header is read as it is written, and
//! what is read is within the bytes that came.
//!
//! The first byte says whether the second version's signature and command go before the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steerage::l4::proxy_protocol::{BYTES_MAX, Version, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21";

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let bytes = match first % 3 {
        0 => rest.to_vec(),
        1 => [SIGNATURE, rest].concat(),
        _ => [b"PROXY ", rest].concat(),
    };
    let whole = parse(&bytes);
    // The first verdict is the last one.
    let verdict = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|said| *said != Ok(None));
    assert_eq!(verdict.unwrap_or(Ok(None)), whole);
    if whole == Ok(None) {
        assert!(bytes.len() < BYTES_MAX, "a header is certain at its longest");
    }
    let Ok(Some((header, length))) = whole else { return };
    assert!(length <= bytes.len() && length <= BYTES_MAX);
    let again = header.to_bytes(Version::V2);
    let (read, all) = parse(&again).expect("what is written is proper").expect("and whole");
    assert_eq!(all, again.len());
    if let (Some(read), Some(header)) = (read.addresses, header.addresses) {
        let canonical = |address: std::net::SocketAddr| (address.ip().to_canonical(), address.port());
        assert_eq!(canonical(read.source), canonical(header.source));
        assert_eq!(canonical(read.destination), canonical(header.destination));
    }
    assert_eq!(read.notes, header.notes);
});
