//! Telling HTTP/2 with prior knowledge from HTTP/1 by a connection's first bytes.
//!
//! An HTTP/2 client begins with a fixed line that no HTTP/1 server takes for a request (RFC 9113,
//! 3.4). Every HTTP/1 request differs from it in its first bytes, mostly in the very first.

/// What an HTTP/2 client sends first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Not the preface.
    Http1,
    /// The preface, whole.
    Http2,
    /// The beginning of the preface.
    Unsure,
}

/// Judges the bytes that a connection began with.
pub(super) fn judge(first: &[u8]) -> Version {
    let known = first.len().min(PREFACE.len());
    if first[..known] != PREFACE[..known] {
        Version::Http1
    } else if known == PREFACE.len() {
        Version::Http2
    } else {
        Version::Unsure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_preface_is_http2_and_its_beginning_is_either() {
        for length in 0..PREFACE.len() {
            assert_eq!(judge(&PREFACE[..length]), Version::Unsure);
            let mut other = PREFACE[..length].to_vec();
            other.push(PREFACE[length] ^ 1);
            assert_eq!(judge(&other), Version::Http1);
        }
        assert_eq!(judge(PREFACE), Version::Http2);
        assert_eq!(judge(&[&PREFACE[..], b"more"].concat()), Version::Http2);
        assert_eq!(judge(b"PROPFIND / HTTP/1.1\r\n"), Version::Http1);
    }
}
