//! The layout of the shared region and of the L4 maps.
//!
//! Names and layouts here are an interface: `bpftool map dump` prints them, and a pinned map
//! outlives the process that made it. Any change of a size, an offset or a meaning raises
//! [`SCHEMA_VERSION`], which is part of the pin directory's name.
//!
//! All structs are plain data without implicit padding (`zerocopy` refuses it at compile time).
//! Addresses are in network order; IPv4 addresses fill the first four bytes of sixteen. Ports that
//! end in `_be` hold network order as well.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::cause::CAUSES_MAX;
use crate::crew::LIVE_WORDS;
use crate::error::CLASSES_MAX;
use crate::handshake::HANDSHAKES_MAX;
use crate::latency;
use crate::limits::{HEALTH_WORDS, RING_ENTRIES, SERVICES, SLOTS, TIERS, VIPS};
use crate::start::STARTS_MAX;

/// Version of every layout in this file.
pub const SCHEMA_VERSION: u32 = 10;

/// `service` of a backend that is in the configuration no more and finishes what it has.
pub const SERVICE_NONE: u16 = u16::MAX;

/// `family` of an unused entry.
pub const FAMILY_NONE: u8 = 0;
/// `family` of an IPv4 address.
pub const FAMILY_IPV4: u8 = 4;
/// `family` of an IPv6 address.
pub const FAMILY_IPV6: u8 = 6;

/// `mode` of a vip whose packets are rewritten both ways.
pub const MODE_NAT: u8 = 1;
/// `mode` of a vip whose packets are encapsulated, and answered by the backends themselves.
pub const MODE_TUNNEL: u8 = 2;
/// `mode` of a vip whose packets are passed on by link address, and answered by the backends themselves.
pub const MODE_L2: u8 = 3;

/// `mode` of an address that this host serves itself: what its guard lets pass goes to the host as it
/// came. It has no backends.
pub const MODE_LOCAL: u8 = 4;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// `CONTROL[0]`: which half of every double buffer is in force. Written by the supervisor alone.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// Rises by one with each publication; its lowest bit is the active half ([`active_half`]).
    pub generation: u64,
    /// [`SCHEMA_VERSION`] of the daemon that made the maps.
    pub schema_version: u32,
    /// Rises when a supervisor whose workers are ready takes over: older workers then drain.
    pub supervisor_epoch: u32,
    /// Process id of the supervisor, for people.
    pub supervisor_pid: u32,
    /// First port that `nat` gives to flows (host order).
    pub nat_port_first: u16,
    /// How many ports `nat` may use from `nat_port_first` on.
    pub nat_port_count: u16,
    /// Key of the packet hash, from `global.hash_seed`.
    pub hash_key: [u64; 2],
    /// Outer source of tunnels over IPv4: the prefix, in network order.
    pub tunnel_source_v4: u32,
    /// The bits of it that flows vary; 0 for the host's own address.
    pub tunnel_hosts_v4: u32,
    /// Outer source of tunnels over IPv6: a prefix of 96 bits, of which flows vary the rest; zero for
    /// the host's own address.
    pub tunnel_source_v6: [u8; 16],
}

/// The half of the double buffers that a generation uses.
#[inline(always)]
#[must_use]
pub const fn active_half(generation: u64) -> u32 {
    (generation & 1) as u32
}

/// One backend, at its slot's index in a [`BackendTable`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Backend {
    /// Address of the backend.
    pub address: [u8; 16],
    /// The address that this host uses towards the backend: the source of `nat`.
    pub source: [u8; 16],
    /// Hash of (service, address, port): finds the slot again after a restart.
    pub identity: u64,
    /// The slot's tenancy: rises each time the slot is freed.
    pub epoch: u32,
    /// Port of the backend.
    pub port_be: u16,
    /// 0 to [`crate::limits::WEIGHT_MAX`]; 0 takes no new work.
    pub weight: u16,
    /// Index of the service; [`SERVICE_NONE`] of a backend that is in the configuration no more.
    pub service: u16,
    /// [`FAMILY_IPV4`], [`FAMILY_IPV6`], or [`FAMILY_NONE`] for an unused slot.
    pub family: u8,
    /// It serves while no lower tier has anybody.
    pub tier: u8,
    /// Zero.
    pub reserved: [u8; 12],
}

/// `BACKENDS[half]`: all backends of one generation.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BackendTable {
    /// The generation that this half was written for.
    pub generation: u64,
    /// Used entries.
    pub count: u32,
    /// Zero.
    pub reserved: [u32; 13],
    /// Indexed by slot.
    pub entries: [Backend; SLOTS],
}

/// `HEALTH[slot / 64]`: one bit a slot, derived from its state word.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HealthWord {
    /// Slots that take new connections, requests and flows.
    pub accepts_new: u64,
    /// Slots whose existing flows stay.
    pub keeps_flows: u64,
    /// Slots at home on a ring of which flows were sent elsewhere, and are remembered there, and slots
    /// that warm up, whose share not all new flows belong to. Set by the programs, and by whoever brings
    /// a slot back; cleared by the supervisor, with `reviewed`, when there is neither.
    pub strays: u64,
    /// Slots whose `strays` the supervisor is about to clear: a program that sends a flow elsewhere
    /// meanwhile sets that bit again.
    pub reviewed: u64,
}

/// `CREW[0]`: which workers take connections.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Crew {
    /// A bit for each line of `WORKERS` ([`crate::crew::place`]): set by the worker when it accepts
    /// connections; cleared by it when it drains, and by the supervisor when it dies or hangs.
    pub live: [u64; LIVE_WORDS],
    /// Zero.
    pub reserved: [u64; 4],
}

/// `WORKERS[worker]`: one worker process. Written by that worker alone, but for `pending`, and for
/// `started_ms` and `starts`, which the supervisor writes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WorkerLine {
    /// Process id; 0 for an unused line.
    pub pid: u32,
    /// The `supervisor_epoch` under which the worker was started.
    pub supervisor_epoch: u32,
    /// The worker's place in every row of `SOCKETS`.
    pub seat: u32,
    /// Open client connections.
    pub connections: u32,
    /// Requests being served.
    pub active_requests: u64,
    /// Connections accepted since the line was first used.
    pub accepted: u64,
    /// Monotonic milliseconds of the worker's last sign of life.
    pub heartbeat_ms: u64,
    /// Monotonic microseconds at which the loop turn began that the worker is at; 0 while it waits.
    pub busy_since_us: u64,
    /// 1 while the worker accepts nothing because it has as many connections as it may.
    pub full: u32,
    /// Connections that the program gave to the worker since this was last made zero: the program
    /// adds, the worker clears it when it has accepted all there are.
    pub pending: u32,
    /// Zero; the end of the line that the kernel reads.
    pub reserved: u64,
    /// Requests that Steerage answered itself, by [`crate::error::ErrorClass`].
    pub errors: [u64; CLASSES_MAX],
    /// Connections of clients that ended, by [`crate::cause::Cause`].
    pub ends: [u64; CAUSES_MAX],
    /// Streams of such connections, and tunnels in them, that Steerage cut off.
    pub stream_ends: [u64; CAUSES_MAX],
    /// TLS handshakes with clients, by [`crate::handshake::Handshake`].
    pub handshakes: [u64; HANDSHAKES_MAX],
    /// Lines of the access log that the supervisor has taken.
    pub log_lines: u64,
    /// Lines that found no room on the way to it.
    pub log_dropped: u64,
    /// Monotonic milliseconds at which the process was started.
    pub started_ms: u64,
    /// Processes that were started, by [`crate::start::Start`].
    pub starts: [u64; STARTS_MAX],
    /// How late the loop came to a timer that is due ten times a second, by bucket.
    pub lag_counts: [u64; latency::BUCKETS],
    /// Sum of all such lags, in microseconds.
    pub lag_sum_us: u64,
    /// Zero; a line begins where a line of the cache does.
    pub reserved_end: [u64; 2],
}

/// Keys that tickets are opened with: the one that seals them, and former ones.
pub const TICKET_KEYS: usize = 3;

/// A key that tickets of TLS sessions are sealed with.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TicketKey {
    /// What a ticket begins with (RFC 5077, 4); zero for no key.
    pub name: [u64; 2],
    /// For AES-256-GCM.
    pub secret: [u64; 4],
    /// When it began to seal, in seconds since 1970.
    pub since: u64,
    /// Zero.
    pub reserved: u64,
}

/// `TICKETS[0]`: what all workers seal and open tickets of TLS sessions with. Written by the supervisor.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TicketKeys {
    /// Rises by two with each change; odd while one is made.
    pub version: u64,
    /// Zero.
    pub reserved: [u64; 7],
    /// The newest first: that one seals.
    pub keys: [TicketKey; TICKET_KEYS],
}

/// Key of `LISTENERS`, whose value is a row of `SOCKETS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerKey {
    /// The listening address.
    pub address: [u8; 16],
    /// The listening port (host order).
    pub port: u16,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: u8,
}

/// Failure classes of an attempt at a backend: index into [`Cell::failures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum FailureClass {
    /// The connection was refused or could not be made.
    Connect = 0,
    /// The connection was not made in time.
    ConnectTimeout = 1,
    /// The connection was reset or closed before the response was whole.
    Reset = 2,
    /// The response did not begin in time.
    FirstByteTimeout = 3,
    /// The response was not HTTP, or its framing was wrong.
    Protocol = 4,
    /// The response was 502, 503 or 504.
    GatewayStatus = 5,
    /// Within a body the backend took, or sent, nothing for too long.
    Stall = 6,
    /// The TLS handshake failed, or an alert ended a connection that was made just now.
    Tls = 7,
}

/// Room for failure classes in a [`Cell`].
pub const FAILURES_MAX: usize = 8;

impl FailureClass {
    /// All classes, in index order.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::Reset,
        Self::FirstByteTimeout,
        Self::Protocol,
        Self::GatewayStatus,
        Self::Stall,
        Self::Tls,
    ];

    /// The class's name in metrics, logs and replies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Reset => "reset",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Protocol => "protocol",
            Self::GatewayStatus => "gateway_status",
            Self::Stall => "stall_timeout",
            Self::Tls => "tls_handshake",
        }
    }
}

/// How a TLS handshake with a backend went: index into [`Cell::handshakes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Handshake {
    /// With certificates.
    Full = 0,
    /// By a former session.
    Resumed = 1,
    /// It gave no connection.
    Failed = 2,
}

/// The kinds of handshakes in a [`Cell`].
pub const HANDSHAKES: usize = 3;

impl Handshake {
    /// All kinds, in index order.
    pub const ALL: [Self; HANDSHAKES] = [Self::Full, Self::Resumed, Self::Failed];

    /// The kind's name in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

/// Room for rules and for refusals in a [`Cell`].
pub const REPLAYS_MAX: usize = 10;

/// Buckets of a [`Cell`]'s window.
pub const WINDOW_BUCKETS: usize = 10;

/// `CELLS[worker * SLOTS + slot]`: what one worker did with one backend. Written by that worker
/// alone; sums over workers are the backend's figures.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cell {
    /// Responses by status class, 1xx to 5xx.
    pub responses: [u64; 5],
    /// Failed attempts by [`FailureClass`].
    pub failures: [u64; FAILURES_MAX],
    /// Connections that ended, by [`crate::cause::Cause`].
    pub ends: [u64; CAUSES_MAX],
    /// Replays of requests that this backend did not answer, by [`crate::replay::Rule`].
    pub replays: [u64; REPLAYS_MAX],
    /// Replays that were not made, by [`crate::replay::Refusal`].
    pub refusals: [u64; REPLAYS_MAX],
    /// Connections opened.
    pub connections_created: u64,
    /// Requests sent on a connection that had carried one before.
    pub connections_reused: u64,
    /// Request body bytes sent to the backend.
    pub request_body_bytes: u64,
    /// Response body bytes received from the backend.
    pub response_body_bytes: u64,
    /// Requests in flight now.
    pub active: u32,
    /// Idle pooled connections now.
    pub idle: u32,
    /// Ejections that this worker decided.
    pub ejections: u64,
    /// Open connections now, idle or in use.
    pub connections: u32,
    /// Open tunnels now.
    pub tunnels: u32,
    /// Outcomes of the latest requests, by time: see the worker's window.
    pub window: [u64; WINDOW_BUCKETS],
    /// TLS handshakes by [`Handshake`].
    pub handshakes: [u64; HANDSHAKES],
    /// 1 if there is anything in its [`Times`].
    pub is_timed: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// How long things took at one backend for one worker: what a [`Cell`] counts, timed. Parallel to the
/// cells, but in memory of its own that is there only where it was written: the kernel would allocate
/// all entries of a map at once.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Times {
    /// How often each [`latency::Timer`] was in each bucket.
    pub counts: [[u64; latency::BUCKETS]; latency::TIMERS],
    /// Sum of all times of each, in microseconds.
    pub sums_us: [u64; latency::TIMERS],
}

/// What one worker did for a listener's clients. In the memory of the [`Times`], worker by worker.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListenerLine {
    /// Hash of the listener's name, in the first worker's line alone: who has the line, in all
    /// workers' tables. 0 for nobody. Written by the supervisor.
    pub identity: u64,
    /// Responses by status class, 1xx to 5xx, those of Steerage itself among them.
    pub responses: [u64; 5],
    /// Request body bytes, and bytes of streams and tunnels, that went to backends.
    pub request_body_bytes: u64,
    /// The same from backends.
    pub response_body_bytes: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Open connections now.
    pub connections: u64,
    /// Requests that Steerage answered itself, by [`crate::error::ErrorClass`].
    pub errors: [u64; CLASSES_MAX],
    /// Connections that ended, by [`crate::cause::Cause`].
    pub ends: [u64; CAUSES_MAX],
    /// Streams of such connections, and tunnels in them, that Steerage cut off.
    pub stream_ends: [u64; CAUSES_MAX],
    /// TLS handshakes, by [`crate::handshake::Handshake`].
    pub handshakes: [u64; HANDSHAKES_MAX],
    /// Whole times of requests that backends answered, by [`latency::bucket`].
    pub counts: [u64; latency::BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// What one worker did for the requests of one route: see [`ListenerLine`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteLine {
    /// Hash of the listener's name and of what the route asks for.
    pub identity: u64,
    /// Responses by status class.
    pub responses: [u64; 5],
    /// Request body bytes that went to backends.
    pub request_body_bytes: u64,
    /// Response body bytes that came from them.
    pub response_body_bytes: u64,
    /// Whole times of requests that backends answered, by [`latency::bucket`].
    pub counts: [u64; latency::BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// `SERVICES[service]`: what all workers share about one service.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceLine {
    /// Next position of weighted round robin.
    pub position: u64,
    /// Hash of the service's name: finds the line again after a restart. 0 for an unused line.
    pub identity: u64,
    /// The tier whose health is ignored because too few of it are left ([`crate::census`]), plus one;
    /// 0 while health counts.
    pub panicking: u64,
    /// The ejection that is under way, if any ([`crate::publish::eject`]).
    pub ejection: u64,
    /// How long recovered backends warm up, in ticks of 100 ms.
    pub slow_start_ticks: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Key of `VIPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipKey {
    /// The service address.
    pub address: [u8; 16],
    /// The service port.
    pub port_be: u16,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
}

/// Value of `VIPS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vip {
    /// Which of all vips that ever were this is: part of every flow's key, so that no flow outlives
    /// its vip ([`vip_generation`]).
    pub generation: u32,
    /// Index of the vip's counters.
    pub index: u16,
    /// Index of the service, and of its pair of rings.
    pub service: u16,
    /// [`MODE_NAT`], [`MODE_TUNNEL`], [`MODE_L2`] or [`MODE_LOCAL`].
    pub mode: u8,
    /// [`VIP_REMEMBERS`], [`VIP_GUE`], [`VIP_ALL_PORTS`], [`VIP_PASSES`].
    pub flags: u8,
    /// Index of its [`Guard`] in `GUARDS`; 0 for none.
    pub guard: u16,
    /// Lengths of the server ids in QUIC connection ids ([`crate::quic::Lengths`]); 0 if it is no QUIC vip.
    pub server_id_lengths: u32,
}

/// In [`Vip::flags`]: every flow goes through the flow table, whatever the ring says.
pub const VIP_REMEMBERS: u8 = 1;

/// In [`Vip::flags`]: tunnels are GUE, over UDP.
pub const VIP_GUE: u8 = 2;
/// In [`Vip::flags`]: every port of the address; `nat` leaves the port as it is.
pub const VIP_ALL_PORTS: u8 = 4;
/// In [`Vip::flags`]: packets that no backend takes are this host's own.
pub const VIP_PASSES: u8 = 8;

/// [`Vip::generation`] of a vip at `index` that came with a generation of the tables.
#[must_use]
pub const fn vip_generation(generation: u64, index: u16) -> u32 {
    (generation as u32) << VIPS.trailing_zeros() | index as u32
}

/// A token bucket's size: one token comes each `interval_ns`, and as many as `burst_ns` has intervals
/// may be taken at once ([`crate::guard::take`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Rate {
    /// Nanoseconds from token to token; 0 for no limit.
    pub interval_ns: u64,
    /// Nanoseconds that an empty bucket takes to be full.
    pub burst_ns: u64,
}

impl Rate {
    /// So many a second, which is not zero, and so many at once.
    #[must_use]
    pub const fn per_second(rate: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / rate as u64;
        Self { interval_ns, burst_ns: interval_ns * burst as u64 }
    }
}

/// `GUARDS[guard]`: what sources may do to vips. Written by the supervisor, while no vip leads to it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Guard {
    /// Packets of a source.
    pub packets: Rate,
    /// SYNs of a source.
    pub syns: Rate,
    /// The bits of an IPv4 address that make a source.
    pub mask_v4: [u8; 16],
    /// The bits of an IPv6 address that make a source.
    pub mask_v6: [u8; 16],
    /// How long a source that has proved itself is believed.
    pub proof_ns: u64,
    /// How long a flood is believed to go on after the last window that showed it.
    pub hold_ns: u64,
    /// SYNs to a vip in a window ([`crate::guard::WINDOW_NS`]) that begin a flood; 0 for never.
    pub flood_begins: u32,
    /// SYNs to a vip in a window that make a flood go on.
    pub flood_goes_on: u32,
    /// SYNs that a CPU counts for itself before it adds them to the vip's.
    pub batch: u32,
    /// [`GUARD_LISTS_V4`], [`GUARD_LISTS_V6`], [`GUARD_OFFENDERS`].
    pub flags: u32,
    /// Whose buckets and proofs these are: guards of one scope share them, so that they outlive a
    /// change of the guard.
    pub scope: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// In [`Guard::flags`]: `ACL_V4` has prefixes of this guard.
pub const GUARD_LISTS_V4: u32 = 1;
/// In [`Guard::flags`]: `ACL_V6` has prefixes of this guard.
pub const GUARD_LISTS_V6: u32 = 2;
/// In [`Guard::flags`]: sources in `OFFENDERS` are held to what is said there.
pub const GUARD_OFFENDERS: u32 = 4;

/// Value in `ACL_V4` and `ACL_V6`, keyed by guard and prefix: sources that are dropped.
pub const LISTED_DENY: u32 = 1;
/// Value in `ACL_V4` and `ACL_V6`: sources that a shorter prefix would deny, and that are not.
pub const LISTED_ALLOW: u32 = 2;
/// Value in `ACL_V4` and `ACL_V6`: sources that the guard lets do whatever they want.
pub const LISTED_EXEMPT: u32 = 3;

/// `FLOODS[vip]`: how many SYNs come to a vip.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flood {
    /// SYNs of the latest window ([`crate::guard::count_syns`]).
    pub syns: u64,
    /// Coarse monotonic time until which the vip is under flood.
    pub until_ns: u64,
    /// Zero; the end of the line.
    pub reserved: [u64; 6],
}

/// Key of `SOURCES`: a prefix of clients' addresses, to the vips of one guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SourceKey {
    /// The prefix, with zeros after it.
    pub address: [u8; 16],
    /// [`Guard::scope`].
    pub scope: u32,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Value of `SOURCES`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Source {
    /// Bucket of packets.
    pub packets: u64,
    /// Bucket of SYNs.
    pub syns: u64,
    /// Coarse monotonic time until which it is proven that packets from there come from there.
    pub proven_until_ns: u64,
}

/// Key of `OFFENDERS`: one address that L7 wants to be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OffenderKey {
    /// The address.
    pub address: [u8; 16],
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// Zero.
    pub reserved: u32,
}

/// Value of `OFFENDERS`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Offender {
    /// Coarse monotonic time until which it is held back.
    pub until_ns: u64,
    /// Packets that it may send meanwhile; without an interval none.
    pub packets: Rate,
    /// Their bucket.
    pub bucket: u64,
}

/// Key of `SERVER_IDS`: what a QUIC connection id of a vip says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServerIdKey {
    /// The server id, with zeros after it.
    pub id: [u8; 16],
    /// [`Vip::generation`].
    pub vip_generation: u32,
    /// Bytes of the server id.
    pub bytes: u32,
}

/// Value of `SERVER_IDS`: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServerId {
    /// The backend's tenancy of its slot.
    pub epoch: u32,
    /// The backend.
    pub slot: u16,
    /// Zero.
    pub reserved: u16,
}

/// Key of `ADDRESSES`: an address that has vips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressKey {
    /// The address.
    pub address: [u8; 16],
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// In `ADDRESSES`: the address has a vip of TCP.
pub const SERVES_TCP: u32 = 1;
/// In `ADDRESSES`: the address has a vip of UDP.
pub const SERVES_UDP: u32 = 2;

/// The bit of `ADDRESSES` that says a protocol is served; 0 for one that no vip has.
#[inline(always)]
#[must_use]
pub const fn serves(protocol: u8) -> u32 {
    match protocol {
        PROTOCOL_TCP => SERVES_TCP,
        PROTOCOL_UDP => SERVES_UDP,
        _ => 0,
    }
}

/// Reports in a [`ReportLine`].
pub const REPORTS_KEPT: usize = 16;

/// `REPORTS[worker]`: sources that a worker wants to be held back, the latest of them. Written by that
/// worker alone; read by the supervisor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReportLine {
    /// How many there were; the next one goes to that place, modulo [`REPORTS_KEPT`].
    pub written: u64,
    /// Zero.
    pub reserved: [u64; 7],
    /// The reports.
    pub reports: [Report; REPORTS_KEPT],
}

/// `CLIENTS[worker × buckets]`: connections of client addresses, by their hash. Written by that worker alone;
/// read by all of them ([`crate::crowd`]).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientBucket {
    /// Part of the hash, and below it the number; 0 for a free place.
    pub places: [u64; CLIENT_PLACES],
}

/// Places of a [`ClientBucket`].
pub const CLIENT_PLACES: usize = 16;

/// Buckets of a worker's table in `CLIENTS`: as many as there are slots, so that the one number of workers
/// sizes both tables.
pub const CLIENT_BUCKETS: usize = SLOTS;

/// A source that is to be held back.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Report {
    /// Its address.
    pub address: [u8; 16],
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u32,
    /// Packets a second that it may send meanwhile; 0 for none.
    pub packets: u32,
    /// For how long.
    pub hold_ms: u64,
}

/// Words of `VIP_FILTER`: with the most vips one address in 64 that is none looks like one.
pub const VIP_FILTER_WORDS: usize = VIPS;

/// The word of `VIP_FILTER` after the filter's: how often `VIPS` and the filter have changed. It rises after
/// a change, and what a CPU remembers of `VIPS` is of one such number.
pub const VIP_FILTER_STAMP: u32 = VIP_FILTER_WORDS as u32;

/// The bit of `VIP_FILTER` that an address has, given as two words of its bytes in memory.
#[inline(always)]
#[must_use]
pub const fn filter_bit(first: u64, second: u64) -> u32 {
    let folded = first ^ second.rotate_left(29);
    let bits = (VIP_FILTER_WORDS * 64).trailing_zeros();
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as u32
}

/// Rings of all services, tiers and halves.
pub const RINGS_MAX: usize = SERVICES * TIERS * 2;

/// Where the ring of a service's tier is in `RINGS`. `rank` counts its tiers that have members, from the
/// lowest: 0 has everybody's homes, the next ones are for when nobody of those before is left.
#[inline(always)]
#[must_use]
pub const fn ring_index(service: u16, rank: u32, half: u32) -> u32 {
    (service as u32 * TIERS as u32 + rank) * 2 + half
}

/// Entries in one [`RingLine`].
pub const RING_LINE_ENTRIES: usize = 16;
/// Lines that hold the entries of a ring.
pub const RING_ENTRY_LINES: usize = RING_ENTRIES.div_ceil(RING_LINE_ENTRIES);
/// Lines that hold the membership bitmap, after the entries.
pub const RING_MEMBER_LINES: usize = SLOTS / 32 / RING_LINE_ENTRIES;
/// The line that says whose ring it is, and of which generation: [`RingLine::words`] 0 and 1 are the
/// service's identity, 2 and 3 the generation that the ring was written for, low halves first. For
/// the supervisor: a successor builds on the ring in force only if it is what it should be.
pub const RING_TITLE_LINE: usize = RING_ENTRY_LINES + RING_MEMBER_LINES;
/// Lines of a whole ring map.
pub const RING_LINES: usize = RING_TITLE_LINE + 1;

/// One cache line of a ring, an inner map of `RINGS[`[`ring_index`]`]`.
///
/// Lines 0 to [`RING_ENTRY_LINES`] hold the entries ([`crate::ring::Entry`]), the lines after them
/// one bit a slot: the members that take new work if healthy, in one buffer with the entries so
/// that both are always of one generation. The last one is [`RING_TITLE_LINE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingLine {
    /// Packed entries, or 32 membership bits each.
    pub words: [u32; RING_LINE_ENTRIES],
}

/// Key of `FLOWS`: one client's flow to one vip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the client.
    pub client: [u8; 16],
    /// [`Vip::generation`].
    pub vip_generation: u32,
    /// Port that the client talks to.
    pub vip_port_be: u16,
    /// Port of the client.
    pub client_port_be: u16,
}

/// Value of `FLOWS`: a flow whose backend the ring alone does not tell ([`crate::steer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// The backend's tenancy of its slot when the flow was sent there.
    pub epoch: u32,
    /// [`crate::life::Life`]: whether the flow is active still.
    pub life: u32,
    /// The flow's position on the ring of `service`.
    pub position: u32,
    /// The backend.
    pub slot: u16,
    /// The slot that the ring named when the flow was sent to `slot`.
    pub home: u16,
    /// Index of the service.
    pub service: u16,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Key of `NATS`: a flow as the backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NatKey {
    /// Address of the backend.
    pub backend: [u8; 16],
    /// Port of the backend.
    pub backend_port_be: u16,
    /// The port that the backend sees as the flow's source, unique for the backend and protocol.
    pub source_port_be: u16,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: u16,
}

/// Value of `NATS`: how to send a backend's packet back to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Nat {
    /// Address of the client.
    pub client: [u8; 16],
    /// Address that the client talks to.
    pub vip_address: [u8; 16],
    /// Port of the client.
    pub client_port_be: u16,
    /// Port that the client talks to.
    pub vip_port_be: u16,
    /// [`Vip::index`].
    pub vip: u16,
    /// The backend.
    pub slot: u16,
    /// [`Vip::generation`].
    pub vip_generation: u32,
    /// Where the client's packets came in, for when the neighbour table has no way back.
    pub ifindex: u32,
    /// The sender of the client's packets on that link.
    pub peer_mac: [u8; 6],
    /// Our address on that link.
    pub own_mac: [u8; 6],
    /// [`crate::life::Life`]: whether the source port may pass to another flow.
    pub life: u32,
}

/// Key of `FRAGMENTS`: what the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Sender.
    pub source: [u8; 16],
    /// Receiver.
    pub destination: [u8; 16],
    /// As it lies in the packet; 16 bits of IPv4.
    pub identification: u32,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: u16,
}

/// Value of `FRAGMENTS`: where a packet's first fragment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fragmented {
    /// Coarse monotonic time of the first fragment.
    pub at_ns: u64,
    /// Hash of the flow.
    pub hash: u64,
    /// The source that the packet leaves with, in `nat`.
    pub source: [u8; 16],
    /// The destination that the packet leaves with, in `nat`.
    pub destination: [u8; 16],
    /// The backend's tenancy of its slot.
    pub epoch: u32,
    /// The backend; [`crate::steer::NOBODY`] for a packet that is the host's.
    pub slot: u16,
    /// [`Vip::index`].
    pub vip: u16,
    /// [`Vip::mode`].
    pub mode: u8,
    /// [`Vip::flags`].
    pub flags: u8,
    /// 1 for a packet from the backend to the client.
    pub is_reply: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// `REFUSALS[0]`, per CPU: ICMP errors sent of late, and one that is to be sent now.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Refusals {
    /// A window of coarse monotonic time.
    pub window: u64,
    /// Errors in it.
    pub sent: u32,
    /// [`Reason`] that the packet at hand is to be refused for; 0 for none.
    pub ordered: u32,
    /// Bytes that the packet at hand is too big by.
    pub excess: u32,
    /// Zero.
    pub reserved: u32,
}

/// `VIP_COUNTERS[vip]` and `BACKEND_COUNTERS[slot]`, per CPU.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients, as on the wire less the frame check.
    pub in_bytes: u64,
    /// Packets from backends.
    pub out_packets: u64,
    /// Bytes from backends.
    pub out_bytes: u64,
    /// Flows begun, as far as a packet tells: connections opened, and in `nat` flows of datagrams.
    pub flows: u64,
    /// Entries made in the flow table.
    pub remembered: u64,
    /// Of a vip: packets that asked the flow table for a flow that it does not have.
    pub misses: u64,
}

/// What became of a packet for other reasons than a plain forward: index into
/// `REASON_COUNTERS`, per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Dropped, or passed to this host if the vip says so: no backend of the service takes new work.
    NoBackend = 0,
    /// Dropped: no source port was free towards the backend.
    NoPort = 1,
    /// Not dropped: the flow table took no entry, so the flow may move when the ring changes again.
    TableFull = 2,
    /// Dropped: the time to live ran out.
    TtlExpired = 3,
    /// Dropped: no route to the next hop.
    NoRoute = 4,
    /// Dropped: the next hop's link address is not known yet; resolution was asked for.
    NoNeighbor = 5,
    /// Dropped: larger than the next hop takes.
    TooBig = 6,
    /// Dropped: wrong lengths or flags.
    Malformed = 7,
    /// A flow was moved because its backend died.
    Moved = 8,
    /// Dropped: mode `l2`, and a router is between this host and the backend.
    NotOnLink = 9,
    /// Dropped: the driver leaves no room for outer headers.
    NoRoom = 10,
    /// Dropped: the guard's lists deny the source.
    Denied = 11,
    /// Dropped: more packets of the source than its guard allows.
    PacketRate = 12,
    /// Dropped: more SYNs of the source than its guard allows.
    SynRate = 13,
    /// Dropped: L7 reported the source.
    Offender = 14,
    /// Answered: a SYN under flood, from a source that has not proved itself.
    Challenged = 15,
    /// Taken: the answer to a challenge, which proves the source.
    Proven = 16,
    /// An echo request to a vip's address was answered.
    EchoAnswered = 17,
    /// The sender of a packet that was dropped was told why, by ICMP.
    ErrorSent = 18,
    /// An ICMP error about a flow was sent on to who owns the flow.
    ErrorForwarded = 19,
    /// Dropped: an ICMP error about a flow that `nat` does not know.
    UnknownFlow = 20,
    /// A packet's later fragment was sent where its first one went.
    Fragment = 21,
    /// Dropped: a fragment of a packet to a vip's address whose first one was not seen.
    OrphanFragment = 22,
}

impl Reason {
    /// All reasons, in index order.
    pub const ALL: [Self; 23] = [
        Self::NoBackend,
        Self::NoPort,
        Self::TableFull,
        Self::TtlExpired,
        Self::NoRoute,
        Self::NoNeighbor,
        Self::TooBig,
        Self::Malformed,
        Self::Moved,
        Self::NotOnLink,
        Self::NoRoom,
        Self::Denied,
        Self::PacketRate,
        Self::SynRate,
        Self::Offender,
        Self::Challenged,
        Self::Proven,
        Self::EchoAnswered,
        Self::ErrorSent,
        Self::ErrorForwarded,
        Self::UnknownFlow,
        Self::Fragment,
        Self::OrphanFragment,
    ];

    /// The reason's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::NoPort => "no_port",
            Self::TableFull => "table_full",
            Self::TtlExpired => "ttl_expired",
            Self::NoRoute => "no_route",
            Self::NoNeighbor => "no_neighbor",
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::Moved => "moved",
            Self::NotOnLink => "not_on_link",
            Self::NoRoom => "no_room",
            Self::Denied => "denied",
            Self::PacketRate => "packet_rate",
            Self::SynRate => "syn_rate",
            Self::Offender => "offender",
            Self::Challenged => "challenged",
            Self::Proven => "proven",
            Self::EchoAnswered => "echo_answered",
            Self::ErrorSent => "error_sent",
            Self::ErrorForwarded => "error_forwarded",
            Self::UnknownFlow => "unknown_flow",
            Self::Fragment => "fragment",
            Self::OrphanFragment => "orphan_fragment",
        }
    }
}

/// Service addresses that the decapsulator of a backend serves at most.
pub const DECAP_SERVED: usize = 2 * VIPS;

/// What the decapsulator of a backend did with a tunnel's packet: index into `DECAP_COUNTERS`, per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decap {
    /// Taken out of IP in IP.
    Plain = 0,
    /// Taken out of GUE.
    Gue = 1,
    /// Passed untouched: the inner packet is for no address that is served.
    Foreign = 2,
    /// Dropped: no whole packet is inside.
    Malformed = 3,
}

impl Decap {
    /// All of them, in index order.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Gue, Self::Foreign, Self::Malformed];

    /// Its name in what `steerage decap` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "ip",
            Self::Gue => "gue",
            Self::Foreign => "foreign",
            Self::Malformed => "malformed",
        }
    }
}

/// A record of `EVENTS`: the program asks userspace to resolve a neighbour.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighborEvent {
    /// The next hop.
    pub address: [u8; 16],
    /// The link it is on.
    pub ifindex: u32,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = {
    assert!(size_of::<Control>() == 64);
    assert!(size_of::<Backend>() == 64);
    assert!(size_of::<BackendTable>() == 64 + 64 * SLOTS);
    assert!(size_of::<HealthWord>() == 32);
    assert!(size_of::<Crew>() == 64);
    assert!(size_of::<WorkerLine>() == 2112);
    assert!(size_of::<TicketKeys>() == 256);
    assert!(offset_of!(WorkerLine, errors) == 64);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<Cell>() == 832);
    assert!(size_of::<Times>() == 1376);
    assert!(size_of::<ListenerLine>() == 2048);
    assert!(size_of::<RouteLine>() == 448);
    assert!(size_of::<ServiceLine>() == 64);
    assert!(size_of::<VipKey>() == 20);
    assert!(size_of::<Vip>() == 16);
    assert!(size_of::<Guard>() == 112);
    assert!(size_of::<Flood>() == 64);
    assert!(size_of::<SourceKey>() == 24);
    assert!(size_of::<Source>() == 24);
    assert!(size_of::<OffenderKey>() == 24);
    assert!(size_of::<Offender>() == 32);
    assert!(size_of::<ReportLine>() == 64 + 32 * REPORTS_KEPT);
    assert!(size_of::<ClientBucket>() == 128);
    assert!(size_of::<ServerIdKey>() == 24);
    assert!(size_of::<ServerId>() == 8);
    assert!(size_of::<RingLine>() == 64);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<Flow>() == 20);
    assert!(size_of::<NatKey>() == 24);
    assert!(size_of::<Nat>() == 64);
    assert!(size_of::<AddressKey>() == 20);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<Fragmented>() == 64);
    assert!(size_of::<Refusals>() == 24);
    assert!(size_of::<Traffic>() == 56);
    assert!(size_of::<NeighborEvent>() == 24);
    assert!(HEALTH_WORDS * 64 == SLOTS);
    assert!(VIPS.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_index() {
        for (index, class) in FailureClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, what) in Decap::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
        }
    }

    #[test]
    fn successive_generations_use_both_halves() {
        assert_ne!(active_half(7), active_half(8));
    }
}
