//! The validated configuration.
//!
//! Serializable, because the supervisor hands it to its workers.

mod access;
mod action;
mod discover;
mod forwarding;
mod guard;
mod probe;
mod quic;
mod route;
mod streams;
mod tls;
mod upstream_tls;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use steerage_common::health::Policy;
use steerage_common::life::{IdleLimits, units};
use steerage_common::replay;

use crate::l4::proxy_protocol::Version as ProxyVersion;
use crate::net::Io;

pub use access::{AccessLog, Destination, Field, Format, FormatError, Piece as LogPiece};
pub use action::{Action, Answer, HeaderRules, HostHeader, Piece, Redirect, Rewrite, Template};
pub use discover::{Discover, Records};
pub use forwarding::{Forwarding, RequestId, Via};
pub use guard::{Guard, Offenders, Prefix, Rate, SynFlood};
pub use probe::{
    Authorities, Check, CheckKind, GrpcCheck, HttpCheck, PROBE_BODY_MAX, Probe, ProbeMethod, Trust,
};
pub use quic::{NoServerId, Quic, ServerId};
pub use route::{HeaderMatch, Host, Path, Route, RouteTimeouts, ValueMatch, titles};
pub use streams::{StreamEnd, StreamRoute, StreamTimeouts, Streams};
pub use tls::{CertificateFiles, ClientAuth, ClientAuthMode, ListenerTls, SniMismatch, TlsVersion};
pub use upstream_tls::{ClientCertificate, UpstreamTls};

/// A whole configuration without contradictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What concerns the daemon as a whole.
    pub global: Global,
    /// What clients of vips may do that have no guard of their own.
    pub guard: Guard,
    /// Addresses where clients connect.
    pub listeners: Vec<Listener>,
    /// L4 service addresses.
    pub vips: Vec<Vip>,
    /// Groups of backends.
    pub services: Vec<Service>,
}

impl Model {
    /// Whether the packet programs have anything to do.
    #[must_use]
    pub fn has_l4(&self) -> bool {
        !self.vips.is_empty() || self.listeners.iter().any(|listener| listener.interface.is_some())
    }
}

/// What concerns the daemon as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Global {
    /// Tells several daemons of one host apart; part of the pin directory.
    pub instance: String,
    /// Worker processes; `None` for one per core.
    pub workers: Option<usize>,
    /// The user that workers run as; `None` for `steerage`, or `nobody` where there is no such user.
    pub user: Option<String>,
    /// Where the pins of all instances are.
    pub bpf_dir: PathBuf,
    /// The admin socket.
    pub admin: PathBuf,
    /// Where Prometheus fetches metrics; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// The file with the token that orders there need; `None` for no orders there.
    pub page_token: Option<PathBuf>,
    /// Holds the supervisor's process id and, by a lock, its claim to the instance.
    pub pid_file: PathBuf,
    /// Seed of the packet hash; `None` for one that lasts until the host's next start.
    pub hash_seed: Option<String>,
    /// Log level and format.
    pub log: Log,
    /// Lines about requests.
    pub access_log: AccessLog,
    /// Client connections of all workers together.
    pub max_connections: usize,
    /// Flows that the L4 tables remember.
    pub max_flows: u32,
    /// Sources that the guards tell apart.
    pub max_sources: u32,
    /// How long an L4 flow may be silent and still have a claim to its backend.
    pub flow_idle: FlowIdle,
    /// Where tunnels' outer sources come from, at most one prefix a family; the host's own address
    /// where there is none.
    pub tunnel_sources: Vec<IpNet>,
    /// Peers whose `X-Forwarded-*` headers are kept.
    pub trusted_proxies: Vec<IpNet>,
    /// How long open requests may take after a stop was asked for.
    pub drain: Duration,
    /// How long nothing may be heard of a worker before it is killed; `None` for any time.
    pub worker_hang: Option<Duration>,
    /// How long the daemon that follows at an upgrade may take to get ready.
    pub upgrade_timeout: Duration,
    /// Commands at turning points.
    pub hooks: Hooks,
    /// How long a worker serves before another one takes its place; `None` for any time.
    pub worker_lifetime: Option<Duration>,
    /// How much memory a worker may have, in bytes, before another one takes its place.
    pub worker_memory: Option<u64>,
    /// Whether workers may make the system calls alone that they need.
    pub worker_seccomp: bool,
    /// How workers read and write.
    pub io: Io,
    /// Whether a change of the file, or of one that it names for TLS, is a reload.
    pub watch: bool,
    /// How long the key serves that tickets of TLS sessions are sealed with.
    pub ticket_rotation: Duration,
}

/// Commands that the supervisor runs: a program and its arguments; none if empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// When all workers serve.
    pub on_start: Vec<String>,
    /// When another configuration is in force.
    pub on_reload: Vec<String>,
    /// Before the daemon drains.
    pub on_shutdown: Vec<String>,
}

/// Log level and format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// The least important level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what makes the daemon stop or lose something.
    Error,
    /// And what needs an operator's eye.
    Warn,
    /// And changes of state.
    #[default]
    Info,
    /// And decisions.
    Debug,
    /// And everything.
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Addresses where clients connect, and where their requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// Name in logs and metrics.
    pub name: String,
    /// Addresses to listen on.
    pub bind: Vec<SocketAddr>,
    /// Whose PROXY headers are taken, and must be there; `None` for nobody's.
    pub accept_from: Option<Vec<IpNet>>,
    /// Where connections go as they are; `None` if HTTP is spoken.
    pub streams: Option<Streams>,
    /// How TLS is spoken; `None` for plain HTTP.
    pub tls: Option<ListenerTls>,
    /// How long clients may take.
    pub timeouts: ListenerTimeouts,
    /// How much clients may ask.
    pub limits: ListenerLimits,
    /// When addresses are held back.
    pub offenders: Offenders,
    /// The link on which a guard looks at clients' packets; `None` if none does.
    pub interface: Option<String>,
    /// What its clients may do, if that is not [`Model::guard`].
    pub guard: Option<Guard>,
    /// Limits of clients that speak HTTP/2.
    pub http2: Http2,
    /// What is added to requests.
    pub forwarding: Forwarding,
    /// What replaces the short text of an error; one for a status.
    pub error_pages: Vec<ErrorPage>,
    /// Whether errors name their class in `X-Steerage-Error`.
    pub error_header: bool,
    /// Whether its requests have lines in the access log.
    pub access_log: bool,
    /// In the order of the file.
    pub routes: Vec<Route>,
}

/// Limits of a client's HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http2 {
    /// Streams that may be open.
    pub streams: u32,
    /// Bytes that may be sent on one stream before they are read.
    pub stream_window: u32,
    /// Bytes that may be sent on all streams before they are read.
    pub connection_window: u32,
    /// Length of a request's headers, as HTTP/2 counts them.
    pub header_list: u32,
    /// Streams that the client may reset within ten seconds without waiting for their response.
    pub resets: u32,
    /// How long there may be no stream.
    pub idle: Duration,
    /// How long the client may take for a piece of a response.
    pub stall: Duration,
}

/// What clients see of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorPage {
    /// The errors' status.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: String,
    /// The page.
    pub body: String,
}

/// How long clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTimeouts {
    /// From a request's first byte to the end of its headers.
    pub header_read: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without taking anything of a response that waits.
    pub stall: Duration,
    /// Before a body's rate counts, and between two looks at it.
    pub body_grace: Duration,
}

/// How much clients may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerLimits {
    /// Request line and headers together, in bytes.
    pub head_bytes: u32,
    /// Header lines.
    pub fields: u16,
    /// Request target, in bytes.
    pub uri_bytes: u32,
    /// The least that a request body must bring, in bytes a second; 0 for anything.
    pub body_rate: u32,
    /// Connections of one client address, over all workers; 0 for any number.
    pub connections_per_address: u32,
}

/// An L4 service address, handled in XDP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Name in status and metrics.
    pub name: String,
    /// Address and port.
    pub address: SocketAddr,
    /// TCP, UDP, or UDP with QUIC in it.
    pub protocol: Protocol,
    /// How connection ids are read, of QUIC.
    pub quic: Option<Quic>,
    /// How packets reach backends.
    pub mode: Mode,
    /// How they are wrapped in mode [`Mode::Tunnel`].
    pub encapsulation: Encapsulation,
    /// When packets ask the flow table.
    pub flow_table: FlowTable,
    /// What becomes of packets that no backend takes.
    pub no_backend: NoBackend,
    /// What serves it on a host without eBPF; `None` if that is an error.
    pub fallback: Option<Box<Listener>>,
    /// The links on which clients' packets come in.
    pub interfaces: Vec<String>,
    /// What its clients may do, if that is not [`Model::guard`].
    pub guard: Option<Guard>,
    /// Index in [`Model::services`].
    pub service: usize,
}

/// See [`Global::flow_idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowIdle {
    /// Of a TCP connection.
    pub tcp: Duration,
    /// Of a flow of datagrams.
    pub udp: Duration,
}

impl FlowIdle {
    /// As the kernel half counts.
    #[must_use]
    pub const fn limits(self) -> IdleLimits {
        IdleLimits { segments: units(self.tcp.as_secs()), datagrams: units(self.udp.as_secs()) }
    }
}

/// How packets of a vip reach backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Rewritten both ways.
    Nat,
    /// Wrapped; backends answer clients themselves.
    Tunnel,
    /// By link address; backends answer clients themselves.
    L2,
}

impl Mode {
    /// The mode's number in the kernel's table.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Nat => steerage_common::abi::MODE_NAT,
            Self::Tunnel => steerage_common::abi::MODE_TUNNEL,
            Self::L2 => steerage_common::abi::MODE_L2,
        }
    }
}

/// How a tunnel wraps packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// IP in IP, of either family in either.
    #[default]
    Ip,
    /// GUE: over UDP port 6080.
    Gue,
}

/// When the packets of a vip ask the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowTable {
    /// Where the ring alone could be wrong.
    #[default]
    Auto,
    /// Always, and every flow is remembered.
    Always,
}

/// What becomes of a vip's packets while no backend takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoBackend {
    /// Nobody gets them.
    #[default]
    Drop,
    /// This host gets them.
    Pass,
}

/// Protocol of a vip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP with QUIC in it.
    Quic,
}

impl Protocol {
    /// The protocol's IP number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => steerage_common::abi::PROTOCOL_TCP,
            Self::Udp | Self::Quic => steerage_common::abi::PROTOCOL_UDP,
        }
    }
}

/// A group of backends with one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name in routes, vips, status and metrics.
    pub name: String,
    /// How a backend is picked for a request.
    pub balance: Balance,
    /// What `maglev` hashes.
    pub hash_key: HashKey,
    /// The cookie that ties a client to a backend; `None` for none.
    pub sticky_cookie: Option<String>,
    /// The active check; `None` for none.
    pub probe: Option<Probe>,
    /// Failed requests in a row that eject a backend, and for how long.
    pub ejection: Ejection,
    /// How long a recovered backend's share takes to grow to its weight; zero for none.
    pub slow_start: Duration,
    /// Below this share of available backends health is ignored, in per cent; 0 for never.
    pub panic_percent: u8,
    /// How long a request waits while every backend has as many as it may.
    pub queue_timeout: Duration,
    /// How backends are spoken to.
    pub upstream: Upstream,
    /// How TLS is spoken to them; `None` for plain connections.
    pub upstream_tls: Option<UpstreamTls>,
    /// Idle connections to backends.
    pub pool: Pool,
    /// What happens when the backend had closed a kept connection.
    pub stale_replay: StaleReplay,
    /// Further attempts of a request.
    pub retry: Retry,
    /// Where more backends are found; `None` for nowhere.
    pub discover: Option<Discover>,
    /// In the order of the file.
    pub backends: Vec<Backend>,
}

impl Service {
    /// The numbers of the health state machine.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let (fall, rise) = self.probe.as_ref().map_or((1, 1), |probe| (probe.fall, probe.rise));
        Policy {
            probed: self.probe.is_some(),
            fall,
            rise,
            consecutive: self.ejection.consecutive,
            ejection_ticks: ticks(self.ejection.base),
            ejection_ticks_max: ticks(self.ejection.max),
            slow_start_ticks: if self.slow_start.is_zero() { 0 } else { ticks(self.slow_start) },
            ..Policy::DEFAULT
        }
    }
}

impl Service {
    /// How one of its backends is checked: by the name that it has.
    #[must_use]
    pub fn check_of(&self, backend: &Backend) -> Option<Cow<'_, Check>> {
        let check = &self.probe.as_ref()?.check;
        Some(match &backend.host {
            Some(host) if check.is_nameless() => Cow::Owned(check.named(host)),
            _ => Cow::Borrowed(check),
        })
    }

    /// What the replay decision may do.
    #[must_use]
    pub fn replay_policy(&self) -> replay::Policy {
        replay::Policy {
            stale: match self.stale_replay {
                StaleReplay::Proven => replay::Stale::Proven,
                StaleReplay::Idempotent => replay::Stale::Idempotent,
                StaleReplay::Off => replay::Stale::Off,
            },
            attempts_max: self.retry.attempts.saturating_add(1),
            fresh_lost: self.retry.lost,
        }
    }
}

/// What happens to a request whose kept connection turned out to be closed by the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StaleReplay {
    /// It is sent again whatever its method if the kernel proves that the backend did not receive it,
    /// and without proof if it is idempotent.
    #[default]
    Proven,
    /// It is sent again if it is idempotent.
    Idempotent,
    /// It is not sent again.
    Off,
}

/// Further attempts of a request whose first one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many.
    pub attempts: u32,
    /// Share of the requests in flight that may be attempts that a backend might execute twice, in per
    /// cent.
    pub budget_percent: u8,
    /// Whether an idempotent request is tried again when a fresh connection is lost.
    pub lost: bool,
}

/// A duration in units of 100 ms, at least one.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(100).max(1)).unwrap_or(u32::MAX)
}

/// How a backend is picked for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Smooth weighted round robin, exact over all workers together.
    RoundRobin,
    /// The less loaded, by weight, of two random ones.
    LeastRequests,
    /// Of two random ones, the one that would answer sooner by its latest latencies.
    #[default]
    PeakEwma,
    /// A random one, by weight.
    Random,
    /// By hash of something of the request, from the table that the packet program uses.
    Maglev,
}

impl Balance {
    /// The name in configuration and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequests => "least_requests",
            Self::PeakEwma => "peak_ewma",
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}

/// What of a request `maglev` hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The path.
    Path,
    /// The host.
    Host,
}

/// Passive removal of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ejection {
    /// Failed requests in a row; 0 for never.
    pub consecutive: u8,
    /// Share of failed requests in the window, above 0; 1 and more than 1 for never.
    pub ratio: f64,
    /// The latest requests that count, by time.
    pub window: Duration,
    /// Requests that the window must have before their share counts.
    pub least_requests: u32,
    /// Whether every 5xx of the backend is a failure, not only 502, 503 and 504.
    pub server_errors: bool,
    /// Length of the first ejection.
    pub base: Duration,
    /// Limit of an ejection's length.
    pub max: Duration,
    /// Share of a service's backends that may be ejected at a time, in per cent.
    pub max_percent: u8,
}

/// How backends are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The version of HTTP.
    pub protocol: UpstreamProtocol,
    /// How backends are told who the client is; `None` if they are not.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Requests at a time on one HTTP/2 connection, if the backend allows as many.
    pub streams: u32,
    /// How long an HTTP/2 connection is kept without a request.
    pub idle: Duration,
    /// How often an HTTP/2 connection is tried by a ping.
    pub ping: Duration,
}

/// The version of HTTP that backends are spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS, with prior knowledge.
    Http2,
    /// What TLS agrees on (ALPN).
    Auto,
}

/// Idle connections to one backend, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many are kept.
    pub max_idle: usize,
    /// How long one is kept idle.
    pub idle: Duration,
    /// How long one is used in all, ± 10 %.
    pub max_age: Duration,
    /// How many requests one carries, ± 10 %.
    pub max_requests: u64,
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Address and port.
    pub address: SocketAddr,
    /// The name by which DNS knows it; `None` for one that the configuration names by its address.
    pub host: Option<String>,
    /// 0 to 256; 0 takes no new work.
    pub weight: u16,
    /// Backends of a tier serve while no lower one has any.
    pub tier: u8,
    /// Connections in use that it may have, of all workers; `None` for no limit.
    pub max_connections: Option<u32>,
    /// Requests in flight that it may have, of all workers; `None` for no limit.
    pub max_requests: Option<u32>,
    /// What it calls itself in QUIC connection ids.
    pub server_ids: [Option<ServerId>; 2],
}

/// An address as the shared tables hold it: network order, IPv4 in the first four bytes; and its
/// family.
#[must_use]
pub fn table_address(address: IpAddr) -> ([u8; 16], u8) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, steerage_common::abi::FAMILY_IPV4)
        }
        IpAddr::V6(v6) => (v6.octets(), steerage_common::abi::FAMILY_IPV6),
    }
}

/// The address that a table entry holds; `None` for an unused entry.
#[must_use]
pub fn address_of(bytes: &[u8; 16], family: u8) -> Option<IpAddr> {
    match family {
        steerage_common::abi::FAMILY_IPV4 => {
            Some(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        steerage_common::abi::FAMILY_IPV6 => Some(IpAddr::from(*bytes)),
        _ => None,
    }
}
