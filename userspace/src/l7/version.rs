//! What a request's headers need when it passes from one version of HTTP to another.

use std::net::SocketAddr;

use http::header::{COOKIE, EXPECT, HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};
use steerage_common::error::ErrorClass;

/// Makes the headers of an HTTP/2 request those of HTTP/1.
///
/// The crumbs of `Cookie` become one line again (RFC 9113, 8.2.3).
///
/// # Errors
/// If `Host` names another host than `:authority` does (RFC 9113, 8.3.1).
pub(super) fn from_http2(target: &Uri, headers: &mut HeaderMap) -> Result<(), ErrorClass> {
    if let (Some(authority), Some(host)) = (target.authority(), headers.get(HOST))
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return Err(ErrorClass::BadHost);
    }
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) {
        let crumbs: Vec<&[u8]> =
            headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let whole = HeaderValue::from_maybe_shared(bytes::Bytes::from(crumbs.join(&b"; "[..])));
        headers.insert(COOKIE, whole.map_err(|_| ErrorClass::MalformedHead)?);
    }
    Ok(())
}

/// Makes an HTTP/1 request one of HTTP/2 for a connection of `scheme`: its `Host` is the authority; without one, `address` is. The
/// target of `CONNECT` is an authority already.
pub(super) fn to_http2<B>(request: &mut Request<B>, scheme: Scheme, address: SocketAddr) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority.or_else(|| address.to_string().parse().ok());
    if request.method() != Method::CONNECT {
        let mut target = std::mem::take(request.uri_mut()).into_parts();
        target.scheme = Some(scheme);
        target.authority = authority;
        // Whole: it has a scheme, an authority, and the path that it had.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    }
    // What it expects can't be heard of: hyper's client does not show informational responses.
    request.headers_mut().remove(EXPECT);
    *request.version_mut() = Version::HTTP_2;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let name = http::HeaderName::from_static;
        lines.iter().map(|(key, value)| (name(key), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn crumbs_of_a_cookie_are_joined_in_order_at_the_place_of_the_first() {
        let target = Uri::from_static("http://a.org/");
        let mut crumbs = headers(&[
            ("cookie", "a=1"),
            ("accept", "*/*"),
            ("cookie", "b=2; c=3"),
            ("cookie", ""),
        ]);
        from_http2(&target, &mut crumbs).unwrap();
        let lines: Vec<_> = crumbs.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].0, lines[0].1.as_bytes()), ("cookie", &b"a=1; b=2; c=3; "[..]));
        let mut one = headers(&[("cookie", "a=1")]);
        from_http2(&target, &mut one).unwrap();
        assert_eq!(one, headers(&[("cookie", "a=1")]));
    }

    #[test]
    fn the_host_becomes_the_authority() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let ask = |target: &'static str, host: &'static str| {
            let mut request = Request::get(target).header("host", host).body(()).unwrap();
            to_http2(&mut request, Scheme::HTTP, address);
            assert!(!request.headers().contains_key(HOST));
            assert_eq!(request.version(), Version::HTTP_2);
            request.into_parts().0.uri.to_string()
        };
        assert_eq!(ask("/path?query", "a.org:8080"), "http://a.org:8080/path?query");
        assert_eq!(ask("/", "[::1]"), "http://[::1]/");
        assert_eq!(ask("/", ""), "http://10.0.0.1:80/");
        let mut all = Request::options("*").header("host", "a.org").body(()).unwrap();
        to_http2(&mut all, Scheme::HTTPS, address);
        assert_eq!((all.uri().path(), all.uri().host()), ("*", Some("a.org")));
    }

    #[test]
    fn host_and_authority_are_the_same_if_both_are_there() {
        let target = Uri::from_static("http://a.org:80/");
        assert!(from_http2(&target, &mut headers(&[("host", "A.org:80")])).is_ok());
        assert!(from_http2(&target, &mut headers(&[])).is_ok());
        assert!(from_http2(&target, &mut headers(&[("host", "a.org")])).is_err());
        assert!(from_http2(&Uri::from_static("/"), &mut headers(&[("host", "b.org")])).is_ok());
    }
}
