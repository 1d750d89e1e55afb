//! The next hop of a packet, by the kernel's own routing and neighbour tables.
//!
//! The kernel's lookup is the dearest part of a packet's way (about 80 ns), and its answer is the same
//! for all packets between two addresses. So each CPU remembers answers for [`LIFETIME`]: a change of
//! routes or neighbours is followed within a third of a second at most, as nothing else is kept of it.
//! The lookup names addresses and the link only: rules by port or type of service do not apply, and
//! equal-cost paths are chosen by addresses, which is the kernel's default too
//! (`net.ipv4.fib_multipath_hash_policy = 0`).

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup,
        xdp_action::{XDP_REDIRECT, XDP_TX},
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
    maps::{ASKED, ASKED_ENTRIES, EVENTS, HOPS, HOPS_BITS},
    packet::{Aligned, Mac, widened},
    parse::Packet,
    rewrite::Endpoints,
};

const AF_INET: u8 = 2;
/// Userspace is asked for one next hop this often per CPU at most.
const ASK_INTERVAL_NS: u64 = 100_000_000;

/// Where a packet goes next.
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub own_mac: Mac,
    pub peer_mac: Mac,
}

/// A next hop that this CPU has looked up.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KnownHop {
    at_jiffies: u64,
    destination: u32,
    source: u32,
    ifindex: u32,
    ingress_ifindex: u32,
    own_mac: [u8; 6],
    peer_mac: [u8; 6],
    bytes_max: u16,
    reserved: u16,
}

/// How long a lookup's answer is used, in the kernel's ticks: 32 ms to 320 ms, by its `HZ`.
const LIFETIME: u64 = 32;

/// The next hop of a packet that will leave with `to`.
///
/// Asks userspace to resolve a neighbour that the kernel does not know; the sender's retransmission
/// then finds it.
#[inline(always)]
pub fn next_hop(context: &XdpContext, packet: &Packet<'_>, to: &Endpoints) -> Result<Hop, Reason> {
    // Folded from above, where a product's bits are the most mixed.
    let line = to.destination.wrapping_mul(0x9e37_79b1) >> (32 - HOPS_BITS);
    let known = HOPS.get_ptr_mut(line).ok_or(Reason::NoRoute)?;
    // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
    let known = unsafe { &mut *known };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_jiffies64() };
    let is_known = known.destination == to.destination
        && known.source == to.source
        && known.ingress_ifindex == context.ingress_ifindex() as u32
        && now.wrapping_sub(known.at_jiffies) < LIFETIME;
    if !is_known {
        // Nobody's, should the lookup fail.
        known.destination = 0;
        look_up(context, packet, to, known)?;
        known.at_jiffies = now;
        known.source = to.source;
        known.ingress_ifindex = context.ingress_ifindex() as u32;
        known.destination = to.destination;
    }
    if u16::from_be(packet.ip.total_length_be) > known.bytes_max {
        return Err(Reason::TooBig);
    }
    let (own_mac, peer_mac) = (Mac::of(&known.own_mac), Mac::of(&known.peer_mac));
    Ok(Hop { ifindex: known.ifindex, own_mac, peer_mac })
}

/// Asks the kernel.
#[inline(always)]
fn look_up(
    context: &XdpContext,
    packet: &Packet<'_>,
    to: &Endpoints,
    known: &mut KnownHop,
) -> Result<(), Reason> {
    let mut query = zeroed();
    query.family = AF_INET;
    query.ifindex = context.ingress_ifindex() as u32;
    query.__bindgen_anon_1.tot_len = u16::from_be(packet.ip.total_length_be);
    query.__bindgen_anon_3.ipv4_src = to.source;
    query.__bindgen_anon_4.ipv4_dst = to.destination;
    // SAFETY: the helper reads and writes the query, whose size it is told.
    let found = unsafe {
        bpf_fib_lookup(context.as_ptr(), &raw mut query, size_of::<FibLookup>() as i32, 0)
    };
    match found as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            known.ifindex = query.ifindex;
            Mac::of(&query.smac).store(&mut known.own_mac);
            Mac::of(&query.dmac).store(&mut known.peer_mac);
            // SAFETY: told a length, the lookup leaves the route's MTU here (Linux 5.12).
            known.bytes_max = unsafe { query.__bindgen_anon_1.mtu_result };
            Ok(())
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => {
            // SAFETY: the lookup of an IPv4 route leaves the next hop's address here.
            let gateway = unsafe { query.__bindgen_anon_4.ipv4_dst };
            ask(context, query.ifindex, gateway);
            Err(Reason::NoNeighbor)
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Reason::TooBig),
        _ => Err(Reason::NoRoute),
    }
}

/// An empty query. Zeroed by words that lie on words' boundaries, as the stack asks for; what the
/// compiler makes of one large fill does not.
#[inline(always)]
fn zeroed() -> FibLookup {
    const WORDS: usize = size_of::<FibLookup>() / 8;
    const { assert!(WORDS * 8 == size_of::<FibLookup>()) };
    let mut query = Aligned(MaybeUninit::<FibLookup>::uninit());
    let words = query.0.as_mut_ptr().cast::<u64>();
    for word in 0..WORDS {
        // SAFETY: within the struct, aligned to eight bytes.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: all zero is a valid value of this C struct of integers.
    unsafe { query.0.assume_init() }
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
fn ask(context: &XdpContext, ifindex: u32, address: u32) {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let line = mix(u64::from(address)) as u32 % ASKED_ENTRIES as u32;
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
    event.write(NeighborEvent {
        address: widened(address),
        ifindex,
        family: FAMILY_IPV4,
        reserved: [0; 3],
    });
    event.submit(0);
    debug!(context, "asked for next hop {:i} on link {}", u32::from_be(address), ifindex);
}
