//! What is done with the requests of one route.

use std::rc::Rc;

use http::HeaderValue;
use http::header::{HOST, HeaderMap};
use regex::bytes::Regex;

use super::Destination;
use crate::config::model::{self, HostHeader, Path, Route};
use crate::config::pattern;
use crate::l7::headers::Rules;
use crate::l7::redirect::Redirect;
use crate::l7::reply::Answer;
use crate::l7::rewrite::Rewrite;

/// A route's action, and what it changes on the way.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The route's place in the file's order.
    pub(crate) route: usize,
    pub(crate) end: End,
    /// How long a request's body may be, in bytes; `None` for any length.
    pub(crate) max_body: Option<u64>,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) request: Rules,
    pub(crate) response: Rules,
    /// The `Host` that every backend gets instead of the client's.
    host: Option<HeaderValue>,
}

/// Where a route's requests end.
#[derive(Debug)]
pub(crate) enum End {
    Service(Destination),
    /// With the expression whose groups the location may use.
    Redirect(Redirect, Option<Regex>),
    Answer(Answer),
}

impl Plan {
    pub(super) fn new(index: usize, route: &Route) -> Self {
        let end = match &route.action {
            model::Action::Forward(service) => End::Service(Destination {
                route: index,
                service: *service,
                timeouts: Rc::new(route.timeouts),
                idempotency_key: route.idempotency_key,
                connect: route.connect,
                names_backend: route.host_header == HostHeader::Backend,
            }),
            model::Action::Redirect(redirect) => {
                let groups = match &route.path {
                    Path::Regex(regex) => pattern::whole(regex).ok(),
                    _ => None,
                };
                End::Redirect(Redirect::new(redirect), groups)
            }
            model::Action::Answer(answer) => End::Answer(Answer::new(answer)),
        };
        let host = match &route.host_header {
            HostHeader::Name(name) => name.parse().ok(),
            HostHeader::Preserve | HostHeader::Backend => None,
        };
        Self {
            route: index,
            end,
            max_body: route.max_body,
            rewrite: route.rewrite.as_ref().and_then(Rewrite::new),
            request: Rules::new(&route.request_headers),
            response: Rules::new(&route.response_headers),
            host,
        }
    }

    /// Whether `CONNECT` is passed on.
    pub(crate) fn allows_connect(&self) -> bool {
        matches!(&self.end, End::Service(destination) if destination.connect)
    }

    /// Makes the changes that the route asks for, after all others.
    pub(crate) fn change_request(&self, headers: &mut HeaderMap) {
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        self.request.apply(headers);
    }
}
