//! Whether a packet may go on to its vip: lists, offenders, proof under flood, rates; in this order, so that
//! a flood from sources that nobody knows writes nothing.
//!
//! What is decided, and why a challenge works, is `steerage_common::guard`'s to say. Only vips with a guard
//! come here; the way of all others knows it by one number that it has read anyway.

use aya_ebpf::{
    bindings::BPF_ANY,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::lpm_trie::Key,
    programs::XdpContext,
};
use steerage_common::{
    abi::{
        FAMILY_IPV4, Flood, GUARD_LISTS_V4, GUARD_LISTS_V6, GUARD_OFFENDERS, Guard, LISTED_DENY,
        LISTED_EXEMPT, MODE_LOCAL, OffenderKey, Rate, Reason, Source, SourceKey, Vip,
    },
    guard::{self, ANSWER_NS, Ends, Thresholds},
    steer::Kind,
};

use crate::{
    balance::Snapshot,
    challenge,
    flow::now_ns,
    maps::{ACL_V4, ACL_V6, FLOODS, GUARDS, GUEST, ListedV4, ListedV6, OFFENDERS, SOURCES, SYNS},
    packet::{Address, Aligned, Header, halves, key_of},
    parse::{Packet, Transport},
    verdict::note_index,
};

/// What of a packet a guard looks at. In a map for the same reasons as `flow::Arrival`.
#[repr(C, align(8))]
pub struct Guest {
    pub source: Address,
    pub destination: Address,
    /// Both, as they lie in the packet.
    pub source_port_be: u16,
    pub destination_port_be: u16,
    /// Of TCP, in host order.
    pub sequence: u32,
    guard: u32,
    vip: u32,
    /// [`OPENING`], [`RESET`] or another.
    kind: u32,
    pub family: u32,
    /// Of the frame. As wide as addresses are: half of a difference of pointers is nothing to the kernel.
    pub bytes: u64,
}

const OPENING: u32 = 1;
const RESET: u32 = 2;

/// What [`guard_judge`] gives for a packet that may go on; for others the reason, plus one, and above it the
/// number that a challenge carries.
const WELCOME: u64 = 0;

/// A sequence number.
#[repr(C, packed)]
struct Sequence(u32);

// SAFETY: a packed integer.
unsafe impl Header for Sequence {}

/// What becomes of the packet, if its guard or its vip's mode says so already.
#[inline(always)]
pub fn check(
    context: &XdpContext,
    packet: &Packet<'_>,
    transport: &Transport<'_>,
    vip: &Vip,
) -> Option<u32> {
    let guest = GUEST.get_ptr_mut(0)?;
    // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
    let guest = unsafe { &mut *guest };
    guest.source = packet.source;
    guest.destination = packet.destination;
    guest.source_port_be = packet.ports.source_be;
    guest.destination_port_be = packet.ports.destination_be;
    guest.guard = vip.guard.into();
    guest.vip = vip.index.into();
    guest.family = packet.family.into();
    guest.kind = match transport.kind() {
        Kind::Opening => OPENING,
        Kind::Segment if transport.is_reset() => RESET,
        _ => 0,
    };
    guest.bytes = packet.bytes() as u64;
    guest.sequence = 0;
    if guest.kind != 0 {
        // SAFETY: nothing else refers to these bytes of the header.
        let sequence = unsafe { packet.frame.header::<Sequence>(packet.transport_at() + 4)? };
        guest.sequence = u32::from_be(sequence.0);
    }
    let judged = guard_judge();
    if judged != WELCOME {
        // SAFETY: the run's own context.
        return Some(unsafe { guard_refuse(context.ctx, judged) });
    }
    (vip.mode == MODE_LOCAL).then_some(XDP_PASS)
}

const fn refused(reason: Reason) -> u64 {
    reason as u64 + 1
}

/// Counts why the packet of [`GUEST`] does not go on, and answers it if it is to be challenged.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn guard_refuse(
    context: *mut aya_ebpf::bindings::xdp_md,
    judged: u64,
) -> u32 {
    let reason = (judged as u32).wrapping_sub(1);
    note_index(reason);
    if reason != Reason::Challenged as u32 {
        return XDP_DROP;
    }
    challenge::answer(&XdpContext::new(context), (judged >> 32) as u32).unwrap_or(XDP_DROP)
}

/// Judges the packet of [`GUEST`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_judge() -> u64 {
    let (Some(guest), Some(now)) = (GUEST.get_ptr_mut(0), Snapshot::take()) else { return WELCOME };
    // SAFETY: as in `check`.
    let guest = unsafe { &*guest };
    let Some(guard) = GUARDS.get(guest.guard) else { return WELCOME };
    match listed(guest, guard.flags) {
        LISTED_DENY => return refused(Reason::Denied),
        LISTED_EXEMPT => return WELCOME,
        _ => {}
    }
    let time = now_ns();
    if guard.flags & GUARD_OFFENDERS != 0 && is_held_back(guest, time) {
        return refused(Reason::Offender);
    }
    let is_opening = guest.kind == OPENING;
    let limits_syns = is_opening && guard.syns.interval_ns != 0;
    let may_flood = guest.kind != 0 && guard.flood_begins != 0;
    if !limits_syns && !may_flood && guard.packets.interval_ns == 0 {
        return WELCOME;
    }
    let key = source_key(guest, guard);
    let source = SOURCES.get_ptr_mut(&key.0);
    if may_flood {
        let is_proven = source.is_some_and(|source| {
            // SAFETY: as in `limit`.
            time < unsafe { (*source).proven_until_ns }
        });
        let until = if is_opening { count(guest, guard, time) } else { flood_until(guest) };
        let ends = ends(guest);
        if is_opening && time < until && !is_proven {
            let cookie = guard::cookie(now.control.hash_key, &ends, time);
            return refused(Reason::Challenged) | u64::from(cookie) << 32;
        }
        if !is_opening
            && time < until.wrapping_add(2 * ANSWER_NS)
            && guard::is_answer(now.control.hash_key, &ends, time, guest.sequence)
        {
            prove(&key, source, time.wrapping_add(guard.proof_ns));
            return refused(Reason::Proven);
        }
    }
    limit(&key, source, guard, limits_syns, time)
}

/// What the guard's lists say of the source.
#[inline(always)]
fn listed(guest: &Guest, flags: u32) -> u32 {
    let found = if guest.family == u32::from(FAMILY_IPV4) {
        if flags & GUARD_LISTS_V4 == 0 {
            return 0;
        }
        let data: ListedV4 = [guest.guard, guest.source.to_v4()];
        ACL_V4.get(&Aligned(Key::new(64, data)).0)
    } else {
        if flags & GUARD_LISTS_V6 == 0 {
            return 0;
        }
        let [a, b, c, d] = guest.source.quarters();
        let data: ListedV6 = [guest.guard, a, b, c, d];
        ACL_V6.get(&Aligned(Key::new(160, data)).0)
    };
    found.copied().unwrap_or(0)
}

/// Whether L7 reported the source, and it is over the rate that it was left.
#[inline(always)]
fn is_held_back(guest: &Guest, time: u64) -> bool {
    let key: Aligned<OffenderKey> = key_of(guest.source, guest.family, 0, 0);
    let Some(offender) = OFFENDERS.get_ptr_mut(&key.0) else { return false };
    // SAFETY: as in `limit`.
    let offender = unsafe { &mut *offender };
    if time >= offender.until_ns {
        return false;
    }
    offender.packets.interval_ns == 0 || !take(&mut offender.bucket, time, &offender.packets)
}

#[inline(always)]
fn source_key(guest: &Guest, guard: &Guard) -> Aligned<SourceKey> {
    let is_v4 = guest.family == u32::from(FAMILY_IPV4);
    let mask = Address::of(if is_v4 { &guard.mask_v4 } else { &guard.mask_v6 });
    let prefix = Address(guest.source.0 & mask.0, guest.source.1 & mask.1);
    key_of(prefix, guard.scope, u16::from_ne_bytes([guest.family as u8, 0]), 0)
}

#[inline(always)]
fn ends(guest: &Guest) -> Ends {
    Ends {
        client: [guest.source.0, guest.source.1],
        vip: [guest.destination.0, guest.destination.1],
        ports: halves(guest.source_port_be, guest.destination_port_be),
    }
}

/// Counts a SYN to the vip; gives until when it is under flood.
///
/// The words are shared by all CPUs, which write them once in a batch of SYNs. Of two that write at once
/// one batch may be lost, which shortens a count by so little that no threshold notices.
#[inline(always)]
fn count(guest: &Guest, guard: &Guard, time: u64) -> u64 {
    let (Some(syns), Some(flood)) = (SYNS.get_ptr_mut(guest.vip), FLOODS.get_ptr_mut(guest.vip))
    else {
        return 0;
    };
    // SAFETY: `syns` is this CPU's own; the flood's words are read and stored whole.
    let (syns, flood) = unsafe { (&mut *syns, &mut *flood as &mut Flood) };
    *syns += 1;
    if *syns < guard.batch {
        return flood.until_ns;
    }
    flood.syns = guard::count_syns(flood.syns, time, *syns);
    *syns = 0;
    let thresholds = Thresholds {
        begins: guard.flood_begins,
        goes_on: guard.flood_goes_on,
        hold_ns: guard.hold_ns,
    };
    let until = guard::flood_until(flood.syns, time, flood.until_ns, thresholds);
    if until != flood.until_ns {
        flood.until_ns = until;
    }
    until
}

#[inline(always)]
fn flood_until(guest: &Guest) -> u64 {
    FLOODS.get(guest.vip).map_or(0, |flood| flood.until_ns)
}

/// Remembers that the source answered a challenge.
#[inline(always)]
fn prove(key: &Aligned<SourceKey>, source: Option<*mut Source>, until_ns: u64) {
    match source {
        // SAFETY: as in `limit`.
        Some(source) => unsafe { (*source).proven_until_ns = until_ns },
        None => {
            let source = Source { proven_until_ns: until_ns, ..Source::default() };
            // A table that takes nothing has the source prove itself again.
            let _ = SOURCES.insert(&key.0, &source, BPF_ANY.into());
        }
    }
}

/// Takes what the packet needs out of its source's buckets.
#[inline(always)]
fn limit(
    key: &Aligned<SourceKey>,
    source: Option<*mut Source>,
    guard: &Guard,
    limits_syns: bool,
    time: u64,
) -> u64 {
    let limits_packets = guard.packets.interval_ns != 0;
    if !limits_packets && !limits_syns {
        return WELCOME;
    }
    let Some(source) = source else {
        let first = |rate: &Rate, is_taken: bool| {
            if is_taken { guard::take(0, time, rate).unwrap_or(0) } else { 0 }
        };
        let source = Source {
            packets: first(&guard.packets, limits_packets),
            syns: first(&guard.syns, limits_syns),
            proven_until_ns: 0,
        };
        // A table that takes nothing limits nobody.
        let _ = SOURCES.insert(&key.0, &source, BPF_ANY.into());
        return WELCOME;
    };
    // SAFETY: the entry may be evicted while the reference lives; the lookup marks it as used, which
    // makes it the last to go. Other CPUs change words whole.
    let source = unsafe { &mut *source };
    if limits_packets && !take(&mut source.packets, time, &guard.packets) {
        return refused(Reason::PacketRate);
    }
    if limits_syns && !take(&mut source.syns, time, &guard.syns) {
        return refused(Reason::SynRate);
    }
    WELCOME
}

/// Takes a token out of a bucket in a table. Of several CPUs that want the same one, one gets it; the
/// others look once more, and are let through if it is gone again.
#[inline(always)]
fn take(bucket: &mut u64, time: u64, rate: &Rate) -> bool {
    for _ in 0..2 {
        let before = *bucket;
        let Some(then) = guard::take(before, time, rate) else { return false };
        if swap(bucket, before, then) {
            break;
        }
    }
    true
}

/// Replaces a word of a table if it is still `from`.
#[inline(always)]
fn swap(word: &mut u64, from: u64, to: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: an 8-byte aligned word of a map value; `core::sync::atomic` has no read-modify-write
        // on this target.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64(r1 + 0, r0, r2)",
                in("r1") &raw mut *word,
                in("r2") to,
                inout("r0") from => found,
            );
        }
        found == from
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        core::mem::replace(word, to) == from
    }
}
