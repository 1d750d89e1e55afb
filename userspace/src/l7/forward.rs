//! The header rules: what passes, what is removed, what is added. Functions of header maps.
//!
//! Hop-by-hop headers (RFC 9110 section 7.6.1) are removed, and so is what `Connection` names; but
//! nobody may have `Host`, the framing, `X-Forwarded-*`, `Forwarded` or `Via` removed that way. Message
//! framing is hyper's: `Transfer-Encoding` goes, and hyper writes what the body needs. `TE: trailers`
//! and `Trailer` stay, so that trailers pass.

use http::Version;
use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};

use super::headers::append;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Its address.
    pub address: HeaderValue,
    /// Whether what it says of others is believed.
    pub is_trusted: bool,
    /// `http` or `https`.
    pub scheme: HeaderValue,
}

/// Makes a request's headers those that the backend gets.
pub fn request(headers: &mut HeaderMap, sender: &Sender) {
    let wants_trailers = headers.contains_key(TE) && names_trailers(headers);
    remove_hop_by_hop(headers);
    if headers.remove(TE).is_some() && wants_trailers {
        headers.insert(TE, TRAILERS);
    }

    let host = headers.get(HOST).cloned();
    if sender.is_trusted {
        append(headers, X_FORWARDED_FOR, sender.address.clone());
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, sender.scheme.clone());
        }
        if let Some(host) = host.filter(|_| !headers.contains_key(X_FORWARDED_HOST)) {
            headers.insert(X_FORWARDED_HOST, host);
        }
    } else {
        headers.insert(X_FORWARDED_FOR, sender.address.clone());
        headers.insert(X_FORWARDED_PROTO, sender.scheme.clone());
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
}

/// The scheme that the client used, as far as it is known.
pub(super) fn scheme<'a>(headers: &HeaderMap, sender: &'a Sender) -> &'a str {
    let said = headers.get(X_FORWARDED_PROTO).filter(|_| sender.is_trusted);
    match said.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ => sender.scheme.to_str().unwrap_or("http"),
    }
}

/// Makes a response's headers those that the client gets.
pub fn response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// Whether one of the `TE` values is `trailers`.
fn names_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|coding| {
            let name = coding.split(';').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("trailers")
        })
    })
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // One look at the few names there are is cheaper than five lookups.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if let Some(first) = headers.get(CONNECTION) {
        // Nearly all there is.
        let is_plain = matches!(first.as_bytes(), b"keep-alive" | b"close" | b"Keep-Alive");
        if !is_plain || headers.get_all(CONNECTION).iter().nth(1).is_some() {
            remove_named(headers);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// What `Connection` names.
fn named(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| name.trim_ascii())
}

/// Whether the sender of an HTTP/1 response closes the connection after it (RFC 9112, 9.3), or can't
/// end its body otherwise (6.3).
pub(super) fn is_last(version: Version, headers: &HeaderMap, has_body: bool) -> bool {
    let names = |option: &[u8]| named(headers).any(|name| name.eq_ignore_ascii_case(option));
    match version {
        Version::HTTP_10 if !names(b"keep-alive") => return true,
        Version::HTTP_10 | Version::HTTP_11 => {}
        _ => return false,
    }
    let has_end = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    names(b"close") || (has_body && !has_end)
}

/// Removes the headers that `Connection` names.
#[cold]
fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named(headers)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_protected(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// What no peer may have removed by naming it in `Connection`.
fn is_protected(name: &HeaderName) -> bool {
    // `TE` has its own rule.
    [HOST, CONTENT_LENGTH, TE, VIA, FORWARDED].contains(name)
        || name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn the_last_response_of_a_connection_is_known() {
        let length = ("content-length", "5");
        let close = ("connection", "x-hop, Close");
        let kept = ("connection", "Keep-Alive");
        let chunked = ("transfer-encoding", "chunked");
        for (version, lines, has_body, expected) in [
            (Version::HTTP_11, &[length][..], true, false),
            (Version::HTTP_11, &[chunked], true, false),
            (Version::HTTP_11, &[length, close], true, true),
            (Version::HTTP_11, &[], true, true),
            (Version::HTTP_11, &[], false, false),
            (Version::HTTP_10, &[length], true, true),
            (Version::HTTP_10, &[length, kept], true, false),
            (Version::HTTP_10, &[kept], true, true),
            (Version::HTTP_10, &[length, kept, close], true, true),
            (Version::HTTP_2, &[], true, false),
        ] {
            let is_last = is_last(version, &headers(lines), has_body);
            assert_eq!(is_last, expected, "{version:?} {lines:?} {has_body}");
        }
    }

    fn sender(is_trusted: bool) -> Sender {
        Sender {
            address: HeaderValue::from_static("192.0.2.1"),
            is_trusted,
            scheme: HeaderValue::from_static("http"),
        }
    }

    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_stays_in_order() {
        let mut request = headers(&[
            ("host", "a.org"),
            ("accept", "*/*"),
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-secret", "1"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("expect", "100-continue"),
        ]);
        super::request(&mut request, &sender(false));
        let kept = lines(&request);
        let names: Vec<&str> = kept.iter().map(|(name, _)| *name).collect();
        for gone in ["connection", "keep-alive", "transfer-encoding", "upgrade", "x-secret"] {
            assert!(!names.contains(&gone), "{gone} in {names:?}");
        }
        assert_eq!(request.get_all("cookie").iter().count(), 2);
        assert_eq!(request[HOST], "a.org");
    }

    #[test]
    fn connection_has_no_say_over_host_framing_and_the_forwarding_headers() {
        let mut request = headers(&[
            ("host", "a.org"),
            ("content-length", "3"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("connection", "Host, content-length, X-Forwarded-For, x-forwarded-proto, bad name"),
        ]);
        super::request(&mut request, &sender(true));
        assert_eq!(request[HOST], "a.org");
        assert_eq!(request[CONTENT_LENGTH], "3");
        assert_eq!(request[X_FORWARDED_FOR], "10.0.0.1, 192.0.2.1");
        assert_eq!(request[X_FORWARDED_PROTO], "https");
    }

    #[test]
    fn what_a_stranger_says_of_others_is_replaced() {
        let mut request = headers(&[
            ("host", "a.org"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.org"),
        ]);
        super::request(&mut request, &sender(false));
        assert_eq!(request.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>(), ["192.0.2.1"]);
        assert_eq!(request[X_FORWARDED_PROTO], "http");
        assert_eq!(request[X_FORWARDED_HOST], "a.org");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let mut request = headers(&[
            ("host", "a.org"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-host", "www.a.org"),
        ]);
        super::request(&mut request, &sender(true));
        let chain = request.get_all(X_FORWARDED_FOR);
        assert_eq!(chain.iter().collect::<Vec<_>>(), ["10.0.0.1, 10.0.0.2, 192.0.2.1"]);
        assert_eq!(request[X_FORWARDED_PROTO], "http");
        assert_eq!(request[X_FORWARDED_HOST], "www.a.org");
    }

    #[test]
    fn trailers_may_be_asked_for_and_nothing_else() {
        let mut request = headers(&[("te", "gzip, Trailers;q=1"), ("connection", "te")]);
        super::request(&mut request, &sender(false));
        assert_eq!(request[TE], "trailers");
        let mut request = headers(&[("te", "gzip")]);
        super::request(&mut request, &sender(false));
        assert!(!request.contains_key(TE));
    }

    #[test]
    fn a_response_keeps_its_trailer_names() {
        let mut headers = headers(&[
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
        ]);
        response(&mut headers);
        assert_eq!(lines(&headers), [("trailer", "x-sum")]);
    }
}
