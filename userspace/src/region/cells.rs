//! The lines of [`steerage_common::abi`] with their words as atomics.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use steerage_common::abi;
use steerage_common::cause::CAUSES_MAX;
use steerage_common::crew::LIVE_WORDS;
use steerage_common::error::CLASSES_MAX;
use steerage_common::handshake::HANDSHAKES_MAX;
use steerage_common::latency;
use steerage_common::start::STARTS_MAX;

use super::segment::Shareable;

/// [`abi::Control`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct Control {
    pub generation: AtomicU64,
    pub schema_version: AtomicU32,
    pub supervisor_epoch: AtomicU32,
    pub supervisor_pid: AtomicU32,
    pub nat_port_first: AtomicU16,
    pub nat_port_count: AtomicU16,
    pub hash_key: [AtomicU64; 2],
    pub tunnel_source_v4: AtomicU32,
    pub tunnel_hosts_v4: AtomicU32,
    pub tunnel_source_v6: [AtomicU64; 2],
}

/// [`abi::HealthWord`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct HealthWord {
    pub accepts_new: AtomicU64,
    pub keeps_flows: AtomicU64,
    pub strays: AtomicU64,
    pub reviewed: AtomicU64,
}

/// [`abi::Crew`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct Crew {
    pub live: [AtomicU64; LIVE_WORDS],
    reserved: [AtomicU64; 4],
}

/// [`abi::WorkerLine`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct WorkerLine {
    pub pid: AtomicU32,
    pub supervisor_epoch: AtomicU32,
    pub seat: AtomicU32,
    pub connections: AtomicU32,
    pub active_requests: AtomicU64,
    pub accepted: AtomicU64,
    pub heartbeat_ms: AtomicU64,
    pub busy_since_us: AtomicU64,
    pub full: AtomicU32,
    pub pending: AtomicU32,
    reserved: AtomicU64,
    pub errors: [AtomicU64; CLASSES_MAX],
    pub ends: [AtomicU64; CAUSES_MAX],
    pub stream_ends: [AtomicU64; CAUSES_MAX],
    pub handshakes: [AtomicU64; HANDSHAKES_MAX],
    pub log_lines: AtomicU64,
    pub log_dropped: AtomicU64,
    pub started_ms: AtomicU64,
    pub starts: [AtomicU64; STARTS_MAX],
    pub lag_counts: [AtomicU64; latency::BUCKETS],
    pub lag_sum_us: AtomicU64,
    reserved_end: [AtomicU64; 2],
}

/// [`abi::ServiceLine`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct ServiceLine {
    pub position: AtomicU64,
    pub identity: AtomicU64,
    pub panicking: AtomicU64,
    pub ejection: AtomicU64,
    pub slow_start_ticks: AtomicU64,
    reserved: [AtomicU64; 3],
}

/// [`abi::Cell`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
#[cfg_attr(test, derive(zerocopy::FromZeros))]
pub struct Cell {
    pub responses: [AtomicU64; 5],
    pub failures: [AtomicU64; abi::FAILURES_MAX],
    pub ends: [AtomicU64; CAUSES_MAX],
    pub replays: [AtomicU64; abi::REPLAYS_MAX],
    pub refusals: [AtomicU64; abi::REPLAYS_MAX],
    pub connections_created: AtomicU64,
    pub connections_reused: AtomicU64,
    pub request_body_bytes: AtomicU64,
    pub response_body_bytes: AtomicU64,
    pub active: AtomicU32,
    pub idle: AtomicU32,
    pub ejections: AtomicU64,
    pub connections: AtomicU32,
    pub tunnels: AtomicU32,
    pub window: [AtomicU64; abi::WINDOW_BUCKETS],
    pub handshakes: [AtomicU64; abi::HANDSHAKES],
    pub is_timed: AtomicU64,
    reserved: [AtomicU64; 2],
}

impl Cell {
    /// One that has counted nothing.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }

    /// Makes all counters and gauges zero.
    pub(super) fn clear(&self) {
        let lists: [&[AtomicU64]; 7] = [
            &self.responses,
            &self.failures,
            &self.ends,
            &self.replays,
            &self.refusals,
            &self.window,
            &self.handshakes,
        ];
        let singles = [
            &self.connections_created,
            &self.connections_reused,
            &self.request_body_bytes,
            &self.response_body_bytes,
            &self.ejections,
            &self.is_timed,
        ];
        for counter in lists.into_iter().flatten().chain(singles) {
            counter.store(0, Ordering::Relaxed);
        }
        for gauge in [&self.active, &self.idle, &self.connections, &self.tunnels] {
            gauge.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter that only this process writes: a plain load and store, no locked instruction.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

// SAFETY: made of atomics only.
unsafe impl Shareable for Control {}
// SAFETY: made of atomics only.
unsafe impl Shareable for HealthWord {}
// SAFETY: made of atomics only.
unsafe impl Shareable for Crew {}
// SAFETY: made of atomics only.
unsafe impl Shareable for WorkerLine {}
// SAFETY: made of atomics only.
unsafe impl Shareable for ServiceLine {}
// SAFETY: made of atomics only.
unsafe impl Shareable for Cell {}

macro_rules! same_layout {
    ($($name:ident: $($field:ident),+;)+) => {
        const _: () = {
            $(
                assert!(size_of::<$name>() == size_of::<abi::$name>());
                $(assert!(
                    std::mem::offset_of!($name, $field) == std::mem::offset_of!(abi::$name, $field)
                );)+
            )+
        };
    };
}

pub(super) use same_layout;

same_layout! {
    Control: generation, schema_version, supervisor_epoch, supervisor_pid, nat_port_first,
        nat_port_count, hash_key, tunnel_source_v4, tunnel_hosts_v4, tunnel_source_v6;
    HealthWord: accepts_new, keeps_flows, strays, reviewed;
    Crew: live, reserved;
    WorkerLine: pid, supervisor_epoch, seat, connections, active_requests, accepted, heartbeat_ms,
        busy_since_us, full, pending, reserved, errors, ends, stream_ends, handshakes, log_lines, log_dropped,
        started_ms, starts, lag_counts, lag_sum_us, reserved_end;
    ServiceLine: position, identity, panicking, ejection, slow_start_ticks, reserved;
    Cell: responses, failures, ends, replays, refusals, connections_created, connections_reused,
        request_body_bytes, response_body_bytes, active, idle, ejections, connections, tunnels, window, handshakes, is_timed, reserved;
}
