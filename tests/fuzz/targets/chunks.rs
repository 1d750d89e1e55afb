//! Chunked bodies: where the guard sees one end, httparse does too, and nowhere else.
//!
//! The first byte says how the rest is cut.

#![no_main]

mod lenient;

use libfuzzer_sys::fuzz_target;
use steerage::l7::guard::{Limits, Place, RequestGuard, Verdict};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Where the body ends, if it does and nothing of it is refused.
fn end(bytes: &[u8], piece: usize) -> Option<usize> {
    let mut guard = RequestGuard::new(Limits::DEFAULT);
    assert_eq!(guard.inspect(HEAD), Verdict::Pass);
    let mut passed = 0;
    for piece in bytes.chunks(piece) {
        for at in 0..piece.len() {
            if guard.inspect(&piece[at..=at]) != Verdict::Pass {
                return None;
            }
            passed += 1;
            if guard.place() == Place::Between {
                return Some(passed);
            }
        }
    }
    None
}

/// Whether anything is refused.
fn is_refused(bytes: &[u8], piece: usize) -> bool {
    let mut guard = RequestGuard::new(Limits::DEFAULT);
    assert_eq!(guard.inspect(HEAD), Verdict::Pass);
    bytes.chunks(piece).any(|piece| matches!(guard.inspect(piece), Verdict::Refuse(..)))
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(*cut).max(1);
    if let Some(end) = end(bytes, cut) {
        assert_eq!(lenient::chunks(bytes), Some(end));
        assert!(!is_refused(&bytes[..end], cut));
        assert!(!is_refused(&bytes[..end], usize::MAX));
    }
    assert_eq!(is_refused(bytes, cut), is_refused(bytes, usize::MAX));
});
