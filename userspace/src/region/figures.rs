//! Figures that lie beside the tables, in memory of their own: how long things took at backends, and what
//! was done for listeners and for routes.
//!
//! A BPF array is allocated whole when it is made, and these are large and mostly empty: a hundred MiB
//! of times for eight workers, of which ten backends use one. Pages of this memory are there once
//! somebody has written to them, or has looked: so nobody looks where nothing was written. The price
//! is that it is not pinned: it goes from one daemon to the next at an upgrade, and begins anew with a
//! restart.
//!
//! Listeners and routes find their lines by identity, so that they keep them over reloads. The supervisor
//! gives the lines out ([`super::Region::seat_figures`]) before workers hear of a configuration, and workers
//! look them up.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use steerage_common::abi;
use steerage_common::cause::CAUSES_MAX;
use steerage_common::error::CLASSES_MAX;
use steerage_common::handshake::HANDSHAKES_MAX;
use steerage_common::latency::{self, Timer};
use steerage_common::limits::{LISTENER_LINES, ROUTE_LINES, SLOTS};
use steerage_common::slot::Slot;

use super::add;
use super::segment::{Segment, Shareable, page_rounded};

/// [`abi::Times`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct Times {
    pub counts: [[AtomicU64; latency::BUCKETS]; latency::TIMERS],
    pub sums_us: [AtomicU64; latency::TIMERS],
}

impl Times {
    /// Counts a time, as [`add`] does.
    #[inline]
    fn note(&self, timer: Timer, us: u64) {
        add(&self.counts[timer as usize][latency::bucket(us)], 1);
        add(&self.sums_us[timer as usize], us);
    }

    /// Makes all zero.
    pub(super) fn clear(&self) {
        clear(self.words());
    }
}

/// [`abi::ListenerLine`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct ListenerLine {
    identity: AtomicU64,
    pub responses: [AtomicU64; 5],
    pub request_body_bytes: AtomicU64,
    pub response_body_bytes: AtomicU64,
    pub accepted: AtomicU64,
    pub connections: AtomicU64,
    pub errors: [AtomicU64; CLASSES_MAX],
    pub ends: [AtomicU64; CAUSES_MAX],
    pub stream_ends: [AtomicU64; CAUSES_MAX],
    pub handshakes: [AtomicU64; HANDSHAKES_MAX],
    pub counts: [AtomicU64; latency::BUCKETS],
    pub sum_us: AtomicU64,
    reserved: [AtomicU64; 3],
}

/// [`abi::RouteLine`].
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "documented in abi")]
pub struct RouteLine {
    identity: AtomicU64,
    pub responses: [AtomicU64; 5],
    pub request_body_bytes: AtomicU64,
    pub response_body_bytes: AtomicU64,
    pub counts: [AtomicU64; latency::BUCKETS],
    pub sum_us: AtomicU64,
    reserved: [AtomicU64; 5],
}

// SAFETY: made of atomics only.
unsafe impl Shareable for Times {}
// SAFETY: made of atomics only.
unsafe impl Shareable for ListenerLine {}
// SAFETY: made of atomics only.
unsafe impl Shareable for RouteLine {}

super::cells::same_layout! {
    Times: counts, sums_us;
    ListenerLine: identity, responses, request_body_bytes, response_body_bytes, accepted, connections,
        errors, ends, stream_ends, handshakes, counts, sum_us, reserved;
    RouteLine: identity, responses, request_body_bytes, response_body_bytes, counts, sum_us, reserved;
}

/// The mapped memory. Each table has the workers' parts one after another.
#[derive(Debug)]
pub(super) struct Figures {
    times: Segment<Times>,
    listeners: Segment<ListenerLine>,
    routes: Segment<RouteLine>,
}

/// Where the tables begin, and where the last one ends.
fn offsets(workers: usize) -> [usize; 4] {
    let times = page_rounded(workers * SLOTS * size_of::<abi::Times>());
    let listeners = page_rounded(workers * LISTENER_LINES * size_of::<abi::ListenerLine>());
    let routes = page_rounded(workers * ROUTE_LINES * size_of::<abi::RouteLine>());
    [0, times, times + listeners, times + listeners + routes]
}

/// Fresh memory for so many workers.
///
/// # Errors
/// If there is no descriptor left.
pub fn memory(workers: usize) -> io::Result<OwnedFd> {
    crate::sys::shared_memory("steerage-figures", offsets(workers)[3])
}

impl Figures {
    pub(super) fn map(fd: &OwnedFd, workers: usize) -> io::Result<Self> {
        let [times, listeners, routes, _] = offsets(workers);
        Ok(Self {
            times: Segment::map_at(fd, times, workers * SLOTS)?,
            listeners: Segment::map_at(fd, listeners, workers * LISTENER_LINES)?,
            routes: Segment::map_at(fd, routes, workers * ROUTE_LINES)?,
        })
    }

    #[inline]
    pub(super) fn note_time(&self, worker: usize, slot: Slot, timer: Timer, us: u64) {
        self.times.get(worker * SLOTS + slot.index()).note(timer, us);
    }

    pub(super) fn times(&self, worker: usize, slot: Slot) -> &Times {
        self.times.get(worker * SLOTS + slot.index())
    }

    #[inline]
    pub(super) fn listener(&self, worker: usize, line: u16) -> &ListenerLine {
        self.listeners.get(worker * LISTENER_LINES + usize::from(line))
    }

    #[inline]
    pub(super) fn route(&self, worker: usize, line: u16) -> &RouteLine {
        self.routes.get(worker * ROUTE_LINES + usize::from(line))
    }

    /// The line of a listener.
    pub(super) fn listener_line(&self, identity: u64) -> Option<u16> {
        find(identity, LISTENER_LINES, |line| &self.listener(0, line).identity)
    }

    /// The line of a route.
    pub(super) fn route_line(&self, identity: u64) -> Option<u16> {
        find(identity, ROUTE_LINES, |line| &self.route(0, line).identity)
    }

    /// Gives lines to those who have none; gives how many found no room.
    pub(super) fn seat(&self, listeners: &[u64], routes: &[u64]) -> usize {
        let workers = 0..self.listeners.len() / LISTENER_LINES;
        let clear_listener = |line| {
            workers.clone().for_each(|worker| clear(self.listener(worker, line).words()));
        };
        let clear_route = |line| {
            workers.clone().for_each(|worker| clear(self.route(worker, line).words()));
        };
        let name = |line| &self.listener(0, line).identity;
        let unseated = seat(listeners, LISTENER_LINES, name, clear_listener);
        let name = |line| &self.route(0, line).identity;
        unseated + seat(routes, ROUTE_LINES, name, clear_route)
    }

    /// What a worker that is gone has open at listeners is open no more.
    pub(super) fn clear_gauges(&self, worker: usize) {
        for line in 0..LISTENER_LINES as u16 {
            if self.listener(0, line).identity.load(Ordering::Relaxed) != 0 {
                self.listener(worker, line).connections.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// A line of which everything is a word.
trait Words: Sized {
    fn words(&self) -> &[AtomicU64] {
        const { assert!(align_of::<Self>() == 8) };
        let words = std::ptr::from_ref(self).cast();
        // SAFETY: the lines here are made of AtomicU64 alone.
        unsafe { std::slice::from_raw_parts(words, size_of::<Self>() / 8) }
    }
}

impl Words for Times {}
impl Words for ListenerLine {}
impl Words for RouteLine {}

fn clear(words: &[AtomicU64]) {
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
}

/// Lines in the order in which they are tried.
fn probe(identity: u64, len: usize) -> impl Iterator<Item = u16> {
    let first = (identity % len as u64) as usize;
    (0..len).map(move |step| ((first + step) % len) as u16)
}

/// The line of an identity. Lines are never without a name again once they have one, so the first one without
/// ends the search.
fn find<'a>(identity: u64, len: usize, name: impl Fn(u16) -> &'a AtomicU64) -> Option<u16> {
    let named = |line: &u16| name(*line).load(Ordering::Acquire);
    let found = probe(identity, len).find(|line| [identity, 0].contains(&named(line)))?;
    (named(&found) == identity).then_some(found)
}

/// Seats those who have no line, at one that nobody has or that none of `wanted` has.
fn seat<'a>(
    wanted: &[u64],
    len: usize,
    name: impl Fn(u16) -> &'a AtomicU64,
    clear: impl Fn(u16),
) -> usize {
    let all: HashSet<u64> = wanted.iter().copied().collect();
    let mut unseated = 0;
    for identity in &all {
        if find(*identity, len, &name).is_some() {
            continue;
        }
        let free = probe(*identity, len).find(|line| name(*line).load(Ordering::Relaxed) == 0);
        let unwanted = || {
            probe(*identity, len).find(|line| !all.contains(&name(*line).load(Ordering::Relaxed)))
        };
        match free.or_else(unwanted) {
            Some(line) => {
                if free.is_none() {
                    clear(line);
                }
                name(line).store(*identity, Ordering::Release);
            }
            None => unseated += 1,
        }
    }
    unseated
}

#[cfg(test)]
mod tests {
    use super::super::Region;
    use super::*;

    #[test]
    fn lines_stay_with_their_holders_and_pass_on_only_when_all_are_taken() {
        let region = Region::in_memory(2).unwrap();
        let many: Vec<u64> = (1..=LISTENER_LINES as u64).map(|n| n * 7).collect();
        assert_eq!(region.seat_figures(&many[..3], &[9]), 0);
        let line = region.listener_line(7).unwrap();
        let route = region.route_line(9).unwrap();
        add(&region.listener(1, line).accepted, 5);
        add(&region.route(1, route).sum_us, 5);
        assert_eq!(region.seat_figures(&many, &[9]), 0);
        assert_eq!(region.listener_line(7), Some(line));
        let lines: HashSet<_> = many.iter().map(|id| region.listener_line(*id).unwrap()).collect();
        assert_eq!(lines.len(), LISTENER_LINES);
        assert_eq!(region.listener_line(5), None);
        // The first one is in no configuration any more.
        let mut others = many[1..].to_vec();
        others.push(5);
        assert_eq!(region.seat_figures(&others, &[]), 0);
        assert_eq!(region.listener_line(5), Some(line));
        assert_eq!(region.listener(1, line).accepted.load(Ordering::Relaxed), 0);
        assert_eq!(region.listener_line(7), None);
        assert_eq!(region.route(1, route).sum_us.load(Ordering::Relaxed), 5);
        others.push(6);
        assert_eq!(region.seat_figures(&others, &[]), 1);
    }
}
