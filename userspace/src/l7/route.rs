//! Which service a request is for: a pure function of host and path.
//!
//! The more exact host decides first (exact, then the longest suffix, then any), the more exact path
//! second (exact, then the longest prefix, then any). A request whose host has routes but none for
//! its path falls through to the less exact ones. Of two equal routes the first one counts.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::config::model::{Host, Path, Route, RouteTimeouts};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Index of the service.
    pub(super) service: usize,
    pub(super) timeouts: RouteTimeouts,
    /// Whether an `Idempotency-Key` makes a request idempotent.
    pub(super) idempotency_key: bool,
}

/// A listener's routes, in the order of precedence.
#[derive(Debug, Default)]
pub(super) struct Table {
    exact: HashMap<Box<str>, Paths>,
    /// Longest first.
    suffixes: Vec<(Box<str>, Paths)>,
    any: Paths,
}

/// Routes of one host, in the order of precedence.
#[derive(Debug, Default)]
struct Paths(Vec<(Path, Destination)>);

impl Table {
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for route in routes {
            let destination = Destination {
                service: route.service,
                timeouts: route.timeouts,
                idempotency_key: route.idempotency_key,
            };
            let paths = match &route.host {
                None => &mut table.any,
                Some(Host::Exact(host)) => table.exact.entry(host.as_str().into()).or_default(),
                Some(Host::Suffix(suffix)) => table.of_suffix(suffix),
            };
            paths.0.push((route.path.clone(), destination));
        }
        table.suffixes.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        let exact = table.exact.values_mut();
        let suffixes = table.suffixes.iter_mut().map(|(_, paths)| paths);
        for paths in exact.chain(suffixes).chain([&mut table.any]) {
            // Stable: the first of equals stays the first.
            paths.0.sort_by_key(|(path, _)| match path {
                Path::Exact(_) => (0, Reverse(0)),
                Path::Prefix(prefix) => (1, Reverse(prefix.len())),
                Path::Any => (2, Reverse(0)),
            });
        }
        table
    }

    fn of_suffix(&mut self, suffix: &str) -> &mut Paths {
        let at = self.suffixes.iter().position(|(known, _)| **known == *suffix);
        let at = at.unwrap_or_else(|| {
            self.suffixes.push((suffix.into(), Paths::default()));
            self.suffixes.len() - 1
        });
        &mut self.suffixes[at].1
    }

    /// The destination for a `Host` value (with or without a port) and a path.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<Destination> {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return self.any.find(path);
        }
        let host = without_port(host);
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        self.exact
            .get(host)
            .and_then(|paths| paths.find(path))
            .or_else(|| {
                let ending = |(suffix, _): &&(Box<str>, Paths)| {
                    host.len() > suffix.len() && host.ends_with(&**suffix)
                };
                self.suffixes.iter().filter(ending).find_map(|(_, paths)| paths.find(path))
            })
            .or_else(|| self.any.find(path))
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<Destination> {
        let matches = |pattern: &Path| match pattern {
            Path::Any => true,
            Path::Exact(exact) => exact == path,
            Path::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, destination)| *destination)
    }
}

/// The host of `host[:port]`; an IPv6 address keeps its brackets. The final dot of a fully qualified
/// name is no part of it.
fn without_port(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.rfind(':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUTS: RouteTimeouts =
        RouteTimeouts { connect: Duration::ZERO, first_byte: Duration::ZERO };

    fn table(routes: &[(Option<Host>, Path)]) -> Table {
        let routes: Vec<Route> = routes
            .iter()
            .enumerate()
            .map(|(service, (host, path))| Route {
                host: host.clone(),
                path: path.clone(),
                service,
                timeouts: TIMEOUTS,
                idempotency_key: false,
            })
            .collect();
        Table::new(&routes)
    }

    fn exact(host: &str) -> Option<Host> {
        Some(Host::Exact(host.into()))
    }

    fn suffix(host: &str) -> Option<Host> {
        Some(Host::Suffix(host.into()))
    }

    fn prefix(path: &str) -> Path {
        Path::Prefix(path.into())
    }

    #[test]
    fn the_more_exact_host_then_the_more_exact_path_decides() {
        let table = table(&[
            (None, Path::Any),
            (None, prefix("/static")),
            (suffix(".example.com"), Path::Any),
            (suffix(".api.example.com"), Path::Any),
            (exact("api.example.com"), prefix("/v1")),
            (exact("api.example.com"), prefix("/v1/users")),
            (exact("api.example.com"), Path::Exact("/v1/users".into())),
            (None, Path::Any),
        ]);
        let find = |host, path| table.find(host, path).unwrap().service;
        assert_eq!(find("other.org", "/"), 0);
        assert_eq!(find("other.org", "/static/x.css"), 1);
        assert_eq!(find("www.example.com", "/static/x.css"), 2);
        assert_eq!(find("x.api.example.com", "/"), 3);
        assert_eq!(find("api.example.com", "/v1/other"), 4);
        assert_eq!(find("api.example.com", "/v1/users/7"), 5);
        assert_eq!(find("API.Example.com.:8080", "/v1/users"), 6);
        assert_eq!(find("api.example.com", "/v10"), 2, "segments are whole");
        assert_eq!(find("example.com", "/"), 0, "a suffix is not the host itself");
        assert_eq!(find("", "/"), 0);
    }

    #[test]
    fn there_need_not_be_a_route() {
        let table = table(&[(exact("a.org"), prefix("/v1"))]);
        assert_eq!(table.find("b.org", "/v1"), None);
        assert_eq!(table.find("a.org", "/v2"), None);
        assert!(table.find("a.org:80", "/v1").is_some());
    }

    #[test]
    fn ports_are_no_part_of_the_host() {
        assert_eq!(without_port("a.org:80"), "a.org");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port(":80"), "");
    }
}
