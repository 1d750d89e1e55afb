//! Listeners and their routes.

use super::family::{Described, Metric, Read, describe, metrics};
use super::page::{Page, Subject};
use crate::stats::status::{Listener, Route, Status};

const LISTENER: &[Metric<Listener>] = metrics![
    "steerage_listener_connections" Gauge Read::Whole(|l| l.connections),
        "Open connections of clients.";
    "steerage_listener_connections_accepted_total" Counter Read::Whole(|l| l.accepted),
        "Connections of clients that were accepted.";
    "steerage_listener_connections_ended_total" Counter Read::Sparse("cause", |l| &l.ends),
        "Connections of clients that ended.";
    "steerage_listener_streams_cut_total" Counter Read::Sparse("cause", |l| &l.stream_ends),
        "Streams and tunnels in clients' connections that were cut off.";
    "steerage_listener_responses_total" Counter Read::Each("class", |l| &l.responses),
        "Responses by status class, those of Steerage itself among them.";
    "steerage_listener_errors_total" Counter Read::Sparse("class", |l| &l.errors),
        "Requests that Steerage answered itself, and connections that it refused.";
    "steerage_listener_tls_handshakes_total" Counter Read::Sparse("end", |l| &l.handshakes),
        "TLS handshakes: full, resumed, or why there was none, as by the alert that was sent or received.";
    "steerage_listener_request_body_bytes_total" Counter Read::Whole(|l| l.request_body_bytes),
        "Bytes that went to backends: of request bodies, tunnels and streams.";
    "steerage_listener_response_body_bytes_total" Counter Read::Whole(|l| l.response_body_bytes),
        "Bytes that came from backends.";
    "steerage_listener_request_seconds" Histogram Read::Latency(|l| &l.total),
        "Requests that backends answered, from their coming to the end of the response.";
];

const ROUTE: &[Metric<Route>] = metrics![
    "steerage_route_responses_total" Counter Read::Each("class", |r| &r.responses),
        "Responses by status class, those of Steerage itself among them.";
    "steerage_route_request_body_bytes_total" Counter Read::Whole(|r| r.request_body_bytes),
        "Bytes that went to backends: of request bodies and tunnels.";
    "steerage_route_response_body_bytes_total" Counter Read::Whole(|r| r.response_body_bytes),
        "Bytes that came from backends.";
    "steerage_route_request_seconds" Histogram Read::Latency(|r| &r.total),
        "Requests that backends answered, from their coming to the end of the response.";
];

pub(super) fn write(page: &mut Page, status: &Status) {
    let listeners = &status.listeners;
    let subjects = listeners.iter();
    let subjects = subjects.map(|listener| Subject::new(listener, &[("listener", &listener.name)]));
    page.group(LISTENER, &subjects.collect::<Vec<_>>());
    let routes = listeners.iter().flat_map(|listener| {
        listener.routes.iter().map(|route| {
            let service = route.service.as_deref().unwrap_or_default();
            let labels =
                [("listener", &*listener.name), ("route", &route.name), ("service", service)];
            Subject::new(route, &labels)
        })
    });
    page.group(ROUTE, &routes.collect::<Vec<_>>());
}

pub(super) fn families() -> Vec<Described> {
    let routes = describe(&["listener", "route", "service"], ROUTE);
    [describe(&["listener"], LISTENER), routes].concat()
}
