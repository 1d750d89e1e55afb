//! One route: what it asks of a request, and what of that is not so.

use std::cmp::Reverse;

use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, Method};
use regex::bytes::Regex;

use super::Query;
use crate::config::model::{Path, Route, ValueMatch};
use crate::config::pattern;

/// What a route asks of a request beside its host.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The route's place in the file's order.
    pub(crate) route: usize,
    pub(crate) pattern: Pattern,
    /// Empty for any.
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Value)>,
}

/// What the path must be.
#[derive(Debug)]
pub(crate) enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
    Any,
}

/// What a header's value must be.
#[derive(Debug)]
enum Value {
    Present,
    Absent,
    Exact(HeaderValue),
    Regex(Regex),
}

/// The first thing about a request that a route does not take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mismatch<'a> {
    Path,
    Method,
    Header(&'a HeaderName),
}

impl Entry {
    /// `None` if the route cannot be compiled, which the configuration's validation rules out.
    pub(super) fn new(index: usize, route: &Route) -> Option<Self> {
        let pattern = match &route.path {
            Path::Any => Pattern::Any,
            Path::Exact(path) => Pattern::Exact(path.as_str().into()),
            Path::Prefix(path) => Pattern::Prefix(path.as_str().into()),
            Path::Regex(regex) => Pattern::Regex(compiled(regex)?),
        };
        let methods = route.methods.iter().map(|method| method.parse().ok());
        let headers = route.headers.iter().map(|header| {
            let value = match &header.value {
                ValueMatch::Present => Value::Present,
                ValueMatch::Absent => Value::Absent,
                ValueMatch::Exact(text) => Value::Exact(text.parse().ok()?),
                ValueMatch::Regex(regex) => Value::Regex(compiled(regex)?),
            };
            Some((header.name.parse().ok()?, value))
        });
        Some(Self {
            route: index,
            pattern,
            methods: methods.collect::<Option<_>>()?,
            headers: headers.collect::<Option<_>>()?,
        })
    }

    /// The less, the earlier the entry is tried.
    pub(super) fn precedence(&self) -> impl Ord {
        let (rank, path) = match &self.pattern {
            Pattern::Exact(path) => (0, &**path),
            Pattern::Prefix(path) => (1, &**path),
            Pattern::Regex(_) => (2, ""),
            Pattern::Any => (3, ""),
        };
        let conditions = usize::from(!self.methods.is_empty()) + self.headers.len();
        // The path itself, so that those of one path stand together.
        (rank, Reverse(path.len()), Box::<str>::from(path), Reverse(conditions))
    }

    /// Whether the method and the headers are what the route asks for.
    pub(super) fn conditions_hold(&self, query: &Query<'_>) -> bool {
        self.condition_that_fails(query).is_none()
    }

    /// What of a request the route does not take.
    pub(crate) fn mismatch(&self, query: &Query<'_>) -> Option<Mismatch<'_>> {
        if self.pattern.matches(query.path) {
            self.condition_that_fails(query)
        } else {
            Some(Mismatch::Path)
        }
    }

    fn condition_that_fails(&self, query: &Query<'_>) -> Option<Mismatch<'_>> {
        if !self.methods.is_empty() && !self.methods.contains(query.method) {
            return Some(Mismatch::Method);
        }
        let fails = |(name, value): &&(HeaderName, Value)| !value.matches(query.headers, name);
        self.headers.iter().find(fails).map(|(name, _)| Mismatch::Header(name))
    }
}

impl Pattern {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl Value {
    fn matches(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        match self {
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
            Self::Exact(exact) => values.any(|value| value == exact),
            Self::Regex(regex) => values.any(|value| regex.is_match(value.as_bytes())),
        }
    }
}

fn compiled(regex: &str) -> Option<Regex> {
    let compiled = pattern::whole(regex);
    if let Err(error) = &compiled {
        tracing::error!(regex, error, "a route's expression cannot be compiled");
    }
    compiled.ok()
}
