//! Which backend takes a flow: the ring, masked by health at the moment of the lookup.
//!
//! The decision itself is `steerage_common::steer::decide`; here is what it asks. A dead backend needs no
//! rebuilt ring: `steerage_common::candidates` goes on along the flow's own sequence, tier by tier, so that a
//! backend that takes new work is found if there is any. If there is none the packet is dropped; no index
//! ever stands for "some backend".
//!
//! While a service panics (too few of a tier are healthy, see `ServiceLine::panicking`) a backend of
//! that tier is as good as a healthy one unless an operator took it out. That is looked up only for a
//! backend whose bit is clear: the way of all other packets knows nothing of it.

use core::ptr;

use steerage_common::{
    abi::{self, Backend, BackendTable, Control, HealthWord, active_half},
    candidates,
    health::{Ticks, Word},
    limits::{SLOTS, SLOTS_PER_WORD, TIERS},
    ring::{self, Entry},
    steer::{NOBODY, Standing},
};

use crate::flow::{Arrival, now_ns};
use crate::maps::{ARRIVAL, BACKENDS, CONTROL, HEALTH, RINGS, Ring, SERVICES, STATE};

const _: () = assert!(SLOTS <= NOBODY as usize);

/// One publication, for the time of one packet.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    pub control: &'a Control,
    pub half: u32,
    backends: &'a BackendTable,
}

impl Snapshot<'static> {
    /// What is in force now; `None` only if the maps are not what was compiled in.
    #[inline(always)]
    pub fn take() -> Option<Self> {
        let control = CONTROL.get(0)?;
        // SAFETY: a reference to a u64 in shared memory; the supervisor stores it whole.
        let generation = unsafe { ptr::read_volatile(&raw const control.generation) };
        let half = active_half(generation);
        Some(Self { control, half, backends: BACKENDS.get(half)? })
    }
}

impl<'a> Snapshot<'a> {
    /// The entry of a slot.
    #[inline(always)]
    pub fn backend(&self, slot: u16) -> &'a Backend {
        &self.backends.entries[usize::from(slot) % SLOTS]
    }
}

/// What the shared words say of a slot; nothing good of a slot that is none.
#[inline(always)]
pub fn standing(service: u16, slot: u16) -> Standing {
    let Some(word) = HEALTH.get(u32::from(slot) / SLOTS_PER_WORD as u32) else {
        return Standing { accepts_new: false, keeps_flows: false, has_strays: false };
    };
    let mask = 1 << (slot % SLOTS_PER_WORD as u16);
    // SAFETY: references to u64s in shared memory, changed by atomic operations elsewhere.
    let words = unsafe {
        [
            ptr::read_volatile(&raw const word.accepts_new),
            ptr::read_volatile(&raw const word.keeps_flows),
            ptr::read_volatile(&raw const word.strays)
                | ptr::read_volatile(&raw const word.reviewed),
        ]
    };
    Standing::of(words, mask, || balance_serves_in_panic(service.into(), slot.into()) != 0)
}

/// Whether the slot's tier panics, and would give the slot work though its bit is clear.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balance_serves_in_panic(service: u32, slot: u32) -> u32 {
    let Some(line) = SERVICES.get(service) else { return 0 };
    // SAFETY: a reference to a u64 in shared memory, stored whole elsewhere.
    let panicking = unsafe { ptr::read_volatile(&raw const line.panicking) };
    if panicking == 0 {
        return 0;
    }
    let Some(now) = Snapshot::take() else { return 0 };
    if u64::from(now.backend(slot as u16).tier) + 1 != panicking {
        return 0;
    }
    let Some(word) = STATE.get(slot) else { return 0 };
    // SAFETY: as above.
    Word::from_raw(unsafe { ptr::read_volatile(word) }).serves_in_panic().into()
}

/// Whether a slot that takes new work is warm enough for a flow of this hash.
#[inline(always)]
pub fn admits(service: u16, slot: u16, hash: u64) -> bool {
    balance_admits(service.into(), slot.into(), hash) != 0
}

/// As [`admits`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balance_admits(service: u32, slot: u32, hash: u64) -> u32 {
    let (Some(word), Some(line)) = (STATE.get(slot), SERVICES.get(service)) else { return 1 };
    // SAFETY: references to u64s in shared memory, stored whole elsewhere.
    let (word, slow_start) =
        unsafe { (ptr::read_volatile(word), ptr::read_volatile(&raw const line.slow_start_ticks)) };
    let now = Ticks::from_ms(now_ns() / 1_000_000);
    Word::from_raw(word).admits(hash, now, slow_start as u32).into()
}

/// Notes that a flow whose home is `slot` goes elsewhere, before that is remembered.
#[inline(always)]
pub fn mark_stray(slot: u16) {
    let Some(word) = HEALTH.get_ptr_mut(u32::from(slot) / SLOTS_PER_WORD as u32) else { return };
    let mask = 1 << (slot % SLOTS_PER_WORD as u16);
    // SAFETY: as in `standing`. Mostly set already: a line that is only read stays with all CPUs.
    if unsafe { ptr::read_volatile(&raw const (*word).strays) } & mask == 0 {
        set_bits(word, mask);
    }
}

/// Sets bits of [`HealthWord::strays`] while others do.
#[inline(always)]
fn set_bits(word: *mut HealthWord, mask: u64) {
    // SAFETY: a u64 of a map value; `core::sync::atomic` has no read-modify-write on this target.
    unsafe {
        let strays = &raw mut (*word).strays;
        #[cfg(target_arch = "bpf")]
        core::arch::asm!(
            "lock *(u64 *)(r1 + 0) |= r2",
            in("r1") strays,
            in("r2") mask,
        );
        #[cfg(not(target_arch = "bpf"))]
        strays.write(strays.read() | mask);
    }
}

/// The entry at `position` of a service's ring in force.
#[inline(always)]
pub fn entry(service: u16, half: u32, position: u32) -> Option<Entry> {
    let (line, word) = ring::place(position);
    let line = RINGS.get(abi::ring_index(service, 0, half))?.get(line)?;
    Some(Entry::from_raw(line.words[word]))
}

/// Finds the slot for a flow that can't have its home; leaves [`NOBODY`] if there is none.
#[inline(always)]
pub fn pick(arrival: &mut Arrival) {
    for rank in 0..TIERS as u32 {
        let slot = balance_pick(rank) as u16;
        if slot != NOBODY {
            arrival.nat.slot = slot;
            return;
        }
    }
}

/// The slot of a tier's ring for the flow of [`ARRIVAL`]; [`NOBODY`] if the tier has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balance_pick(rank: u32) -> u32 {
    let (Some(now), Some(arrival)) = (Snapshot::take(), ARRIVAL.get(0)) else {
        return NOBODY.into();
    };
    let (service, hash) = (arrival.service, arrival.hash);
    // Numbers from elsewhere are no numbers that the kernel could take for ranks.
    let index = abi::ring_index(service, rank % TIERS as u32, now.half);
    let Some(ring) = RINGS.get(index) else { return NOBODY.into() };
    let tier = Tier { ring, service, hash };
    let slot = candidates::next(hash, &tier);
    if slot != NOBODY {
        return slot.into();
    }
    candidates::any(hash, |word| tier.takers(word)).into()
}

/// A tier's ring, whose, and for which flow.
struct Tier<'a> {
    ring: &'a Ring,
    service: u16,
    hash: u64,
}

impl candidates::Tier for Tier<'_> {
    #[inline(always)]
    fn at(&self, position: u32) -> u16 {
        let (line, word) = ring::place(position);
        let Some(line) = self.ring.get(line) else { return NOBODY };
        let slot = Entry::from_raw(line.words[word]).current_raw();
        if slot == ring::NONE { NOBODY } else { slot }
    }

    #[inline(always)]
    fn takes(&self, slot: u16) -> bool {
        standing(self.service, slot).accepts_new
    }

    #[inline(always)]
    fn is_eager(&self, slot: u16) -> bool {
        admits(self.service, slot, self.hash)
    }
}

impl Tier<'_> {
    /// Members among the 64 slots of a health word that take new work.
    #[inline(always)]
    fn takers(&self, index: u32) -> u64 {
        let (line, low) = ring::member_place(index * 2);
        let Some(line) = self.ring.get(line) else { return 0 };
        // Two groups of 32 lie side by side, as a line holds an even number of them.
        let members = u64::from(line.words[low]) | u64::from(line.words[low | 1]) << 32;
        let Some(word) = HEALTH.get(index) else { return 0 };
        // SAFETY: as in `standing`.
        members & unsafe { ptr::read_volatile(&raw const word.accepts_new) }
    }
}

const _: () = assert!(abi::RING_LINE_ENTRIES.is_multiple_of(2));
