//! How the path of a request changes on its way: functions of values.
//!
//! The query stays. What groups match is put in as it was sent, encoded or not. A result that is no
//! path any more, being too long, is an error.

use bytes::Bytes;
use http::uri::PathAndQuery;
use regex::bytes::{Captures, Regex};
use steerage_common::error::ErrorClass;

use crate::config::model::{self, Piece, Template};
use crate::config::pattern;

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
        let rewritten = PathAndQuery::from_maybe_shared(Bytes::from(rewritten));
        rewritten.map(Some).map_err(|_| ErrorClass::UriTooLong)
    }
}

/// Puts a request's parts into a template.
pub(super) fn expand(template: &Template, parts: &Parts<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let query = parts.query.unwrap_or_default();
    for piece in &template.0 {
        match piece {
            Piece::Text(piece) => text.extend_from_slice(piece.as_bytes()),
            Piece::Group(index) => {
                let group = parts.groups.as_ref().and_then(|groups| groups.get(*index));
                text.extend_from_slice(group.map_or(b"", |group| group.as_bytes()));
            }
            Piece::Scheme => text.extend_from_slice(parts.scheme.as_bytes()),
            Piece::Host => {
                text.extend_from_slice(super::route::without_port(parts.authority).as_bytes());
            }
            Piece::Authority => text.extend_from_slice(parts.authority.as_bytes()),
            Piece::Path => text.extend_from_slice(parts.path.as_bytes()),
            Piece::Query => text.extend_from_slice(query.as_bytes()),
            Piece::Uri => {
                text.extend_from_slice(parts.path.as_bytes());
                if parts.query.is_some() {
                    text.push(b'?');
                    text.extend_from_slice(query.as_bytes());
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
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
        assert_eq!(rewritten(other, "/7"), "=", "what does not match stays");
        assert_eq!(rewritten("rewrite={to='/maintenance'}", "/any?x"), "/maintenance?x");
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
