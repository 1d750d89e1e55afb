//! Which backend takes a flow: the ring, masked by health at the moment of the lookup.
//!
//! The decision itself is `steerage_common::steer::decide`; here is what it asks. A dead backend needs no
//! rebuilt ring: the next position of the flow's own sequence is tried, and after [`ATTEMPTS`] of them all
//! members of the service are looked through, so that a backend that takes new work is found if there
//! is any. If there is none the packet is dropped; no index ever stands for "some backend".
//!
//! While a service panics (too few of its backends are healthy, see `ServiceLine::panicking`) a
//! backend is as good as a healthy one unless an operator took it out. That is looked up only for a
//! backend whose bit is clear: the way of all other packets knows nothing of it.

use core::ptr;

use steerage_common::{
    abi::{self, Backend, BackendTable, Control, HealthWord, active_half},
    crew::nth_bit,
    health::Word,
    limits::{HEALTH_WORDS, SLOTS, SLOTS_PER_WORD},
    ring::{self, Entry},
    steer::{NOBODY, Standing},
};

use crate::flow::Arrival;
use crate::maps::{BACKENDS, CONTROL, HEALTH, RINGS, Ring, SERVICES, STATE};

/// Positions of a flow's sequence to try before all members are looked through. With a tenth of the
/// backends alive one flow in thirty gets there; with all of them alive none ever does.
const ATTEMPTS: u32 = 32;

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
    let (accepts, keeps, strays) = unsafe {
        (
            ptr::read_volatile(&raw const word.accepts_new),
            ptr::read_volatile(&raw const word.keeps_flows),
            ptr::read_volatile(&raw const word.strays)
                | ptr::read_volatile(&raw const word.reviewed),
        )
    };
    let accepts_new =
        accepts & mask != 0 || balance_serves_in_panic(service.into(), slot.into()) != 0;
    Standing {
        accepts_new,
        keeps_flows: accepts_new || keeps & mask != 0,
        has_strays: strays & mask != 0,
    }
}

/// Whether the service panics, and would give the slot work though its bit is clear.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn balance_serves_in_panic(service: u32, slot: u32) -> u32 {
    let Some(line) = SERVICES.get(service) else { return 0 };
    // SAFETY: a reference to a u64 in shared memory, stored whole elsewhere.
    if unsafe { ptr::read_volatile(&raw const line.panicking) } == 0 {
        return 0;
    }
    let Some(word) = STATE.get(slot) else { return 0 };
    // SAFETY: as above.
    Word::from_raw(unsafe { ptr::read_volatile(word) }).serves_in_panic().into()
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
    let line = RINGS.get(u32::from(service) * 2 + half)?.get(line)?;
    Some(Entry::from_raw(line.words[word]))
}

/// Finds the slot for a flow that can't have its home; leaves [`NOBODY`] if there is none.
#[inline(never)]
pub fn pick(arrival: &mut Arrival) {
    let Some(now) = Snapshot::take() else { return };
    let Some(ring) = RINGS.get(u32::from(arrival.service) * 2 + now.half) else { return };
    for attempt in 0..ATTEMPTS {
        let (line, word) = ring::place(ring::position(arrival.hash, attempt));
        let Some(line) = ring.get(line) else { return };
        let Some(slot) = Entry::from_raw(line.words[word]).current() else { return };
        if standing(arrival.service, slot.raw()).accepts_new {
            arrival.nat.slot = slot.raw();
            return;
        }
    }
    pick_any(ring, arrival);
}

/// The nth of the members that take new work, n by hash: even where so few are left that the ring's
/// sequence missed them all.
#[inline(never)]
fn pick_any(ring: &Ring, arrival: &mut Arrival) {
    let mut count = 0;
    for index in 0..HEALTH_WORDS as u32 {
        count += candidates(ring, index).count_ones();
    }
    let mut left = (((arrival.hash & 0xffff_ffff) * u64::from(count)) >> 32) as u32;
    let (mut found, mut first) = (0, 0);
    for index in 0..HEALTH_WORDS as u32 {
        let word = candidates(ring, index);
        let here = word.count_ones();
        if left < here {
            (found, first) = (word, index * SLOTS_PER_WORD as u32);
            break;
        }
        left -= here;
    }
    // Nobody takes new work, or health changed between the two passes and the sender tries again.
    if found != 0 {
        arrival.nat.slot = first as u16 + nth_bit(found, left);
    }
}

/// Members among the 64 slots of a health word that take new work.
#[inline(always)]
fn candidates(ring: &Ring, index: u32) -> u64 {
    let (line, low) = ring::member_place(index * 2);
    let Some(line) = ring.get(line) else { return 0 };
    // Two groups of 32 lie side by side, as a line holds an even number of them.
    let members = u64::from(line.words[low]) | u64::from(line.words[low | 1]) << 32;
    let Some(word) = HEALTH.get(index) else { return 0 };
    // SAFETY: as in `standing`.
    members & unsafe { ptr::read_volatile(&raw const word.accepts_new) }
}

const _: () = assert!(abi::RING_LINE_ENTRIES.is_multiple_of(2));
