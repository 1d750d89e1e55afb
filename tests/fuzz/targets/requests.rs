//! Request heads and all that follows them: however the bytes are cut the verdict is the same, and what
//! passes is as many requests to httparse as it is to the guard.
//!
//! The first byte says how the rest is cut.

#![no_main]

mod lenient;

use libfuzzer_sys::fuzz_target;
use steerage::l7::guard::{Limits, RequestGuard, Verdict};
use steerage_common::error::ErrorClass;

fn judge(bytes: &[u8], piece: usize) -> (Vec<u8>, u64, Option<ErrorClass>) {
    let mut guard = RequestGuard::new(Limits::DEFAULT);
    let mut passed = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, after) = rest.split_at(piece.min(rest.len()));
        rest = after;
        match guard.inspect(now) {
            Verdict::Pass => passed.extend_from_slice(now),
            Verdict::Hold(count) => {
                passed.extend_from_slice(&now[..count]);
                guard.stayed();
                rest = &bytes[passed.len()..];
            }
            Verdict::Refuse(count, class) => {
                passed.extend_from_slice(&now[..count]);
                return (passed, guard.heads(), Some(class));
            }
        }
    }
    (passed, guard.heads(), None)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (whole, heads, refusal) = judge(bytes, usize::MAX);
    let (pieces, heads_in_pieces, refusal_in_pieces) = judge(bytes, usize::from(*cut).max(1));
    assert_eq!((heads, refusal), (heads_in_pieces, refusal_in_pieces));
    assert!(pieces.starts_with(&whole));
    assert_eq!(lenient::requests(&pieces), heads);
});
