//! Which requests go where.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, HeaderRules, HostHeader, Rewrite};

/// Which requests go where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Where it begins in the file; from 1.
    pub line: usize,
    /// The request's host; `None` for any.
    pub host: Option<Host>,
    /// The request's path.
    pub path: Path,
    /// The request's method; empty for any.
    pub methods: Vec<String>,
    /// What the request's headers must be, all of it.
    pub headers: Vec<HeaderMatch>,
    /// Where its requests end.
    pub action: Action,
    /// How the path changes on the way to the backend; `None` for not at all.
    pub rewrite: Option<Rewrite>,
    /// The `Host` that the backend gets.
    pub host_header: HostHeader,
    /// What changes in a request's headers.
    pub request_headers: HeaderRules,
    /// What changes in a response's headers.
    pub response_headers: HeaderRules,
    /// How long a request's body may be, in bytes; `None` for any length.
    pub max_body: Option<u64>,
    /// How long the backend may take.
    pub timeouts: RouteTimeouts,
    /// Whether a request with an `Idempotency-Key` header counts as idempotent.
    pub idempotency_key: bool,
    /// Whether `CONNECT` is passed on.
    pub connect: bool,
}

impl Route {
    /// What it asks for, in few words.
    #[must_use]
    pub fn title(&self) -> String {
        let mut parts = vec![match &self.host {
            None => "any host".to_owned(),
            Some(Host::Exact(host)) => format!("host {host}"),
            Some(Host::Suffix(suffix)) => format!("host *{suffix}"),
        }];
        parts.push(match &self.path {
            Path::Any => "any path".to_owned(),
            Path::Exact(path) => format!("path {path} exactly"),
            Path::Prefix(path) => format!("path {path}"),
            Path::Regex(regex) => format!("path like {regex}"),
        });
        if !self.methods.is_empty() {
            parts.push(self.methods.join(" or "));
        }
        parts.extend(self.headers.iter().map(|header| format!("header {}", header.name)));
        parts.join(", ")
    }
}

/// The titles of a listener's routes, each its own: those of the same title are numbered.
#[must_use]
pub fn titles(routes: &[Route]) -> Vec<String> {
    let mut seen = HashMap::new();
    let own = |route: &Route| {
        let title = route.title();
        let count = seen.entry(title.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count == 1 { title } else { format!("{title} ({count})") }
    };
    routes.iter().map(own).collect()
}

/// A pattern for the request's host, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// This host.
    Exact(String),
    /// Any host that ends so; begins with a dot.
    Suffix(String),
}

/// A pattern for the request's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Path {
    /// Any path.
    Any,
    /// Any path that a valid regular expression matches whole.
    Regex(String),
    /// Any path that begins with these whole segments; no slash at the end.
    Prefix(String),
    /// This path.
    Exact(String),
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// The header's name, in lower case.
    pub name: String,
    /// Its value; one of its values, if it has several.
    pub value: ValueMatch,
}

/// What a header's value must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatch {
    /// Any: the header is there.
    Present,
    /// None: the header is not there.
    Absent,
    /// This value.
    Exact(String),
    /// Any value that a valid regular expression matches whole.
    Regex(String),
}

/// How long a backend may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimeouts {
    /// To accept a connection; with TLS, to shake hands as well.
    pub connect: Duration,
    /// From the end of the connection's making to the response's first byte.
    pub first_byte: Duration,
    /// That nothing comes of a response that has begun.
    pub stall: Duration,
    /// That nothing moves in a tunnel.
    pub tunnel: Duration,
    /// That nothing moves in a tunnel of which one way has ended.
    pub half_closed: Duration,
}
