//! Where what is done for a listener's clients, and for the requests of its routes, is counted.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::handshake::Handshake;
use steerage_common::latency::bucket;

use crate::config::model::{Listener, titles};
use crate::region::{ListenerLine, Region, RouteLine, add};
use crate::service::identity::{listener_identity, route_identity};

/// The lines of a listener and of its routes, of one worker. What has none, because there are too many, is
/// not counted.
#[derive(Debug)]
pub(crate) struct Tally {
    region: Rc<Region>,
    worker: usize,
    line: Option<u16>,
    /// In the order of the file.
    routes: Vec<Option<u16>>,
}

impl Tally {
    pub(super) fn new(listener: &Listener, region: Rc<Region>, worker: usize) -> Self {
        let route = |title: &String| region.route_line(route_identity(&listener.name, title));
        let routes = titles(&listener.routes).iter().map(route).collect();
        let line = region.listener_line(listener_identity(&listener.name));
        Self { region, worker, line, routes }
    }

    fn listener(&self) -> Option<&ListenerLine> {
        self.line.map(|line| self.region.listener(self.worker, line))
    }

    fn route(&self, route: Option<usize>) -> Option<&RouteLine> {
        let line = *self.routes.get(route?)?;
        line.map(|line| self.region.route(self.worker, line))
    }

    /// Counts a response, by the route that its request took.
    pub(super) fn responded(&self, route: Option<usize>, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100 - 1).min(4);
        if let Some(line) = self.listener() {
            add(&line.responses[class], 1);
        }
        if let Some(line) = self.route(route) {
            add(&line.responses[class], 1);
        }
    }

    /// Counts bytes to and from a backend.
    pub(crate) fn passed(&self, route: Option<usize>, up: u64, down: u64) {
        if let Some(line) = self.listener() {
            add(&line.request_body_bytes, up);
            add(&line.response_body_bytes, down);
        }
        if let Some(line) = self.route(route) {
            add(&line.request_body_bytes, up);
            add(&line.response_body_bytes, down);
        }
    }

    /// Counts the whole time of a request that a backend answered.
    pub(super) fn took(&self, route: usize, us: u64) {
        if let Some(line) = self.listener() {
            add(&line.counts[bucket(us)], 1);
            add(&line.sum_us, us);
        }
        if let Some(line) = self.route(Some(route)) {
            add(&line.counts[bucket(us)], 1);
            add(&line.sum_us, us);
        }
    }

    pub(super) fn erred(&self, class: ErrorClass) {
        if let Some(line) = self.listener() {
            add(&line.errors[class as usize], 1);
        }
    }

    pub(super) fn ended(&self, cause: Cause) {
        if let Some(line) = self.listener() {
            add(&line.ends[cause as usize], 1);
        }
    }

    pub(super) fn stream_ended(&self, cause: Cause) {
        if let Some(line) = self.listener() {
            add(&line.stream_ends[cause as usize], 1);
        }
    }

    pub(super) fn shook(&self, end: Handshake) {
        if let Some(line) = self.listener() {
            add(&line.handshakes[end.index()], 1);
        }
    }
}

/// A client's connection, counted while it is open.
#[derive(Debug)]
pub(crate) struct Open(Rc<Tally>);

impl Open {
    pub(crate) fn new(tally: Rc<Tally>) -> Self {
        if let Some(line) = tally.listener() {
            add(&line.accepted, 1);
            add(&line.connections, 1);
        }
        Self(tally)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(line) = self.0.listener() {
            let open = line.connections.load(Ordering::Relaxed);
            line.connections.store(open.saturating_sub(1), Ordering::Relaxed);
        }
    }
}
