//! The next hop of a packet, by the kernel's own routing and neighbour tables.
//!
//! The kernel's lookup is the dearest part of a packet's way (about 80 ns), and its answer is the same
//! for all packets between two addresses. So each CPU remembers answers for [`LIFETIME`]: a change of
//! routes or neighbours is followed within a third of a second at most, as nothing else is kept of it.
//! The lookup names addresses and the link only: rules by port or type of service do not apply, and
//! equal-cost paths are chosen by addresses, which is the kernel's default too
//! (`net.ipv4.fib_multipath_hash_policy = 0`).

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup,
        xdp_action::{XDP_REDIRECT, XDP_TX},
        xdp_md,
    },
    helpers::{bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_redirect},
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use steerage_common::{
    abi::{FAMILY_IPV4, NeighborEvent, Reason},
    hash::mix,
};

use crate::{
    icmp::refusal::note_excess,
    maps::{ASKED, ASKED_ENTRIES, EVENTS, HOPS, HOPS_BITS, QUERY},
    packet::{Address, Mac},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Userspace is asked for one next hop this often per CPU at most.
const ASK_INTERVAL_NS: u64 = 100_000_000;

/// Where a packet goes next.
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub own_mac: Mac,
    pub peer_mac: Mac,
    /// Bytes of an IP packet that fit.
    pub bytes_max: u16,
    /// Whether that is the destination itself, not a router.
    pub is_destination: bool,
}

/// Between whom a packet travels, as far as routing cares.
#[derive(Clone, Copy)]
pub struct Way {
    pub source: Address,
    pub destination: Address,
    pub family: u8,
}

/// A next hop that this CPU has looked up.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KnownHop {
    at_jiffies: u64,
    destination: Address,
    source: Address,
    ifindex: u32,
    ingress_ifindex: u32,
    own_mac: [u8; 6],
    peer_mac: [u8; 6],
    bytes_max: u16,
    family: u8,
    is_destination: bool,
}

/// What the kernel is asked, and its answer: in a map and not on the stack, for the stack's sake.
#[repr(C, align(8))]
pub struct Query(FibLookup);

/// How long a lookup's answer is used, in the kernel's ticks: 32 ms to 320 ms, by its `HZ`.
const LIFETIME: u64 = 32;

/// The next hop of a packet of `bytes` that will leave from `source` for `destination`.
///
/// Asks userspace to resolve a neighbour that the kernel does not know; the sender's retransmission
/// then finds it.
#[inline(always)]
pub fn next_hop(context: &XdpContext, way: &Way, bytes: usize) -> Result<Hop, Reason> {
    // Folded from above, where a product's bits are the most mixed.
    let line = way.destination.folded().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HOPS_BITS);
    let line = line as u32;
    let known = HOPS.get_ptr_mut(line).ok_or(Reason::NoRoute)?;
    // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
    let known = unsafe { &mut *known };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_jiffies64() };
    let ingress = context.ingress_ifindex() as u32;
    let is_known = known.destination == way.destination
        && known.source == way.source
        && known.ingress_ifindex == ingress
        && now.wrapping_sub(known.at_jiffies) < LIFETIME;
    if !is_known {
        known.destination = way.destination;
        known.source = way.source;
        known.ingress_ifindex = ingress;
        known.family = way.family;
        known.at_jiffies = now;
        known.bytes_max = bytes as u16;
        // SAFETY: the run's own context.
        let found = unsafe { route_look_up(context.ctx, line) };
        if found != FOUND {
            // Nobody's.
            known.destination = Address(0, 0);
            note_excess(bytes, known.bytes_max);
            return Err(match found as u32 {
                BPF_FIB_LKUP_RET_NO_NEIGH => Reason::NoNeighbor,
                BPF_FIB_LKUP_RET_FRAG_NEEDED => Reason::TooBig,
                _ => Reason::NoRoute,
            });
        }
    }
    if bytes > usize::from(known.bytes_max) {
        note_excess(bytes, known.bytes_max);
        return Err(Reason::TooBig);
    }
    let (own_mac, peer_mac) = (Mac::of(&known.own_mac), Mac::of(&known.peer_mac));
    Ok(Hop {
        ifindex: known.ifindex,
        own_mac,
        peer_mac,
        bytes_max: known.bytes_max,
        is_destination: known.is_destination,
    })
}

const FOUND: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;

/// Asks the kernel for the way that a line of [`HOPS`] names, of a packet of [`KnownHop::bytes_max`]; its
/// answer, as the helper gives it.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn route_look_up(context: *mut xdp_md, line: u32) -> i64 {
    let Some(known) = HOPS.get_ptr_mut(line) else { return -1 };
    // SAFETY: as in `next_hop`.
    let known = unsafe { &mut *known };
    let Some(query) = QUERY.get_ptr_mut(0) else { return -1 };
    // SAFETY: as in `next_hop`.
    let Query(query) = unsafe { &mut *query };
    clear(query);
    query.ifindex = known.ingress_ifindex;
    query.__bindgen_anon_1.tot_len = known.bytes_max;
    if known.family == FAMILY_IPV4 {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = known.source.to_v4();
        query.__bindgen_anon_4.ipv4_dst = known.destination.to_v4();
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = known.source.quarters();
        query.__bindgen_anon_4.ipv6_dst = known.destination.quarters();
    }
    // SAFETY: the helper reads and writes the query, whose size it is told.
    let found = unsafe {
        bpf_fib_lookup(context.cast(), &raw mut *query, size_of::<FibLookup>() as i32, 0)
    };
    if found == FOUND {
        known.ifindex = query.ifindex;
        Mac::of(&query.smac).store(&mut known.own_mac);
        Mac::of(&query.dmac).store(&mut known.peer_mac);
        // SAFETY: told a length, the lookup leaves the route's MTU here (Linux 5.12).
        known.bytes_max = unsafe { query.__bindgen_anon_1.mtu_result };
        known.is_destination = next_of(query, known.family) == known.destination;
    } else if found as u32 == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        // SAFETY: as above.
        known.bytes_max = unsafe { query.__bindgen_anon_1.mtu_result };
    } else if found as u32 == BPF_FIB_LKUP_RET_NO_NEIGH {
        known.destination = next_of(query, known.family);
        known.ifindex = query.ifindex;
        ask(&XdpContext::new(context), known);
    }
    found
}

/// The next hop's address, which the lookup leaves where the destination was.
#[inline(always)]
fn next_of(query: &FibLookup, family: u8) -> Address {
    // SAFETY: the member that was written before, and of which any bits are fine.
    unsafe {
        match family {
            FAMILY_IPV4 => Address::v4(query.__bindgen_anon_4.ipv4_dst),
            _ => Address::of_quarters(query.__bindgen_anon_4.ipv6_dst),
        }
    }
}

/// Makes it an empty query, by whole words.
#[inline(always)]
fn clear(query: &mut FibLookup) {
    const WORDS: usize = size_of::<FibLookup>() / 8;
    const { assert!(WORDS * 8 == size_of::<FibLookup>()) };
    let words = (&raw mut *query).cast::<u64>();
    for word in 0..WORDS {
        // SAFETY: within the struct, which a map aligns to eight bytes; all zero is a valid value of
        // this C struct of integers.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Sends the rewritten packet to `hop`.
#[inline(always)]
pub fn send(context: &XdpContext, hop: &Hop) -> u32 {
    if hop.ifindex as usize == context.ingress_ifindex() {
        return XDP_TX;
    }
    // SAFETY: takes plain numbers.
    let action = unsafe { bpf_redirect(hop.ifindex, 0) } as u32;
    debug_assert!(action == XDP_REDIRECT);
    action
}

/// Asks userspace to resolve a next hop, now and then.
#[inline(never)]
fn ask(context: &XdpContext, gateway: &KnownHop) {
    let (address, ifindex, family) = (gateway.destination, gateway.ifindex, gateway.family);
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let line = mix(address.folded()) as u32 % ASKED_ENTRIES as u32;
    let Some(asked) = ASKED.get_ptr_mut(line) else { return };
    // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
    let asked = unsafe { &mut *asked };
    let is_same = asked.address == address && asked.ifindex == ifindex;
    if is_same && now.wrapping_sub(asked.at_ns) < ASK_INTERVAL_NS {
        return;
    }
    asked.at_ns = now;
    asked.address = address;
    asked.ifindex = ifindex;
    // A full ring loses the event; the next packet of the flow asks again.
    let Some(mut event) = EVENTS.reserve(0) else { return };
    event.write(NeighborEvent { address: address.bytes(), ifindex, family, reserved: [0; 3] });
    event.submit(0);
    debug!(context, "asked for a next hop on link {}", ifindex);
}
