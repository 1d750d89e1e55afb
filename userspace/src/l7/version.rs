//! What a request's headers need when it passes from one version of HTTP to another.

use http::Uri;
use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
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
    fn host_and_authority_are_the_same_if_both_are_there() {
        let target = Uri::from_static("http://a.org:80/");
        assert!(from_http2(&target, &mut headers(&[("host", "A.org:80")])).is_ok());
        assert!(from_http2(&target, &mut headers(&[])).is_ok());
        assert!(from_http2(&target, &mut headers(&[("host", "a.org")])).is_err());
        assert!(from_http2(&Uri::from_static("/"), &mut headers(&[("host", "b.org")])).is_ok());
    }
}
