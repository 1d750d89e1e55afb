//! How the path of a request changes on its way: functions of values.
//!
//! The query stays. What groups match is put into a path as it was sent, and into a query so that it
//! stays one value: `&` and what else has a meaning there is encoded. A result that grew too long is an
//! error.

use bytes::Bytes;
use http::uri::PathAndQuery;
use regex::bytes::{Captures, Regex};
use steerage_common::error::ErrorClass;

use crate::config::model::{self, Piece, Template};
use crate::config::pattern;

/// What the type of a target holds.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// A rewriting that needs no parsing any more.
#[derive(Debug)]
pub(super) enum Rewrite {
    Prefix { matched: usize, with: Box<str> },
    Whole { regex: Option<Regex>, to: Template },
}

/// What a template's pieces stand for.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) groups: Option<Captures<'a>>,
}

impl Rewrite {
    /// `None` if the expression cannot be compiled, which the configuration's validation rules out.
    pub(super) fn new(rewrite: &model::Rewrite) -> Option<Self> {
        Some(match rewrite {
            model::Rewrite::Prefix { matched, with } => {
                Self::Prefix { matched: *matched, with: with.as_str().into() }
            }
            model::Rewrite::Whole { regex, to } => Self::Whole {
                regex: match regex {
                    Some(regex) => Some(pattern::whole(regex).ok()?),
                    None => None,
                },
                to: to.clone(),
            },
        })
    }

    /// The target that the backend gets; `None` for the client's.
    pub(super) fn apply(&self, target: &PathAndQuery) -> Result<Option<PathAndQuery>, ErrorClass> {
        let path = target.path();
        if !path.starts_with('/') {
            // `OPTIONS *` is about the server, not about a path.
            return Ok(None);
        }
        let mut rewritten = match self {
            Self::Prefix { matched, with } => {
                let rest = path.get(*matched..).unwrap_or_default();
                let is_empty = with.is_empty() && rest.is_empty();
                [&**with, if is_empty { "/" } else { rest }].concat().into_bytes()
            }
            Self::Whole { regex, to } => {
                let groups = match regex {
                    None => None,
                    Some(regex) => match regex.captures(path.as_bytes()) {
                        None => return Ok(None),
                        groups => groups,
                    },
                };
                let query = target.query();
                expand(to, &Parts { scheme: "", authority: "", path, query, groups })
            }
        };
        if let Some(query) = target.query() {
            // The template may have a query of its own.
            rewritten.push(if rewritten.contains(&b'?') { b'&' } else { b'?' });
            rewritten.extend_from_slice(query.as_bytes());
        }
        let is_too_long = rewritten.len() > TARGET_BYTES_MAX;
        let rewritten = PathAndQuery::from_maybe_shared(Bytes::from(rewritten));
        rewritten
            .map(Some)
            .map_err(|_| if is_too_long { ErrorClass::UriTooLong } else { ErrorClass::BadTarget })
    }
}

/// Puts a request's parts into a template.
pub(super) fn expand(template: &Template, parts: &Parts<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let query = parts.query.unwrap_or_default();
    for piece in &template.0 {
        let in_query = text.contains(&b'?');
        match piece {
            Piece::Text(piece) => text.extend_from_slice(piece.as_bytes()),
            Piece::Group(index) => {
                let group = parts.groups.as_ref().and_then(|groups| groups.get(*index));
                put(&mut text, group.map_or(b"", |group| group.as_bytes()), in_query);
            }
            Piece::Scheme => text.extend_from_slice(parts.scheme.as_bytes()),
            Piece::Host => {
                text.extend_from_slice(super::route::without_port(parts.authority).as_bytes());
            }
            Piece::Authority => text.extend_from_slice(parts.authority.as_bytes()),
            Piece::Path => put(&mut text, parts.path.as_bytes(), in_query),
            Piece::Query => text.extend_from_slice(query.as_bytes()),
            Piece::Uri => {
                let whole = match parts.query {
                    Some(query) => format!("{}?{query}", parts.path),
                    None => parts.path.to_owned(),
                };
                // As a value it is to come out of the query as it went in.
                let whole = if in_query { whole.replace('%', "%25") } else { whole };
                put(&mut text, whole.as_bytes(), in_query);
            }
        }
    }
    text
}

/// Puts a part in; within a query, so that it can neither end a parameter nor begin another.
fn put(text: &mut Vec<u8>, part: &[u8], in_query: bool) {
    if !in_query {
        text.extend_from_slice(part);
        return;
    }
    for byte in part {
        if byte.is_ascii_alphanumeric() || b"-._~%/:@,;!$'()*=?[]".contains(byte) {
            text.push(*byte);
        } else {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::Action;

    /// The rewriting of a route with these keys, applied to a target; `=` for an unchanged one.
    fn rewritten(keys: &str, target: &str) -> String {
        let text = format!(
            "[[listener]]\nname='a'\nprotocol='http'\nbind=['127.0.0.1:1']\n\
             [[listener.route]]\nservice='s'\n{keys}\n[[service]]\nname='s'\n"
        );
        let model = crate::config::parse(std::path::Path::new("test.toml"), &text).unwrap();
        let route = &model.listeners[0].routes[0];
        assert_eq!(route.action, Action::Forward(0));
        let rewrite = Rewrite::new(route.rewrite.as_ref().unwrap()).unwrap();
        match rewrite.apply(&target.parse().unwrap()) {
            Ok(target) => target.map_or("=".into(), |target| target.to_string()),
            Err(class) => class.name().into(),
        }
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_segments() {
        let strip = "path='/v1/'\nrewrite={prefix='/'}";
        for (target, expected) in
            [("/v1/x/y?q=1", "/x/y?q=1"), ("/v1", "/"), ("/v1?q", "/?q"), ("/v1//x", "//x")]
        {
            assert_eq!(rewritten(strip, target), expected, "{target}");
        }
        let other = "path='/v1'\nrewrite={prefix='/api/v2/'}";
        assert_eq!(rewritten(other, "/v1/x"), "/api/v2/x");
        assert_eq!(rewritten(other, "/v1"), "/api/v2");
        assert_eq!(rewritten("rewrite={prefix='/app'}", "/x?y"), "/app/x?y");
        assert_eq!(rewritten("rewrite={prefix='/app'}", "*"), "=");
        assert_eq!(rewritten("path_exact='/a'\nrewrite={prefix='/b/c'}", "/a"), "/b/c");
    }

    #[test]
    fn groups_are_put_into_the_new_path() {
        let own = r"path_regex='/u/(?<id>\d+)(/.*)?'
            rewrite={to='/users/${id}$2'}";
        assert_eq!(rewritten(own, "/u/17/a%2fb?x=%20"), "/users/17/a%2fb?x=%20");
        assert_eq!(rewritten(own, "/u/17"), "/users/17", "a group that is not there");
        let other = "rewrite={regex='/([a-z]+)/(.*)', to='/$2?kind=$1'}";
        assert_eq!(rewritten(other, "/shoe/7?y=1"), "/7?kind=shoe&y=1");
        let tricky = "/x/a&kind=admin+%26\"";
        assert_eq!(rewritten(other, tricky), "/a&kind=admin+%26\"?kind=x");
        let value = "rewrite={regex='/(.*)', to='/?v=$1'}";
        assert_eq!(rewritten(value, "/a&b=c+%26\""), "/?v=a%26b=c%2B%26%22", "one value");
        assert_eq!(rewritten(other, "/7"), "=", "what does not match stays");
        assert_eq!(rewritten("rewrite={to='/maintenance'}", "/any?x"), "/maintenance?x");
    }

    proptest! {
        /// Whatever the path, the result is one that a request can have, or none.
        #[test]
        fn any_path_becomes_a_path(
            path in "/[!-~&&[^?#]]{0,40}",
            query in prop::option::of("[!-~&&[^#]]{0,20}"),
            keys in prop_oneof![
                Just("rewrite={prefix='/'}"),
                Just("rewrite={prefix='/x/y/'}"),
                Just("path_regex='/(.*?)(/.*)?'\nrewrite={to='/$2$1'}"),
                Just("rewrite={regex='/([^/]*)/(.*)', to='/$2?a=$1'}"),
            ],
        ) {
            let query = query.map_or(String::new(), |query| format!("?{query}"));
            let target = format!("{path}{query}");
            prop_assume!(target.parse::<PathAndQuery>().is_ok());
            let rewritten = rewritten(keys, &target);
            prop_assert!(rewritten == "=" || rewritten.starts_with('/'), "{}", rewritten);
            if let Some(query) = target.parse::<PathAndQuery>().unwrap().query() {
                prop_assert!(rewritten == "=" || rewritten.ends_with(query), "{}", rewritten);
            }
        }
    }

    #[test]
    fn a_path_that_grows_too_long_is_refused() {
        let double = "rewrite={regex='(/a+)', to='$1$1$1'}";
        // A template must begin with a slash.
        let double = double.replace("'$1", "'/x$1");
        let long = format!("/{}", "a".repeat(30_000));
        assert_eq!(rewritten(&double, &long), "uri_too_long");
    }
}
