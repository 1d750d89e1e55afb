//! Consistent hashing: the packet program's own ring, read by a worker.
//!
//! The rings, one a tier, are filled by the same function from the same identities, weights and key
//! ([`steerage_common::maglev::populate`]), and walked by the same rule
//! ([`steerage_common::candidates`]), so that both planes name the same backend for the same hash.
//! One thing is added that packets can't have: a backend that has more than [`BOUND_PERCENT`] of its
//! share of this worker's requests in flight passes the next one on (Mirrokni, Thorup, Zadimoghaddam,
//! "Consistent hashing with bounded loads", 2016).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use steerage_common::candidates;
use steerage_common::limits::{HEALTH_WORDS, RING_ENTRIES};
use steerage_common::maglev::{self, Cursor, Member};
use steerage_common::steer::NOBODY;

use super::available::Available;
use super::{Backend, Criteria, Service};

/// Share of the mean load that a backend may have, in per cent.
const BOUND_PERCENT: u64 = 125;

/// The rings of a service.
#[derive(Debug)]
pub(super) struct Rings {
    /// Of each tier that has members: indices of backends by position.
    tiers: BTreeMap<u8, Vec<u16>>,
}

impl Rings {
    pub(super) fn new(backends: &[Backend], key: [u64; 2]) -> Self {
        let mut tiers: BTreeMap<u8, Vec<Member>> = BTreeMap::new();
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            tiers.entry(backend.tier).or_default().push(Member {
                identity: backend.identity,
                slot: backend.tenant.slot(),
                weight: backend.weight,
            });
        }
        let slots = backends.iter().map(|backend| backend.tenant.slot().raw());
        let index_of: HashMap<u16, u16> = slots.zip(0..).collect();
        let fill = |(tier, mut members): (u8, Vec<Member>)| {
            let mut cursors = vec![Cursor::default(); members.len()];
            let mut entries = vec![0; RING_ENTRIES];
            maglev::populate(key, &mut members, &mut cursors, &mut entries).then(|| {
                entries.iter_mut().for_each(|entry| *entry = index_of[entry]);
                (tier, entries)
            })
        };
        Self { tiers: tiers.into_iter().filter_map(fill).collect() }
    }
}

/// The tier that serves, for one request.
struct Tier<'a> {
    service: &'a Service,
    available: &'a Available,
    criteria: &'a Criteria<'a>,
    entries: &'a [u16],
}

impl candidates::Tier for Tier<'_> {
    fn at(&self, position: u32) -> u16 {
        self.entries[position as usize]
    }

    fn takes(&self, backend: u16) -> bool {
        let backend = usize::from(backend);
        self.available.has(backend) && !self.service.is_excluded(self.criteria, backend)
    }

    fn is_eager(&self, backend: u16) -> bool {
        let backend = usize::from(backend);
        self.service.admits(backend, self.criteria.hash)
            && !self.service.is_over_bound(self.available, backend)
    }
}

impl Service {
    /// The backend that the request's hash names.
    pub(super) fn named(&self, available: &Available, criteria: &Criteria<'_>) -> Option<usize> {
        let entries = self.ring.as_ref()?.tiers.get(&available.tier?)?;
        let tier = Tier { service: self, available, criteria, entries };
        match candidates::next(criteria.hash, &tier) {
            NOBODY => tier.any(),
            backend => Some(backend.into()),
        }
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

impl Tier<'_> {
    /// One of those that are left, where the ring's sequence missed them all.
    #[cold]
    fn any(&self) -> Option<usize> {
        let mut words = [0u64; HEALTH_WORDS];
        let all = self.available.backends.iter().copied();
        for backend in all.filter(|backend| candidates::Tier::takes(self, *backend)) {
            let slot = self.service.backends[usize::from(backend)].tenant.slot();
            words[slot.word()] |= slot.mask();
        }
        let slot = candidates::any(self.criteria.hash, |word| words[word as usize]);
        let is_at = |backend: &Backend| backend.tenant.slot().raw() == slot;
        self.service.backends.iter().position(is_at)
    }
}
