//! Where a redirect sends a client: a function of values.
//!
//! The location is always absolute, so that a path which begins with two slashes is never read as
//! another host.

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, StatusCode};
use steerage_common::error::ErrorClass;

use super::rewrite::{Parts, expand};
use crate::config::model::{self, Piece, Template};

/// A redirect that needs no parsing any more.
#[derive(Debug)]
pub(super) struct Redirect {
    pub(super) status: StatusCode,
    to: Template,
    /// Whether the client's host becomes a part of the location.
    wants_authority: bool,
}

impl Redirect {
    pub(super) fn new(redirect: &model::Redirect) -> Self {
        let mut to = redirect.to.clone();
        let is_path = match to.0.first() {
            Some(Piece::Text(text)) => text.starts_with('/'),
            Some(piece) => matches!(piece, Piece::Path | Piece::Uri),
            None => true,
        };
        if is_path {
            let here = [Piece::Scheme, Piece::Text("://".into()), Piece::Authority];
            to.0.splice(0..0, here);
        }
        let wants_authority =
            to.0.iter().any(|piece| matches!(piece, Piece::Host | Piece::Authority));
        let status = StatusCode::from_u16(redirect.status);
        Self { status: status.unwrap_or(StatusCode::TEMPORARY_REDIRECT), to, wants_authority }
    }

    /// The value of `Location`.
    pub(super) fn location(&self, parts: &Parts<'_>) -> Result<HeaderValue, ErrorClass> {
        if self.wants_authority {
            let authority = parts.authority.parse::<Authority>();
            if !authority.is_ok_and(|authority| !authority.as_str().contains('@')) {
                return Err(ErrorClass::BadHost);
            }
        }
        let location = Bytes::from(expand(&self.to, parts));
        HeaderValue::from_maybe_shared(location).map_err(|_| ErrorClass::BadTarget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{pattern, template};

    fn location(to: &str, authority: &str, path: &str, query: Option<&str>) -> String {
        let regex = pattern::whole("/(.*)").unwrap();
        let to = template::parse(to, Some(&regex), true).unwrap();
        let redirect = Redirect::new(&model::Redirect { status: 301, to });
        assert_eq!(redirect.status, StatusCode::MOVED_PERMANENTLY);
        let groups = regex.captures(path.as_bytes());
        match redirect.location(&Parts { scheme: "http", authority, path, query, groups }) {
            Ok(location) => location.to_str().unwrap().to_owned(),
            Err(class) => class.name().to_owned(),
        }
    }

    #[test]
    fn the_parts_of_the_request_are_put_in() {
        for (to, expected) in [
            ("https://${host}${uri}", "https://a.org/x/y?q=1"),
            ("${scheme}://www.${authority}${path}", "http://www.a.org:8080/x/y"),
            ("/new/$1?from=old&${query}", "http://a.org:8080/new/x/y?from=old&q=1"),
            ("https://b.org/", "https://b.org/"),
            ("https://login.org/?next=${uri}&x=1", "https://login.org/?next=/x/y?q=1&x=1"),
            ("${uri}", "http://a.org:8080/x/y?q=1"),
        ] {
            assert_eq!(location(to, "a.org:8080", "/x/y", Some("q=1")), expected, "{to}");
        }
        assert_eq!(location("${uri}", "a", "/", None), "http://a/");
        let nested = location("https://login.org/?next=${uri}", "a", "/x%20", Some("a=%26&b=+"));
        assert_eq!(
            nested, "https://login.org/?next=/x%2520?a=%2526%26b=%2B",
            "decoded, it is whole"
        );
        assert_eq!(location("https://${host}/", "[::1]:80", "/", None), "https://[::1]/");
    }

    #[test]
    fn no_client_is_sent_to_a_host_that_a_path_names() {
        assert_eq!(location("/$1", "a.org", "//evil.org/", None), "http://a.org//evil.org/");
        assert_eq!(location("${uri}", "a.org", "//evil.org", None), "http://a.org//evil.org");
    }

    #[test]
    fn a_host_that_is_none_makes_no_location() {
        for host in ["", "a b", "evil@a.org", "a/b", "a?b"] {
            assert_eq!(location("https://${host}${uri}", host, "/", None), "bad_host", "{host:?}");
        }
        assert_eq!(location("https://b.org/", "", "/", None), "https://b.org/");
    }
}
