//! The flow as the backend sees it: source ports without collision, and the way back.
//!
//! One table holds both directions of a flow: a client's packet finds its source port by trying the
//! candidates that follow from the flow's hash, the first of which is its own nearly always; a
//! backend's packet names the port. So a flow costs one entry, and a known one one lookup either way.
//!
//! Two flows to one backend never share a source port, because the port is taken by an insertion
//! that fails if the key is there. A flow that was forgotten and comes back finds its own port again.
//! Nothing sweeps the table: a flow that finds its candidates taken takes over one whose flow is over
//! (`steerage_common::life`), by a compare-and-swap that one CPU wins.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use steerage_common::{
    abi::{Backend, Control, Nat, NatKey, PROTOCOL_UDP, VIP_ALL_PORTS, Vip},
    hash::mix,
    life::{Life, Sign},
    steer::Kind,
};

use crate::{
    balance::Snapshot,
    flow::{Arrival, Placed, now_ns},
    maps::{ARRIVAL, NATS},
    packet::{Address, Aligned, halves, key_of},
    parse::{Packet, Transport},
    verdict::count,
};

/// Candidate ports that a flow looks at. With nine of ten ports taken by live flows one flow in five
/// finds none.
const CANDIDATES: u64 = 16;

/// Whether a host-order port is one that `nat` gives to flows.
#[inline(always)]
pub fn owns_port(control: &Control, port: u16) -> bool {
    port.wrapping_sub(control.nat_port_first) < control.nat_port_count
}

/// The entry that a packet from a backend would have.
#[inline(always)]
pub fn of_reply(packet: &Packet<'_>) -> Option<&'static mut Nat> {
    let ports = halves(packet.ports.source_be, packet.ports.destination_be);
    get(&nat_key(packet.source, ports, packet.protocol, packet.family))
}

#[inline(always)]
fn get(key: &Aligned<NatKey>) -> Option<&'static mut Nat> {
    // SAFETY: the entry may be evicted while the reference lives; the lookup marks it as used, which
    // makes it the last to go. Other CPUs write `life` alone.
    NATS.get_ptr_mut(&key.0).map(|nat| unsafe { &mut *nat })
}

#[inline(always)]
fn nat_key(backend: Address, ports: u32, protocol: u8, family: u8) -> Aligned<NatKey> {
    key_of(backend, ports, u16::from_ne_bytes([protocol, family]), 0)
}

/// Notes what a packet from the backend tells about the flow's life.
#[inline(always)]
pub fn live_by_reply(nat: &mut Nat, transport: &Transport<'_>) {
    let life = transport.live(Life::from_raw(nat.life), now_ns(), Sign::BackendFin).to_raw();
    // Mostly the same second as before: a line that is only read stays with all CPUs.
    if nat.life != life {
        nat.life = life;
    }
}

/// The port that the backend gets a packet at: its own, or that of the packet if the vip is of all ports.
#[inline(always)]
pub fn backend_port(vip: &Vip, backend: &Backend, port_be: u16) -> u16 {
    if vip.flags & VIP_ALL_PORTS != 0 { port_be } else { backend.port_be }
}

/// The source port of the packet's flow towards its backend; a flow that has none yet is given one. 0
/// if there is none to be had.
#[inline(always)]
pub fn port_of(
    context: &aya_ebpf::programs::XdpContext,
    packet: &Packet<'_>,
    transport: &Transport<'_>,
    vip: &Vip,
    placed: &Placed,
    backend_port_be: u16,
    now: &Snapshot<'static>,
) -> u16 {
    let backend = now.backend(placed.slot);
    let port_be = candidate_port(placed.hash, 0, now.control);
    let ports = halves(backend_port_be, port_be);
    let key = nat_key(Address::of(&backend.address), ports, packet.protocol, packet.family);
    if let Some(nat) = get(&key)
        && nat.client_port_be == packet.ports.source_be
        && Address::of(&nat.client) == packet.source
        && nat.vip == vip.index
        && nat.vip_generation == vip.generation
    {
        live_by_client(nat, transport);
        return port_be;
    }
    let Some(arrival) = Arrival::note(context, packet, transport, vip, placed.hash) else {
        return 0;
    };
    arrival.nat.slot = placed.slot;
    arrival.backend_port_be = backend_port_be;
    nat_find() as u16
}

/// As [`port_of`], for the flow of [`ARRIVAL`], whose first candidate is not its port.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_find() -> u64 {
    let Some(arrival) = ARRIVAL.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `Arrival::note`.
    let arrival = unsafe { &mut *arrival };
    // The first candidate was looked at already.
    let mut port_be = if arrival.is_opening { 0 } else { search(arrival, 1) };
    if port_be == 0 {
        arrival.nat.life = Life::from_raw(arrival.nat.life).at_beginning().to_raw();
        port_be = allocate(arrival);
    }
    if port_be == 0 {
        port_be = inherit(arrival);
    }
    port_be.into()
}

/// The source port of the flow of [`ARRIVAL`], which takes none if it has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nat_known() -> u64 {
    let Some(arrival) = ARRIVAL.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `Arrival::note`.
    search(unsafe { &*arrival }, 0).into()
}

/// Notes what a client's packet tells about its flow's life. The backend's packets keep a TCP flow
/// alive; datagrams may go one way for ever.
#[inline(always)]
fn live_by_client(nat: &mut Nat, transport: &Transport<'_>) {
    let before = Life::from_raw(nat.life);
    let life = match transport.kind() {
        Kind::Opening => Life::begun(now_ns()),
        Kind::Segment => transport.live_by_client(before),
        Kind::Datagram => before.heard(now_ns()),
    };
    if nat.life != life.to_raw() {
        nat.life = life.to_raw();
    }
}

#[inline(always)]
fn key_of_arrival(arrival: &Arrival, backend: &Backend) -> Aligned<NatKey> {
    let ports = halves(arrival.backend_port_be, 0);
    nat_key(Address::of(&backend.address), ports, arrival.protocol, arrival.family)
}

/// The flow's port if it is one of its candidates from `first` on; 0 if it has none.
#[inline(never)]
fn search(arrival: &Arrival, first: u64) -> u16 {
    let Some(now) = Snapshot::take() else { return 0 };
    let mut key = key_of_arrival(arrival, now.backend(arrival.nat.slot));
    for candidate in first..CANDIDATES {
        key.0.source_port_be = candidate_port(arrival.hash, candidate, now.control);
        let Some(nat) = get(&key) else { continue };
        let is_own = is_of_client(nat, &arrival.nat)
            && nat.vip == arrival.nat.vip
            && nat.vip_generation == arrival.nat.vip_generation;
        if is_own {
            let life = Life::from_raw(arrival.nat.life);
            nat.life = if arrival.protocol == PROTOCOL_UDP {
                life.to_raw()
            } else {
                Life::from_raw(nat.life).with_end_of(life).to_raw()
            };
            return key.0.source_port_be;
        }
    }
    0
}

/// Takes a source port towards the backend for the flow: one that is free, or that was its own.
#[inline(never)]
fn allocate(arrival: &Arrival) -> u16 {
    let Some(now) = Snapshot::take() else { return 0 };
    let mut key = key_of_arrival(arrival, now.backend(arrival.nat.slot));
    if now.control.nat_port_count == 0 {
        return 0;
    }
    for candidate in 0..CANDIDATES {
        key.0.source_port_be = candidate_port(arrival.hash, candidate, now.control);
        if NATS.insert(&key.0, &arrival.nat, BPF_NOEXIST.into()).is_ok() {
            count(arrival.nat.vip, arrival.nat.slot, |traffic| traffic.flows += 1);
            return key.0.source_port_be;
        }
        let Some(taken) = get(&key) else { continue };
        if is_same_flow(taken, &arrival.nat) {
            if taken.vip_generation != arrival.nat.vip_generation {
                count(arrival.nat.vip, arrival.nat.slot, |traffic| traffic.flows += 1);
            }
            // Whatever else changed, the vip's generation or the link, is now as this packet says.
            return replace(&key, arrival);
        }
    }
    0
}

/// Takes the source port of a flow that is over, for one that found all its candidates taken.
#[inline(never)]
fn inherit(arrival: &Arrival) -> u16 {
    let Some(now) = Snapshot::take() else { return 0 };
    let time = now_ns();
    let mut key = key_of_arrival(arrival, now.backend(arrival.nat.slot));
    for candidate in 0..CANDIDATES {
        key.0.source_port_be = candidate_port(arrival.hash, candidate, now.control);
        if is_left(&key, time) {
            count(arrival.nat.vip, arrival.nat.slot, |traffic| traffic.flows += 1);
            return replace(&key, arrival);
        }
    }
    0
}

#[inline(always)]
fn replace(key: &Aligned<NatKey>, arrival: &Arrival) -> u16 {
    match NATS.insert(&key.0, &arrival.nat, BPF_ANY.into()) {
        Ok(()) => key.0.source_port_be,
        Err(_) => 0,
    }
}

/// The nth port, in network order, that a flow of this hash may have.
#[inline(always)]
fn candidate_port(hash: u64, candidate: u64, control: &Control) -> u16 {
    let spread = mix(hash.wrapping_add(candidate)) & 0xffff_ffff;
    let offset = (spread * u64::from(control.nat_port_count)) >> 32;
    control.nat_port_first.wrapping_add(offset as u16).to_be()
}

/// Whether the flow with this port is over, and this CPU the one to end it.
#[inline(always)]
fn is_left(key: &Aligned<NatKey>, now: u64) -> bool {
    let Some(taken) = get(key) else { return false };
    let life = taken.life;
    let is_over = Life::from_raw(life).is_over(now, key.0.protocol);
    is_over && swap_life(taken, life, Life::begun(now).to_raw())
}

/// Replaces the life of an entry if it is still `from`: of several CPUs that want to, one may.
#[inline(always)]
fn swap_life(nat: &mut Nat, from: u32, to: u32) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: a 4-byte aligned word of a map value. `core::sync::atomic` has no 32-bit type on
        // this target.
        unsafe {
            core::arch::asm!(
                "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
                in("r1") &raw mut nat.life,
                in("r2") u64::from(to),
                inout("r0") u64::from(from) => found,
            );
        }
        found == u64::from(from)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        core::mem::replace(&mut nat.life, to) == from
    }
}

#[inline(always)]
fn is_of_client(a: &Nat, b: &Nat) -> bool {
    a.client_port_be == b.client_port_be && Address::of(&a.client) == Address::of(&b.client)
}

/// Whether both are one client's flow to one service address, be it before and after a reload.
#[inline(always)]
fn is_same_flow(a: &Nat, b: &Nat) -> bool {
    is_of_client(a, b)
        && a.vip_port_be == b.vip_port_be
        && Address::of(&a.vip_address) == Address::of(&b.vip_address)
}
