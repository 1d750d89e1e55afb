//! Which backend takes a flow: the ring, masked by health at the moment of the lookup.
//!
//! A dead backend needs no rebuilt ring: the next position of the flow's own sequence is tried, and
//! after [`ATTEMPTS`] of them all members of the service are looked through, so that a backend that
//! takes new work is found if there is any. If there is none the packet is dropped; no index ever
//! stands for "some backend".
//!
//! While a service panics (too few of its backends are healthy, see `ServiceLine::panicking`) a
//! backend is as good as a healthy one unless an operator took it out. That is looked up only for a
//! backend whose bit is clear: the way of all other packets knows nothing of it.

use core::ptr;

use steerage_common::{
    abi::{self, Backend, BackendTable, Control, FAMILY_IPV4, active_half},
    health::Word,
    limits::{HEALTH_WORDS, SLOTS, SLOTS_PER_WORD},
    ring::{self, Entry},
};

use crate::flow::Arrival;
use crate::maps::{BACKENDS, CONTROL, HEALTH, RINGS, Ring, SERVICES, STATE};

/// Positions of a flow's sequence to try before all members are looked through. With a tenth of the
/// backends alive one flow in thirty gets there; with all of them alive none ever does.
const ATTEMPTS: u32 = 32;

/// No slot. Not an `Option`: the kernel refuses a program that copies the value of a `None`, as the
/// compiler is free to.
pub const NOBODY: u16 = u16::MAX;

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

/// Both health bits of a slot: whether it takes new work, and whether its flows may stay.
#[inline(always)]
fn health(slot: u16) -> (bool, bool) {
    let Some(word) = HEALTH.get(u32::from(slot) / SLOTS_PER_WORD as u32) else {
        return (false, false);
    };
    let mask = 1 << (slot % SLOTS_PER_WORD as u16);
    // SAFETY: references to u64s in shared memory, changed by atomic operations elsewhere.
    let (accepts, keeps) = unsafe {
        (
            ptr::read_volatile(&raw const word.accepts_new),
            ptr::read_volatile(&raw const word.keeps_flows),
        )
    };
    (accepts & mask != 0, keeps & mask != 0)
}

/// Whether a packet of a flow that was sent to this backend may go there still. A packet that opens
/// a connection is new work.
#[inline(always)]
pub fn may_stay(service: u16, slot: u16, backend: &Backend, is_opening: bool) -> bool {
    let (accepts, keeps) = health(slot);
    let is_welcome = !is_opening || backend.weight > 0;
    let may = if is_opening { accepts } else { keeps || accepts };
    is_welcome && (may || is_healthy_enough(service, slot))
}

/// Whether the service panics, and would give the slot work though its bit is clear.
#[inline(never)]
fn is_healthy_enough(service: u16, slot: u16) -> bool {
    let Some(line) = SERVICES.get(u32::from(service)) else { return false };
    // SAFETY: a reference to a u64 in shared memory, stored whole elsewhere.
    if unsafe { ptr::read_volatile(&raw const line.panicking) } == 0 {
        return false;
    }
    let Some(word) = STATE.get(u32::from(slot)) else { return false };
    // SAFETY: as above.
    Word::from_raw(unsafe { ptr::read_volatile(word) }).serves_in_panic()
}

/// Whether the slot keeps no flows, so that leaving it is a move and not a choice.
#[inline(always)]
pub fn is_gone(slot: u16) -> bool {
    !health(slot).1
}

/// Finds the slot for a new flow of the service; [`NOBODY`] if there is none.
#[inline(never)]
pub fn pick(arrival: &mut Arrival) {
    let Some(now) = Snapshot::take() else { return };
    let Some(ring) = RINGS.get(u32::from(arrival.service) * 2 + now.half) else { return };
    for attempt in 0..ATTEMPTS {
        let (line, word) = ring::place(ring::position(arrival.hash, attempt));
        let Some(line) = ring.get(line) else { return };
        let Some(slot) = Entry::from_raw(line.words[word]).current() else { return };
        if health(slot.raw()).0 || is_healthy_enough(arrival.service, slot.raw()) {
            arrival.slot = slot.raw();
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
        arrival.slot = first as u16 + nth_bit(found, left);
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
    // SAFETY: as in `health`.
    members & unsafe { ptr::read_volatile(&raw const word.accepts_new) }
}

const _: () = assert!(abi::RING_LINE_ENTRIES.is_multiple_of(2));

/// The place of the nth set bit of a word that has more than n: by halves, so that the kernel has no
/// loop to follow.
#[inline(always)]
fn nth_bit(mut word: u64, mut n: u32) -> u16 {
    let mut place = 0;
    let mut step = u64::BITS / 2;
    while step > 0 {
        let low = (word & ((1 << step) - 1)).count_ones();
        if n >= low {
            n -= low;
            word >>= step;
            place += step;
        }
        step /= 2;
    }
    place as u16
}

/// Whether the entry is that of a backend that `nat` over IPv4 can serve.
#[inline(always)]
pub fn is_ipv4(backend: &Backend) -> bool {
    backend.family == FAMILY_IPV4
}
