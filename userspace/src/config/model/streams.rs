//! Connections that are passed on as they are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Host;

/// Where a listener's connections go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// Whether they are of TLS, and what the client says first decides.
    pub is_tls: bool,
    /// In the order of the file; the one of a plain listener matches everything.
    pub routes: Vec<StreamRoute>,
}

/// Which connections go where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRoute {
    /// Where it begins in the file; from 1.
    pub line: usize,
    /// The host that the client wants; `None` for any, or none.
    pub sni: Option<Host>,
    /// Of these protocols the client speaks one; empty for any, or none.
    pub alpn: Vec<String>,
    /// Where its connections end.
    pub end: StreamEnd,
    /// How long they may take.
    pub timeouts: StreamTimeouts,
}

/// Where connections end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamEnd {
    /// At a backend of a service: its index in [`super::Model::services`].
    Service(usize),
    /// Here: at the listener of this name, which speaks HTTP over TLS.
    Listener(String),
}

/// How long a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTimeouts {
    /// A backend to accept it.
    pub connect: Duration,
    /// That nothing moves.
    pub tunnel: Duration,
    /// That nothing moves once one way has ended.
    pub half_closed: Duration,
}
