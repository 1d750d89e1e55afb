//! What a listener adds to the requests that it passes on.

use serde::{Deserialize, Serialize};

/// What a listener adds to the requests that it passes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    /// `Via`, and the detection of loops by it.
    pub via: Via,
    /// Whether `Forwarded` is added (RFC 7239).
    pub forwarded: bool,
    /// `X-Request-Id`.
    pub request_id: RequestId,
    /// Whether the client gets the request's `X-Request-Id`.
    pub request_id_response: bool,
    /// Where there is no valid `traceparent`, one is begun; the share of those marked as sampled, in
    /// per cent. `None` for passing on what there is.
    pub trace_sampled_percent: Option<u8>,
}

/// By which name `Via` tells of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// One that no other listener has, on this host or another.
    Auto,
    /// None: there is no `Via`, and no loop is seen.
    Off,
    /// This one.
    Name(String),
}

/// Whose `X-Request-Id` is kept; others are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestId {
    /// That of trusted proxies.
    #[default]
    Trusted,
    /// That of any client.
    Any,
    /// Nobody's.
    Make,
    /// Everybody's, as it is; none is made.
    Off,
}
