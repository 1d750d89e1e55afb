//! Consistent hashing: the packet program's own ring, read by a worker.
//!
//! The ring is filled by the same function from the same identities, weights and key
//! ([`steerage_common::maglev::populate`]), and walked in the same sequence of positions
//! ([`steerage_common::ring::position`]), so that both planes name the same backend for the same hash.
//! One thing is added that packets can't have: a backend that has more than [`BOUND_PERCENT`] of its
//! share of this worker's requests in flight passes the next one on (Mirrokni, Thorup, Zadimoghaddam,
//! "Consistent hashing with bounded loads", 2016).

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use steerage_common::limits::RING_ENTRIES;
use steerage_common::maglev::{self, Cursor, Member};
use steerage_common::ring::position;

use super::available::Available;
use super::{Backend, Criteria, Service};

/// Share of the mean load that a backend may have, in per cent.
const BOUND_PERCENT: u64 = 125;

/// Positions that are looked at before any live backend is taken.
const ATTEMPTS: u32 = 32;

/// A filled ring of slots' backends.
#[derive(Debug)]
pub(super) struct Ring {
    /// Indices of backends; empty if none has a weight.
    entries: Vec<u16>,
}

impl Ring {
    pub(super) fn new(backends: &[Backend], key: [u64; 2]) -> Self {
        let mut members: Vec<Member> = backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| Member {
                identity: backend.identity,
                slot: backend.tenant.slot(),
                weight: backend.weight,
            })
            .collect();
        let mut cursors = vec![Cursor::default(); members.len()];
        let mut entries = vec![0; RING_ENTRIES];
        if !maglev::populate(key, &mut members, &mut cursors, &mut entries) {
            return Self { entries: Vec::new() };
        }
        let slots = backends.iter().map(|backend| backend.tenant.slot().raw());
        let index_of: HashMap<u16, u16> = slots.zip(0..).collect();
        for entry in &mut entries {
            *entry = index_of[entry];
        }
        Self { entries }
    }
}

impl Service {
    /// The backend that the request's hash names.
    pub(super) fn named(&self, available: &Available, criteria: &Criteria<'_>) -> Option<usize> {
        let ring = self.ring.as_ref().filter(|ring| !ring.entries.is_empty())?;
        let mut busy = None;
        for attempt in 0..ATTEMPTS {
            let backend = usize::from(ring.entries[position(criteria.hash, attempt) as usize]);
            if !available.has(backend) || self.is_excluded(criteria, backend) {
                continue;
            }
            if !self.is_over_bound(available, backend) {
                return Some(backend);
            }
            busy = busy.or(Some(backend));
        }
        busy.or_else(|| self.any_named(available, criteria))
    }

    /// One of those that are left, by hash as well: where the ring's sequence missed them all, its keys
    /// still have their own.
    #[cold]
    fn any_named(&self, available: &Available, criteria: &Criteria<'_>) -> Option<usize> {
        let all = available.backends.iter().map(|index| usize::from(*index));
        let mut left = all.filter(|backend| !self.is_excluded(criteria, *backend));
        let count = left.clone().count() as u64;
        left.nth((((criteria.hash & 0xffff_ffff) * count) >> 32) as usize)
    }

    fn is_over_bound(&self, available: &Available, backend: usize) -> bool {
        let of = &self.backends[backend];
        let cell = self.region.cell(self.worker, of.tenant.slot());
        let active = u64::from(cell.active.load(Ordering::Relaxed)) + 1;
        let all = u64::from(self.in_flight.get()) + 1;
        // active > 1.25 × all × weight / Σ weights, and one is always allowed.
        active > 1 && active * 100 * available.weight > all * BOUND_PERCENT * u64::from(of.weight)
    }
}
