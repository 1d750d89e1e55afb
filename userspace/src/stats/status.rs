//! A snapshot of the whole daemon.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::clock;

/// The whole daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// `global.instance`.
    pub instance: String,
    /// Process id of the supervisor.
    pub pid: u32,
    /// Seconds since the supervisor started.
    pub uptime_seconds: u64,
    /// The generation in force.
    pub generation: u64,
    /// Attempts to put another configuration in force, by what came of them: `taken` or `refused`.
    pub reloads: Vec<Count>,
    /// Whether the last one was refused.
    pub reload_refused: bool,
    /// When the last one was taken, in seconds since 1970, or when the daemon was started.
    pub config_since: u64,
    /// Whether the region is in BPF maps (`ebpf`) or in plain memory (`memory`).
    pub plane: String,
    /// How late probes began, in seconds.
    pub probe_lag: Histogram,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// The certificates that listeners show.
    pub certificates: Vec<Certificate>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What workers counted whose lines nobody has now. For metrics alone.
    #[serde(skip)]
    pub former_workers: Vec<Worker>,
    /// The services.
    pub services: Vec<Service>,
    /// Backends that are in no service any more and finish what they have.
    pub leaving: Vec<Leaving>,
    /// The vips.
    pub vips: Vec<Vip>,
    /// Packets by reason, of all vips.
    pub l4_reasons: Vec<Count>,
    /// Lines of the access log that its destination did not take.
    pub access_log_lost: u64,
}

/// A name and a count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Count {
    /// What was counted.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// How often a figure was how great.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histogram {
    /// Upper bounds, each with the number of all figures that do not pass it.
    pub bounds: Vec<(f64, u64)>,
    /// The number of all figures.
    pub total: u64,
    /// Their sum.
    pub sum: f64,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Responses by class, those of Steerage itself among them.
    pub responses: Vec<Count>,
    /// Bytes that went to backends: of request bodies, tunnels and streams.
    pub request_body_bytes: u64,
    /// The same from backends.
    pub response_body_bytes: u64,
    /// Requests that Steerage answered itself, by class.
    pub errors: Vec<Count>,
    /// Connections that ended, by cause.
    pub ends: Vec<Count>,
    /// Streams and tunnels in such connections that were cut off, by cause.
    pub stream_ends: Vec<Count>,
    /// TLS handshakes, by their end.
    pub handshakes: Vec<Count>,
    /// How long requests took that backends answered; tunnels are not among them.
    pub total: Latency,
    /// Its routes, of HTTP.
    pub routes: Vec<Route>,
}

/// A listener's route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Route {
    /// What it asks for.
    pub name: String,
    /// Its service; `None` of a route that is answered here.
    pub service: Option<String>,
    /// Responses by class.
    pub responses: Vec<Count>,
    /// Bytes that went to backends.
    pub request_body_bytes: u64,
    /// Bytes that came from backends.
    pub response_body_bytes: u64,
    /// How long requests took that backends answered.
    pub total: Latency,
}

/// A certificate that listeners show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Certificate {
    /// Its file.
    pub cert: String,
    /// The listeners that show it.
    pub listeners: Vec<String>,
    /// What it is for.
    pub names: Vec<String>,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// The SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// When its time begins, in seconds since 1970.
    pub not_before: i64,
    /// When its time ends, in seconds since 1970.
    pub not_after: i64,
    /// Whether an OCSP answer goes with it.
    pub ocsp: bool,
    /// What is wrong with the files: what was read before is in force, or what is wrong is the time alone.
    pub fault: Option<String>,
}

impl Certificate {
    /// Whole days until its time ends; below zero when it has.
    #[must_use]
    pub fn days_left(&self) -> i64 {
        (self.not_after - clock::since_epoch().as_secs().cast_signed()).div_euclid(24 * 3600)
    }
}

/// A worker process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Worker {
    /// Its line in `WORKERS`.
    pub line: usize,
    /// Its process id.
    pub pid: u32,
    /// Whether it accepts connections.
    pub live: bool,
    /// Whether it belongs to this supervisor or drains after a former one.
    pub current: bool,
    /// Open client connections.
    pub connections: u32,
    /// Requests being served.
    pub active_requests: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that the kernel sent it and that it has not accepted yet.
    pub pending: u32,
    /// Whether it has as many connections as it may, and accepts none.
    pub full: bool,
    /// Milliseconds since its last sign of life.
    pub heartbeat_age_ms: u64,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// Its memory in RAM, in bytes, what it shares with others included.
    pub memory_bytes: u64,
    /// The processor time that it has used, in seconds.
    pub cpu_seconds: f64,
    /// Processes that were started on its line, by why.
    pub starts: Vec<Count>,
    /// How late its loop came to a timer that is due ten times a second.
    pub lag: Latency,
    /// Requests that it answered itself, by class.
    pub errors: Vec<Count>,
    /// Connections of clients that ended, by cause.
    pub ends: Vec<Count>,
    /// Streams and tunnels in such connections that it cut off, by cause.
    pub stream_ends: Vec<Count>,
    /// TLS handshakes with clients, by their end.
    pub handshakes: Vec<Count>,
    /// Lines of the access log that it has handed over.
    pub log_lines: u64,
    /// Lines that found no room on their way.
    pub log_dropped: u64,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How backends are picked.
    pub balance: String,
    /// How many backends take new work.
    pub available: usize,
    /// Whether so few do that health is ignored.
    pub panicking: bool,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A backend that left the configuration and has something left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Leaving {
    /// The service that had it; `None` if it left before this daemon was started.
    pub service: Option<String>,
    /// Its address.
    pub address: SocketAddr,
    /// Its slot.
    pub slot: u16,
    /// `leaving`.
    pub state: String,
    /// For how long it has been leaving, as far as this daemon knows.
    pub seconds: u64,
    /// Requests that it has.
    pub requests: u64,
    /// Connections to it that are in use.
    pub connections: u64,
    /// Tunnels to it.
    pub tunnels: u64,
    /// L4 flows that it has, as they were counted last, every five seconds; `None` if none were counted.
    pub flows: Option<u64>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    /// Its slot in the shared tables.
    pub slot: u16,
    /// The slot's tenancy.
    pub epoch: u32,
    /// Its weight.
    pub weight: u16,
    /// Its state.
    pub state: String,
    /// Why it is in this state.
    pub why: String,
    /// For how many seconds it has been, as far as this daemon knows.
    pub seconds: u64,
    /// What its probe has said; `None` without one, or before its first answer.
    pub probe: Option<Probe>,
    /// Its bit in the bitmap: whether it takes new work.
    pub accepts_new: bool,
    /// Its other bit: whether its flows stay.
    pub keeps_flows: bool,
    /// L7 figures, summed over workers.
    pub l7: L7,
    /// L4 figures, summed over CPUs.
    pub l4: L4,
}

/// The checks of a backend: those of all services that share them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Probe {
    /// Checks that succeeded.
    pub ok: u64,
    /// Checks that failed.
    pub failed: u64,
    /// How long the latest one took, in seconds.
    pub seconds: f64,
}

/// L7 figures of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct L7 {
    /// Responses by class.
    pub responses: Vec<Count>,
    /// Failed attempts by class.
    pub failures: Vec<Count>,
    /// Connections that ended, by cause: those causes that there were.
    pub ends: Vec<Count>,
    /// Connections opened.
    pub connections_created: u64,
    /// Requests sent on a connection that had carried one before.
    pub connections_reused: u64,
    /// Requests sent again after an attempt here gave no response, by rule.
    pub replays: Vec<Count>,
    /// Requests not sent again after such an attempt, by reason.
    pub refusals: Vec<Count>,
    /// TLS handshakes by how they went; those of probes are not among them.
    pub handshakes: Vec<Count>,
    /// Request body bytes.
    pub request_body_bytes: u64,
    /// Response body bytes.
    pub response_body_bytes: u64,
    /// How long requests and connections stood in line for it, those that did.
    pub queue: Latency,
    /// How long connections took to be made, with TLS.
    pub connect: Latency,
    /// How long responses took to begin.
    pub first_byte: Latency,
    /// How long requests took, from their coming to the end of the response; tunnels are not among them.
    pub total: Latency,
    /// Requests in flight.
    pub active: u64,
    /// Idle pooled connections.
    pub idle: u64,
    /// Open connections.
    pub connections: u64,
    /// Open tunnels.
    pub tunnels: u64,
    /// Ejections.
    pub ejections: u64,
}

/// How long something took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Latency {
    /// How often.
    pub count: u64,
    /// The sum, in seconds.
    pub seconds: f64,
    /// The time that half of them did not pass, in microseconds; `None` of none.
    pub p50_us: Option<u64>,
    /// The time that 99 of a hundred did not pass, in microseconds.
    pub p99_us: Option<u64>,
    /// How often it took how long: [`steerage_common::latency`]. For metrics alone.
    #[serde(skip)]
    pub buckets: Vec<u64>,
}

impl L7 {
    /// All responses.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.responses.iter().map(|class| class.count).sum()
    }

    /// All failed attempts.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.iter().map(|class| class.count).sum()
    }
}

/// L4 figures of a vip or a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct L4 {
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets from backends.
    pub out_packets: u64,
    /// Bytes from backends.
    pub out_bytes: u64,
    /// Flows begun.
    pub flows: u64,
    /// Flows entered into the flow table.
    pub remembered: u64,
    /// Of a vip: packets that asked the flow table for a flow that it does not have.
    pub misses: u64,
}

/// A vip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its protocol.
    pub protocol: String,
    /// Its service.
    pub service: String,
    /// The links that the program is on, with its mode.
    pub interfaces: Vec<String>,
    /// Its figures.
    pub l4: L4,
}
