//! `traceparent` (W3C Trace Context): passed on, and begun where there is none if that is asked for.
//!
//! Steerage records no spans, so it never takes part in a trace by changing the parent. A valid
//! `traceparent` stays as it is; instead of an invalid one a new trace begins, and `tracestate`, which
//! belonged to the old one, goes.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::hex;
use crate::service::Random;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Begins a trace where there is no valid one; `sampled_percent` of them are marked as sampled.
pub(super) fn begin(headers: &mut HeaderMap, sampled_percent: u8, random: &Random) {
    let mut values = headers.get_all(TRACEPARENT).iter();
    if let (Some(value), None) = (values.next(), values.next())
        && is_valid(value.as_bytes())
    {
        return;
    }
    headers.remove(TRACESTATE);
    let is_sampled = random.below(100) < usize::from(sampled_percent);
    let text = Bytes::copy_from_slice(&traceparent(random, is_sampled));
    if let Ok(value) = HeaderValue::from_maybe_shared(text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// `00`, trace id, parent id, flags: the id is random (2), the trace perhaps sampled (1).
fn traceparent(random: &Random, is_sampled: bool) -> [u8; 55] {
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    text[3..19].copy_from_slice(&hex::<16>(random.next()));
    // Zeros alone would be invalid.
    text[19..35].copy_from_slice(&hex::<16>(random.next() | 1));
    text[36..52].copy_from_slice(&hex::<16>(random.next() | 1));
    text[53..].copy_from_slice(if is_sampled { b"03" } else { b"02" });
    text
}

fn is_valid(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(55) else { return false };
    let fields: Vec<&[u8]> = known.split(|byte| *byte == b'-').collect();
    let [version, trace, parent, flags] = fields[..] else { return false };
    let is_hex = |field: &[u8], length| {
        field.len() == length && field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |field: &[u8]| field.iter().all(|byte| *byte == b'0');
    let is_whole = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        // A later version may have more fields.
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    is_whole
        && is_hex(version, 2)
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(parent, 16)
        && !is_zero(parent)
        && is_hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, values};
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_trace_stays_as_it_is() {
        let later = format!("01{}-what-comes", &VALID[2..]);
        for sent in [VALID, later.as_str(), &VALID.replace("-01", "-ff")] {
            let sent = lines(&[("traceparent", sent), ("tracestate", "a=1")]);
            let mut headers = sent.clone();
            begin(&mut headers, 100, &Random::new(1));
            assert_eq!(headers, sent);
        }
    }

    #[test]
    fn instead_of_an_invalid_trace_one_begins() {
        let random = Random::new(1);
        for sent in [
            "",
            "00",
            &VALID.to_uppercase(),
            &format!("{VALID}-"),
            &VALID.replacen("00-", "ff-", 1),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
            &VALID[..54],
        ] {
            let mut headers = lines(&[("traceparent", sent), ("tracestate", "a=1")]);
            begin(&mut headers, 100, &random);
            let begun = values(&headers, "traceparent");
            assert!(
                begun.len() == 1 && begun[0] != sent && is_valid(begun[0].as_bytes()),
                "{sent}"
            );
            assert!(!headers.contains_key("tracestate"));
        }
        let mut twice = lines(&[("traceparent", VALID), ("traceparent", VALID)]);
        begin(&mut twice, 100, &random);
        assert_eq!(values(&twice, "traceparent").len(), 1);
    }

    #[test]
    fn the_share_that_is_sampled_is_the_one_asked_for() {
        let sampled = |percent| {
            let random = Random::new(9);
            let begun = |_| {
                let mut headers = HeaderMap::new();
                begin(&mut headers, percent, &random);
                values(&headers, "traceparent")[0].ends_with("-03")
            };
            (0..1000).map(begun).filter(|is_sampled| *is_sampled).count()
        };
        assert_eq!((sampled(0), sampled(100)), (0, 1000));
        assert!((50..150).contains(&sampled(10)));
    }
}
