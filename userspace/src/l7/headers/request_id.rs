//! `X-Request-Id`: one name for a request in the logs of everything that it passes.
//!
//! A kept one is well-formed: a single value of 1 to [`ID_BYTES_MAX`] letters, digits and `-._~:/+=@`,
//! so that it may go into any log as it is. A made one is a UUID of version 4 (RFC 9562), from the
//! worker's generator: unique enough for a name, and no secret.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::hex;
use crate::service::Random;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a name may need in a log.
const ID_BYTES_MAX: usize = 128;

/// Keeps a well-formed id if that is wished, or makes one. Gives the request's id.
pub(super) fn pass(headers: &mut HeaderMap, is_kept: bool, random: &Random) -> Option<HeaderValue> {
    if is_kept {
        let mut values = headers.get_all(X_REQUEST_ID).iter();
        if let (Some(id), None) = (values.next(), values.next())
            && is_well_formed(id.as_bytes())
        {
            return Some(id.clone());
        }
    }
    let id = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&uuid(random))).ok()?;
    headers.insert(X_REQUEST_ID, id.clone());
    Some(id)
}

fn is_well_formed(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/+=@".contains(byte);
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

/// A UUID of version 4, as text.
fn uuid(random: &Random) -> [u8; 36] {
    let high = (random.next() & !0xf000) | 0x4000;
    let low = (random.next() >> 2) | (1 << 63);
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&hex::<8>(high >> 32));
    text[9..13].copy_from_slice(&hex::<4>(high >> 16));
    text[14..18].copy_from_slice(&hex::<4>(high));
    text[19..23].copy_from_slice(&hex::<4>(low >> 48));
    text[24..].copy_from_slice(&hex::<12>(low));
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, values};
    use super::*;

    fn passed(sent: &[&str], is_kept: bool) -> String {
        let sent: Vec<_> = sent.iter().map(|value| ("x-request-id", *value)).collect();
        let mut headers = lines(&sent);
        let id = pass(&mut headers, is_kept, &Random::new(1)).unwrap();
        assert_eq!(values(&headers, "x-request-id"), [id.to_str().unwrap()]);
        id.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_well_formed_id_is_kept_if_its_sender_may_give_one() {
        assert_eq!(passed(&["abc-1/2:3.4=@~_"], true), "abc-1/2:3.4=@~_");
        assert_eq!(passed(&["x".repeat(128).as_str()], true), "x".repeat(128));
        let long = "x".repeat(129);
        for sent in [&["a b"][..], &[""], &["a\"b"], &["a", "b"], &["a,b"], &[&long], &[]] {
            let made = passed(sent, true);
            assert_eq!(made.len(), 36, "{sent:?}");
        }
        assert_eq!(passed(&["abc"], false).len(), 36);
    }

    #[test]
    fn made_ids_are_uuids_of_their_own() {
        let random = Random::new(3);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let text = String::from_utf8(uuid(&random).to_vec()).unwrap();
            let bytes = text.as_bytes();
            for at in [8, 13, 18, 23] {
                assert_eq!(bytes[at], b'-', "{text}");
            }
            assert_eq!(bytes[14], b'4', "{text}");
            assert!(b"89ab".contains(&bytes[19]), "{text}");
            assert!(text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{text}");
            assert!(seen.insert(text));
        }
    }
}
