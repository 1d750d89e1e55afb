//! ClientHellos: the verdict is the same however the bytes are cut, nothing of them is lost, and what is
//! understood is understood by rustls too.
//!
//! The first byte says how the rest is cut, and whether it is given a record's head.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;
use steerage::l4::client_hello::{BYTES_MAX, ClientHello, Malformed, Reader};

fn read(bytes: &[u8], piece: usize) -> (Result<Option<ClientHello>, Malformed>, Vec<u8>) {
    let mut reader = Reader::default();
    for piece in bytes.chunks(piece) {
        match reader.feed(piece) {
            Ok(None) => {}
            outcome => return (outcome, reader.into_bytes()),
        }
    }
    (Ok(None), reader.into_bytes())
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let bytes = match first % 2 {
        0 => rest.to_vec(),
        _ => {
            let body = &rest[..rest.len().min(16_380)];
            let length = (body.len() as u32).to_be_bytes();
            let message = [&[1][..], &length[1..], body].concat();
            [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
        }
    };
    let (whole, seen) = read(&bytes, usize::MAX);
    assert_eq!(seen, bytes);
    let (pieces, seen) = read(&bytes, usize::from(*first / 2).max(1));
    assert_eq!(pieces, whole);
    assert_eq!(seen, bytes[..seen.len()]);
    if whole == Ok(None) {
        assert!(bytes.len() < BYTES_MAX);
    }
    let Ok(Some(hello)) = whole else { return };
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut &*bytes).is_err() {
        return;
    }
    // rustls asks for more than the names; where it is content it must see the same.
    if let Ok(Some(accepted)) = acceptor.accept() {
        let theirs = accepted.client_hello();
        let name = theirs.server_name().map(str::to_ascii_lowercase);
        if name.is_some() {
            assert_eq!(name, hello.server_name);
        }
        let alpn: Vec<Vec<u8>> = theirs.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        assert_eq!(alpn, hello.alpn);
    }
});
