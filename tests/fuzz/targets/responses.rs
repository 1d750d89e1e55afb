//! Responses: however the bytes are cut the opinion is the same, and what passes is HTTP to httparse.
//!
//! The first byte says how the rest is cut, the second what was asked.

#![no_main]

mod lenient;

use libfuzzer_sys::fuzz_target;
use steerage::l7::guard::{Asked, Limits, Opinion, ResponseGuard};

#[derive(Debug, PartialEq)]
enum End {
    Open,
    Malformed,
    Poisoned(usize),
}

fn judge(asked: Asked, bytes: &[u8], piece: usize) -> (usize, End) {
    let mut guard = ResponseGuard::new(Limits::DEFAULT);
    guard.ask(asked);
    let mut passed = 0;
    for piece in bytes.chunks(piece) {
        match guard.inspect(piece) {
            Opinion::Pass => passed += piece.len(),
            Opinion::Malformed => return (passed, End::Malformed),
            Opinion::Excess(count) => return (passed + count, End::Poisoned(passed + count)),
        }
    }
    (passed, End::Open)
}

fuzz_target!(|input: &[u8]| {
    let [cut, asked, bytes @ ..] = input else { return };
    let asked = [Asked::Plain, Asked::Head, Asked::Connect, Asked::Upgrade][usize::from(asked % 4)];
    let (passed, end) = judge(asked, bytes, usize::MAX);
    let (_, end_in_pieces) = judge(asked, bytes, usize::from(*cut).max(1));
    assert_eq!(end, end_in_pieces);
    if end == End::Malformed || bytes.is_empty() {
        return;
    }
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&bytes[..passed]) {
        Ok(httparse::Status::Partial) => assert_eq!(end, End::Open),
        Ok(httparse::Status::Complete(head)) => {
            let is_plain = asked == Asked::Plain && response.code.is_some_and(|code| code >= 200);
            let is_chunked = |header: &httparse::Header<'_>| {
                header.name.eq_ignore_ascii_case("transfer-encoding")
            };
            let has_body = !matches!(response.code, Some(204 | 304));
            if let End::Poisoned(whole) = end
                && is_plain
                && has_body
                && response.headers.iter().any(is_chunked)
            {
                assert_eq!(lenient::chunks(&bytes[head..]), Some(whole - head));
            }
        }
        // The guard waits for the whole version before it judges it.
        Err(httparse::Error::Version) if passed <= "HTTP/1.1".len() => {}
        Err(error) => panic!("{error} in what passed"),
    }
});
