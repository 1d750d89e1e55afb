//! Which route a request takes: a pure function of its host, path, method and headers.
//!
//! The order of precedence, each step deciding between what the former leave equal:
//! 1. host: exact, then the longest wildcard, then none;
//! 2. path: exact, then the longest prefix, then a regular expression, then none;
//! 3. the number of conditions on method and headers, more before fewer;
//! 4. the order of the file.
//!
//! The first route in this order whose conditions all hold is taken: a request that no route of an
//! exact host takes falls through to the less exact ones.
//!
//! [`Table::in_order`] is that order written out. [`Table::find`] gives the same answer faster: hosts
//! and exact paths by hash, prefixes by hash of each segment's end up to the longest prefix there is.
//! Nothing is allocated, but for a host that is not in lower case.

mod plan;
mod rule;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use http::{HeaderMap, Method};

pub(super) use plan::{End, Plan};
pub(super) use rule::{Entry, Mismatch, Pattern};

use crate::config::model::{Host, Route, RouteTimeouts};

/// What of a request decides.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The value of `Host`, with or without a port.
    pub host: &'a str,
    /// The request's path, without a query.
    pub path: &'a str,
    /// The request's method.
    pub method: &'a Method,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// The route's place in the file's order.
    pub(super) route: usize,
    /// Index of the service.
    pub(super) service: usize,
    pub(super) timeouts: Rc<RouteTimeouts>,
    /// Whether an `Idempotency-Key` makes a request idempotent.
    pub(super) idempotency_key: bool,
    /// Whether `CONNECT` is passed on.
    pub(super) connect: bool,
    /// Whether `Host` is the backend's address.
    pub(super) names_backend: bool,
}

/// A listener's routes.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    /// Longest first.
    suffixes: Vec<(Box<str>, Paths)>,
    any: Paths,
    /// In the order of the file.
    plans: Vec<Plan>,
}

/// Routes of one host.
#[derive(Debug, Default)]
struct Paths {
    /// In the order of precedence; those of one path stand together.
    entries: Vec<Entry>,
    /// Entries of an exact path.
    exact: HashMap<Box<str>, Range<usize>>,
    /// Entries of a prefix.
    prefixes: HashMap<Box<str>, Range<usize>>,
    prefix_bytes_max: usize,
    /// Where the entries with an expression or without a path begin.
    rest: usize,
}

impl Table {
    /// The table of a listener's routes.
    #[must_use]
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            table.plans.push(Plan::new(index, route));
            let Some(entry) = Entry::new(index, route) else { continue };
            let paths = match &route.host {
                None => &mut table.any,
                Some(Host::Exact(host)) => table.exact.entry(host.as_str().into()).or_default(),
                Some(Host::Suffix(suffix)) => table.of_suffix(suffix),
            };
            paths.entries.push(entry);
        }
        table.suffixes.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        let exact = table.exact.values_mut();
        let suffixes = table.suffixes.iter_mut().map(|(_, paths)| paths);
        for paths in exact.chain(suffixes).chain([&mut table.any]) {
            paths.arrange();
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

    /// What is done with a request.
    pub(super) fn find(&self, query: &Query<'_>) -> Option<&Plan> {
        self.index_of(query).map(|index| self.plan(index))
    }

    /// What is done with the requests of a route.
    pub(super) fn plan(&self, route: usize) -> &Plan {
        &self.plans[route]
    }

    /// The route's place in the file's order.
    #[must_use]
    pub fn index_of(&self, query: &Query<'_>) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return self.any.find(query);
        }
        let host = without_port(query.host);
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        self.exact
            .get(host)
            .and_then(|paths| paths.find(query))
            .or_else(|| {
                let ending = |(suffix, _): &&(Box<str>, Paths)| ends_below(host, suffix);
                self.suffixes.iter().filter(ending).find_map(|(_, paths)| paths.find(query))
            })
            .or_else(|| self.any.find(query))
    }

    /// All routes in the order of precedence; those of exact hosts, of which at most one can match, in
    /// the order of the file.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Entry> {
        let mut exact: Vec<&Paths> = self.exact.values().collect();
        exact.sort_by_key(|paths| paths.entries.iter().map(|entry| entry.route).min());
        let suffixes = self.suffixes.iter().map(|(_, paths)| paths);
        exact.into_iter().chain(suffixes).chain([&self.any]).flat_map(|paths| &paths.entries)
    }
}

impl Paths {
    fn arrange(&mut self) {
        // Stable: the first of equals stays the first.
        self.entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        for (at, entry) in self.entries.iter().enumerate() {
            let (ranges, path) = match &entry.pattern {
                Pattern::Exact(path) => (&mut self.exact, path),
                Pattern::Prefix(path) => {
                    self.prefix_bytes_max = self.prefix_bytes_max.max(path.len());
                    (&mut self.prefixes, path)
                }
                Pattern::Regex(_) | Pattern::Any => break,
            };
            ranges.entry(path.clone()).or_insert(at..at).end = at + 1;
            self.rest = at + 1;
        }
    }

    fn find(&self, query: &Query<'_>) -> Option<usize> {
        let exact = self.exact.get(query.path).and_then(|range| self.first(range, query));
        exact.or_else(|| self.by_prefix(query)).or_else(|| {
            let rest = self.entries[self.rest..].iter();
            rest.filter(|entry| entry.pattern.matches(query.path))
                .find(|entry| entry.conditions_hold(query))
                .map(|entry| entry.route)
        })
    }

    fn by_prefix(&self, query: &Query<'_>) -> Option<usize> {
        if self.prefixes.is_empty() {
            return None;
        }
        let path = query.path.as_bytes();
        let ends = (1..=path.len().min(self.prefix_bytes_max)).rev();
        ends.filter(|end| path.get(*end).is_none_or(|next| *next == b'/'))
            .filter_map(|end| self.prefixes.get(query.path.get(..end)?))
            .find_map(|range| self.first(range, query))
    }

    /// The first of some entries of one path whose conditions hold.
    fn first(&self, range: &Range<usize>, query: &Query<'_>) -> Option<usize> {
        let entries = self.entries[range.clone()].iter();
        entries.into_iter().find(|entry| entry.conditions_hold(query)).map(|entry| entry.route)
    }
}

/// Whether a host is of a wildcard's; a suffix is not the host itself.
fn ends_below(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// Whether a route with this host takes requests to `host`, which may have a port and any case.
pub(super) fn is_of_host(pattern: Option<&Host>, host: &str) -> bool {
    let host = without_port(host).to_ascii_lowercase();
    match pattern {
        None => true,
        Some(Host::Exact(exact)) => *exact == host,
        Some(Host::Suffix(suffix)) => ends_below(&host, suffix),
    }
}

/// The host of `host[:port]`; an IPv6 address keeps its brackets. The final dot of a fully qualified
/// name is no part of it.
pub(super) fn without_port(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.rfind(':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix('.').unwrap_or(host)
}
