//! Entries of rings settle, and marks of strays are cleared, when no flow needs them any more.
//!
//! [`steerage_common::steer`] remembers flows only at entries that changed and for slots that sent flows
//! away; both are marks that this task takes back. An entry's age counts from when this process first
//! saw it changed: after a restart that is later than the change, which only delays. The flow table is
//! walked, without the lock on the kernel's half, only if something could settle by it.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steerage_common::life::{IdleLimits, age, unit};
use steerage_common::limits::{HEALTH_WORDS, RING_ENTRIES};
use steerage_common::ring::Entry;
use tracing::{debug, warn};

use super::flows::Remembered;
use super::{Error, Kernel};
use crate::region::Region;

/// A position on the ring of a service line.
type Place = (u16, u32);

/// What is known between two turns.
#[derive(Debug)]
pub struct Settler {
    flows: Remembered,
    idle: IdleLimits,
    /// When changed entries were first seen, in [`unit`]s.
    changed_at: HashMap<Place, u32>,
}

/// What the flow table says of places and slots.
#[derive(Debug, Default)]
struct Strays {
    /// Slots where active flows of a place are.
    places: HashMap<Place, Vec<u16>>,
    /// Homes of active flows that are elsewhere.
    homes: HashSet<u16>,
}

impl Settler {
    /// For the flows that are remembered at `flows`.
    #[must_use]
    pub fn new(flows: Remembered, idle: IdleLimits) -> Self {
        Self { flows, idle, changed_at: HashMap::new() }
    }

    /// One turn, at a monotonic time; `lock` gives the kernel's half for a moment.
    ///
    /// # Errors
    /// If the kernel refuses to show a ring.
    pub fn turn<K: Deref<Target = Kernel>>(
        &mut self,
        lock: impl Fn() -> K,
        region: &Region,
        now_ns: u64,
    ) -> Result<(), Error> {
        let changed = changed(&lock(), region)?;
        let now = unit(now_ns);
        self.changed_at.retain(|place, _| changed.contains_key(place));
        for place in changed.keys() {
            self.changed_at.entry(*place).or_insert(now);
        }
        let is_ripe = |(place, entry): (&Place, &Entry)| {
            let age = age(now, self.changed_at[place]);
            !entry.aged(age, &self.idle, false).is_changed()
        };
        let reviews: Vec<u64> =
            (0..HEALTH_WORDS).map(|index| region.review_strays(index)).collect();
        let strays = if reviews.iter().any(|slots| *slots != 0) || changed.iter().any(is_ripe) {
            self.strays(now_ns)
        } else {
            Strays::default()
        };
        for (index, slots) in reviews.into_iter().enumerate().filter(|(_, slots)| *slots != 0) {
            let of_word = strays.homes.iter().filter(|home| usize::from(**home) / 64 == index);
            let found = of_word.fold(0, |found, home| found | 1 << (home % 64));
            region.end_review(index, slots, found);
        }
        self.settle(&lock(), region, &changed, &strays, now)
    }

    fn strays(&self, now_ns: u64) -> Strays {
        let mut strays = Strays::default();
        for flow in self.flows.active(now_ns, &self.idle) {
            strays.places.entry((flow.service, flow.position)).or_default().push(flow.slot);
            if flow.home != flow.slot {
                strays.homes.insert(flow.home);
            }
        }
        strays
    }

    fn settle(
        &self,
        kernel: &Kernel,
        region: &Region,
        changed: &HashMap<Place, Entry>,
        strays: &Strays,
        now: u32,
    ) -> Result<(), Error> {
        let mut settled = 0;
        let lines: HashSet<u16> = changed.keys().map(|(line, _)| *line).collect();
        for line in lines {
            let Some(ring) = kernel.ring_in_force(line, 0, region.generation())? else { continue };
            for ((_, position), entry) in changed.iter().filter(|((of, _), _)| *of == line) {
                let place = (line, *position);
                let slots = strays.places.get(&place).map_or(&[][..], Vec::as_slice);
                let has_strays = slots.iter().any(|slot| *slot != entry.current_raw());
                let age = age(now, self.changed_at[&place]);
                let aged = entry.aged(age, &self.idle, has_strays);
                // A ring that came into force meanwhile has the same entry, or is looked at next time.
                settled += usize::from(aged != *entry && ring.replace(*position, *entry, aged));
            }
        }
        if settled > 0 {
            debug!(settled, "entries of rings settled or grew older");
        }
        Ok(())
    }
}

/// The changed entries of all rings in force.
fn changed(kernel: &Kernel, region: &Region) -> Result<HashMap<Place, Entry>, Error> {
    let lines: HashSet<u16> = kernel.vips()?.iter().map(|(_, vip)| vip.service).collect();
    let mut changed = HashMap::new();
    for line in lines {
        let Some(ring) = kernel.ring_in_force(line, 0, region.generation())? else { continue };
        let entries = (0..RING_ENTRIES as u32).map(|position| (position, ring.entry(position)));
        changed.extend(
            entries
                .filter(|(_, entry)| entry.is_changed())
                .map(|(position, entry)| ((line, position), entry)),
        );
    }
    Ok(changed)
}

/// Takes turns for ever.
pub async fn settle(mut settler: Settler, kernel: Arc<Mutex<Kernel>>, region: Arc<Region>) {
    // A sixth of the shorter limit: entries stay marked that much longer at most.
    let shorter = settler.idle.segments.min(settler.idle.datagrams);
    let pause = Duration::from_secs(u64::from(shorter / 6).clamp(1, 10));
    let mut turns = tokio::time::interval(pause);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let (kernel, region) = (kernel.clone(), region.clone());
        let turn = tokio::task::spawn_blocking(move || {
            let now_ns = crate::sys::monotonic().as_nanos() as u64;
            let lock = || kernel.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = settler.turn(lock, &region, now_ns) {
                warn!(%error, "rings stay as they are");
            }
            settler
        });
        match turn.await {
            Ok(back) => settler = back,
            Err(_) => return,
        }
    }
}
