//! The configuration file as written: names, types and defaults.

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

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::model::{
    Balance, Encapsulation, FlowTable, LogFormat, LogLevel, Mode, NoBackend, Protocol, StaleReplay,
};
use crate::l4::proxy_protocol::Version as ProxyVersion;
use crate::net::Io;

pub use access::AccessLog;
pub use action::{Answer, HeaderRules, Redirect, Rewrite, SizeLimit};
pub use discover::Discover;
pub use forwarding::{Forwarding, Traceparent};
pub use guard::{Guard, Net, Offenders, Rate, SynFlood};
pub use probe::{Expect, Probe, ProbeKind};
pub use quic::{Quic, ServerIds};
pub use route::{Route, RouteTimeouts, ValueMatch};
pub use streams::ProxyProtocol;
pub use tls::{Certificate, ClientAuth, ListenerTls};
pub use upstream_tls::UpstreamTls;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub global: Global,
    pub guard: Option<Guard>,
    #[serde(default)]
    pub listener: Vec<Listener>,
    #[serde(default)]
    pub vip: Vec<Vip>,
    #[serde(default)]
    pub service: Vec<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Global {
    pub instance: Spanned<String>,
    pub workers: Spanned<Workers>,
    pub user: Option<String>,
    pub bpf_dir: PathBuf,
    pub admin: PathBuf,
    pub metrics: Metrics,
    /// File with the token that orders on the page at the metrics address need; without it there are
    /// none.
    pub page_token: Option<Spanned<PathBuf>>,
    pub pid_file: PathBuf,
    pub hash_seed: Option<String>,
    pub log: Log,
    pub access_log: Spanned<AccessLog>,
    pub max_connections: Spanned<usize>,
    pub max_flows: Spanned<u32>,
    pub max_sources: Spanned<u32>,
    pub flow_idle: FlowIdle,
    pub tunnel_sources: Spanned<Vec<IpNet>>,
    pub trusted_proxies: Vec<IpNet>,
    pub drain: Span,
    pub worker_hang: Spanned<SpanOrOff>,
    pub upgrade_timeout: Span,
    pub hooks: Hooks,
    pub worker_lifetime: Spanned<SpanOrOff>,
    pub worker_memory: Spanned<SizeLimit>,
    pub worker_seccomp: bool,
    pub error_pages: BTreeMap<Spanned<String>, Spanned<String>>,
    pub error_header: bool,
    pub io: Io,
    pub watch: bool,
    pub ticket_rotation: Spanned<Span>,
    pub l4_fallback: L4Fallback,
}

impl Default for Global {
    fn default() -> Self {
        let unplaced = 0..0;
        Self {
            instance: Spanned::new(unplaced.clone(), "default".into()),
            workers: Spanned::new(unplaced.clone(), Workers::Auto),
            user: None,
            bpf_dir: "/sys/fs/bpf/steerage".into(),
            admin: "/run/steerage/admin.sock".into(),
            metrics: Metrics::At(SocketAddr::from(([127, 0, 0, 1], 9900))),
            page_token: None,
            pid_file: "/run/steerage/steerage.pid".into(),
            hash_seed: None,
            log: Log::default(),
            access_log: Spanned::new(0..0, AccessLog::default()),
            max_connections: Spanned::new(unplaced.clone(), 100_000),
            max_flows: Spanned::new(unplaced.clone(), 262_144),
            max_sources: Spanned::new(unplaced, 65_536),
            flow_idle: FlowIdle::default(),
            tunnel_sources: Spanned::new(0..0, Vec::new()),
            trusted_proxies: Vec::new(),
            drain: Span::seconds(30),
            worker_hang: Spanned::new(0..0, SpanOrOff(Duration::from_secs(5))),
            upgrade_timeout: Span::seconds(30),
            hooks: Hooks::default(),
            worker_lifetime: Spanned::new(0..0, SpanOrOff(Duration::ZERO)),
            worker_memory: Spanned::new(0..0, SizeLimit(None)),
            worker_seccomp: true,
            error_pages: BTreeMap::new(),
            error_header: true,
            io: Io::default(),
            watch: true,
            ticket_rotation: Spanned::new(0..0, Span::seconds(12 * 3600)),
            l4_fallback: L4Fallback::Error,
        }
    }
}

/// `"auto"` or a number.
#[derive(Clone, Copy)]
pub enum Workers {
    Auto,
    Count(usize),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Workers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number of worker processes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Workers, E> {
                usize::try_from(count)
                    .map(Workers::Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// An address, or `"off"`.
pub enum Metrics {
    Off,
    At(SocketAddr),
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            de::Error::custom(format!(
                "metrics: {text:?} is not an address; write \"127.0.0.1:9900\", or \"off\""
            ))
        })
    }
}

/// A link's name, or several.
pub struct Links(pub Vec<String>);

impl<'de> Deserialize<'de> for Links {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Links;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a link's name, or several: \"eth0\", [\"eth0\", \"eth1\"]")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Links, E> {
                Ok(Links(vec![name.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut names: A) -> Result<Links, A::Error> {
                let mut links = Vec::new();
                while let Some(name) = names.next_element()? {
                    links.push(name);
                }
                Ok(Links(links))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub name: Spanned<String>,
    pub bind: Vec<Spanned<SocketAddr>>,
    pub protocol: ListenerProtocol,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub service: Option<Spanned<String>>,
    pub certificates: Option<Spanned<Vec<Certificate>>>,
    pub client_auth: Option<Spanned<ClientAuth>>,
    pub tls: Option<Spanned<ListenerTls>>,
    #[serde(default)]
    pub timeouts: ListenerTimeouts,
    #[serde(default)]
    pub limits: ListenerLimits,
    #[serde(default)]
    pub offenders: Offenders,
    pub interface: Option<Spanned<String>>,
    pub guard: Option<Spanned<Guard>>,
    pub http2: Option<Spanned<Http2>>,
    pub forwarding: Option<Spanned<Forwarding>>,
    #[serde(default)]
    pub error_pages: BTreeMap<Spanned<String>, Spanned<String>>,
    pub error_header: Option<Spanned<bool>>,
    pub access_log: Option<bool>,
    #[serde(default)]
    pub route: Vec<Spanned<Route>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    pub streams: Spanned<u32>,
    pub stream_window: Spanned<u32>,
    pub connection_window: Spanned<u32>,
    pub header_list: Spanned<u32>,
    pub resets: Spanned<u32>,
    pub idle: Span,
    pub stall: Span,
}

impl Default for Http2 {
    fn default() -> Self {
        let number = |number| Spanned::new(0..0, number);
        Self {
            streams: number(100),
            stream_window: number(64 * 1024),
            connection_window: number(1024 * 1024),
            header_list: number(64 * 1024),
            resets: number(100),
            idle: Span::seconds(120),
            stall: Span::seconds(60),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    Http,
    Https,
    Tcp,
    Tls,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTimeouts {
    pub header_read: Span,
    pub idle: Spanned<Span>,
    pub stall: Spanned<Span>,
    pub body_grace: Spanned<Span>,
    pub connect: Option<Spanned<Span>>,
    pub tunnel: Option<Spanned<Span>>,
    pub half_closed: Option<Spanned<Span>>,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self {
            header_read: Span::seconds(10),
            idle: Spanned::new(0..0, Span::seconds(60)),
            stall: Spanned::new(0..0, Span::seconds(60)),
            body_grace: Spanned::new(0..0, Span::seconds(10)),
            connect: None,
            tunnel: None,
            half_closed: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    pub head_bytes: Spanned<u32>,
    pub fields: Spanned<u16>,
    pub uri_bytes: Spanned<u32>,
    pub body_rate: Spanned<u32>,
    pub connections_per_address: u32,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            head_bytes: Spanned::new(0..0, 32 * 1024),
            fields: Spanned::new(0..0, 128),
            uri_bytes: Spanned::new(0..0, 8 * 1024),
            body_rate: Spanned::new(0..0, 500),
            connections_per_address: 0,
        }
    }
}

/// How long an L4 flow may be silent and still have a claim to its backend.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowIdle {
    pub tcp: Spanned<Span>,
    pub udp: Spanned<Span>,
}

impl Default for FlowIdle {
    fn default() -> Self {
        Self {
            tcp: Spanned::new(0..0, Span::seconds(3_600)),
            udp: Spanned::new(0..0, Span::seconds(60)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    pub name: Spanned<String>,
    pub address: Spanned<SocketAddr>,
    pub protocol: Spanned<Protocol>,
    pub quic: Option<Spanned<Quic>>,
    pub mode: Mode,
    pub encapsulation: Option<Spanned<Encapsulation>>,
    #[serde(default)]
    pub flow_table: FlowTable,
    #[serde(default)]
    pub no_backend: NoBackend,
    pub l4_fallback: Option<Spanned<L4Fallback>>,
    pub interface: Spanned<Links>,
    pub guard: Option<Guard>,
    pub service: Spanned<String>,
}

/// What becomes of a vip on a host without eBPF.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum L4Fallback {
    Error,
    Proxy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: Spanned<String>,
    #[serde(default)]
    pub balance: Balance,
    pub hash_key: Option<Spanned<String>>,
    pub sticky: Option<Spanned<Sticky>>,
    pub probe: Option<Spanned<Probe>>,
    #[serde(default)]
    pub ejection: Ejection,
    #[serde(default = "slow_start")]
    pub slow_start: SpanOrOff,
    #[serde(default = "panic_percent")]
    pub panic_percent: Spanned<u8>,
    #[serde(default)]
    pub queue: Queue,
    #[serde(default)]
    pub upstream: Upstream,
    pub upstream_tls: Option<Spanned<UpstreamTls>>,
    #[serde(default)]
    pub pool: Pool,
    #[serde(default)]
    pub stale_replay: StaleReplay,
    #[serde(default)]
    pub retry: Retry,
    pub discover: Option<Spanned<Discover>>,
    #[serde(default)]
    pub backend: Vec<Backend>,
}

fn slow_start() -> SpanOrOff {
    SpanOrOff(Duration::from_secs(30))
}

fn panic_percent() -> Spanned<u8> {
    Spanned::new(0..0, 50)
}

/// Affinity by cookie.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    pub cookie: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    pub timeout: Span,
}

impl Default for Queue {
    fn default() -> Self {
        Self { timeout: Span::seconds(5) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    pub consecutive: u8,
    pub ratio: Spanned<f64>,
    pub window: Span,
    pub least_requests: u32,
    pub server_errors: bool,
    pub base: Span,
    pub max: Span,
    pub max_percent: Spanned<u8>,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: 5,
            ratio: Spanned::new(0..0, 0.5),
            window: Span::seconds(10),
            least_requests: 20,
            server_errors: false,
            base: Span::seconds(10),
            max: Span::seconds(300),
            max_percent: Spanned::new(0..0, 50),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    pub protocol: UpstreamProtocol,
    pub proxy_protocol: Option<Spanned<ProxyVersion>>,
    pub streams: Spanned<u32>,
    pub idle: Span,
    pub ping: Span,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Auto,
            proxy_protocol: None,
            streams: Spanned::new(0..0, 100),
            idle: Span::seconds(120),
            ping: Span::seconds(30),
        }
    }
}

#[derive(Deserialize)]
pub enum UpstreamProtocol {
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "http1")]
    Http1,
    #[serde(rename = "h2")]
    Http2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    pub max_idle: usize,
    pub idle: Span,
    pub max_age: Span,
    pub max_requests: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_idle: 64,
            idle: Span(Duration::from_millis(4500)),
            max_age: Span::seconds(3600),
            max_requests: 10_000,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    pub attempts: u32,
    pub budget_percent: Spanned<u8>,
    pub lost: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, budget_percent: Spanned::new(0..0, 20), lost: true }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    pub on_start: Vec<String>,
    pub on_reload: Vec<String>,
    pub on_shutdown: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub address: Spanned<SocketAddr>,
    #[serde(default = "one")]
    pub weight: Spanned<u16>,
    #[serde(default = "first")]
    pub tier: Spanned<u8>,
    pub max_connections: Option<Spanned<u32>>,
    pub max_requests: Option<Spanned<u32>>,
    pub server_id: Option<Spanned<ServerIds>>,
}

fn one() -> Spanned<u16> {
    Spanned::new(0..0, 1)
}

fn first() -> Spanned<u8> {
    Spanned::new(0..0, 0)
}

/// A length of time above zero, written `"2s"`, `"500ms"`, `"1h 30m"`.
#[derive(Clone, Copy)]
pub struct Span(pub Duration);

impl Span {
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// The longest time that may be configured; also keeps health deadlines within their clock's range.
const SPAN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time with its unit in quotes, such as \"2s\" or \"500ms\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                let span = humantime::parse_duration(text)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))?;
                if span.is_zero() || span > SPAN_MAX {
                    return Err(E::custom(format!("{text:?} is not between 1ms and 7 days")));
                }
                Ok(Span(span))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A [`Span`], or `"off"`: zero.
#[derive(Clone, Copy)]
pub struct SpanOrOff(pub Duration);

impl<'de> Deserialize<'de> for SpanOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self(Duration::ZERO));
        }
        let text: de::value::StringDeserializer<D::Error> =
            de::IntoDeserializer::into_deserializer(text);
        Span::deserialize(text).map(|span| Self(span.0))
    }
}
