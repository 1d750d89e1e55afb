//! The flow as the backend sees it: source ports without collision, and the way back.
//!
//! Two flows to one backend never share a source port, because the port is taken by an insertion
//! that fails if the key is there. The candidates follow from the flow's hash, so a flow that was
//! forgotten and comes back finds its own port again. Nothing sweeps the table: a flow that finds its
//! candidates taken takes over one whose flow is over (`steerage_common::life`), by a
//! compare-and-swap that one CPU wins.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_coarse_ns,
};
use steerage_common::{
    abi::{Backend, Control, FAMILY_IPV4, FlowKey, Nat, NatKey, PROTOCOL_UDP, Reason},
    hash::mix,
    life::{Life, Sign},
};

use crate::{
    flow::{self, Arrival, Placed},
    maps::NATS,
    packet::{Aligned, Mac, copied, halves, is_same, key_of, narrowed, widened},
    parse::{Packet, Transport},
};

/// Candidate ports that a flow looks at. With nine of ten ports taken by live flows one flow in five
/// finds none.
const CANDIDATES: u64 = 16;

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether a host-order port is one that `nat` gives to flows.
#[inline(always)]
pub fn owns_port(control: &Control, port: u16) -> bool {
    port.wrapping_sub(control.nat_port_first) < control.nat_port_count
}

/// The entry that a packet from a backend would have.
#[inline(always)]
pub fn of_reply(packet: &Packet<'_>) -> Option<&'static mut Nat> {
    let key = nat_key(
        packet.ip.source,
        packet.ports.source_be,
        packet.ports.destination_be,
        packet.ip.protocol,
    );
    // SAFETY: the entry may be evicted while the reference lives; the lookup marks it as used, which
    // makes it the last to go. Other CPUs write `life` alone.
    NATS.get_ptr_mut(&key.0).map(|nat| unsafe { &mut *nat })
}

/// Notes what a packet from the backend tells about the flow's life.
#[inline(always)]
pub fn live_by_reply(nat: &mut Nat, transport: &Transport<'_>) {
    let mut life = Life::from_raw(nat.life).heard(now_ns());
    if transport.is_reset() {
        life = life.with(Sign::Reset);
    } else if !transport.is_handshake() {
        life = life.with(Sign::Established);
    }
    if transport.is_fin() {
        life = life.with(Sign::BackendFin);
    }
    // Mostly the same second as before: a line that is only read stays with all CPUs.
    if nat.life != life.to_raw() {
        nat.life = life.to_raw();
    }
}

/// Notes the end of a flow as its client sees it. Such packets are few: one lookup more each.
#[inline(always)]
pub fn live_by_client(packet: &Packet<'_>, placed: &Placed<'_>, transport: &Transport<'_>) {
    if !transport.is_reset() && !transport.is_fin() {
        return;
    }
    if let Some(nat) = of_placed(packet, placed) {
        let sign = if transport.is_reset() { Sign::Reset } else { Sign::ClientFin };
        nat.life = Life::from_raw(nat.life).with(sign).to_raw();
    }
}

/// Whether the flow still owns its source port.
///
/// TCP talks both ways, so both entries of a flow are used alike and leave the tables together;
/// datagrams may go one way for ever, and only this look keeps their way back from being evicted.
#[inline(always)]
pub fn is_whose(packet: &Packet<'_>, key: &FlowKey, placed: &Placed<'_>) -> bool {
    if packet.ip.protocol != PROTOCOL_UDP {
        return true;
    }
    let Some(nat) = of_placed(packet, placed) else { return false };
    let life = Life::from_raw(nat.life).heard(now_ns());
    if nat.life != life.to_raw() {
        nat.life = life.to_raw();
    }
    nat.client_port_be == key.client_port_be
        && is_same(&nat.client, &key.client)
        && nat.vip == key.vip
        && nat.vip_generation == key.vip_generation
}

#[inline(always)]
fn of_placed(packet: &Packet<'_>, placed: &Placed<'_>) -> Option<&'static mut Nat> {
    let key = key_towards(placed.backend, packet.ip.protocol, placed.source_port_be);
    // SAFETY: as in `of_reply`.
    NATS.get_ptr_mut(&key.0).map(|nat| unsafe { &mut *nat })
}

#[inline(always)]
fn key_towards(backend: &Backend, protocol: u8, source_port_be: u16) -> Aligned<NatKey> {
    nat_key(narrowed(&backend.address), backend.port_be, source_port_be, protocol)
}

#[inline(always)]
fn nat_key(backend: u32, backend_port_be: u16, port_be: u16, protocol: u8) -> Aligned<NatKey> {
    let kind = u16::from_ne_bytes([protocol, FAMILY_IPV4]);
    key_of(backend, halves(backend_port_be, port_be), kind, 0)
}

/// Takes a source port towards the backend for the flow: one that is free, or that was its own.
#[inline(always)]
pub fn allocate(arrival: &Arrival, backend: &Backend, control: &Control) -> Result<u16, Reason> {
    let now = now_ns();
    let mut key = key_towards(backend, arrival.protocol, 0);
    let value = Aligned(value_of(arrival, now));
    if control.nat_port_count == 0 {
        return Err(Reason::NoPort);
    }
    for candidate in 0..CANDIDATES {
        key.0.source_port_be = candidate_port(arrival.hash, candidate, control);
        if NATS.insert(&key.0, &value.0, BPF_NOEXIST.into()).is_ok() {
            return Ok(key.0.source_port_be);
        }
        let Some(taken) = NATS.get_ptr_mut(&key.0) else { continue };
        // SAFETY: as in `of_reply`.
        let taken = unsafe { &*taken };
        if is_same_flow(taken, &value.0) {
            // Whatever else changed, the vip's generation or the link, is now as this packet says.
            NATS.insert(&key.0, &value.0, BPF_ANY.into()).map_err(|_| Reason::TableFull)?;
            return Ok(key.0.source_port_be);
        }
    }
    Err(Reason::NoPort)
}

/// Takes the source port of a flow that is over, for one that found all its candidates taken.
#[inline(always)]
pub fn inherit(arrival: &Arrival, backend: &Backend, control: &Control) -> Result<u16, Reason> {
    let now = now_ns();
    let mut key = key_towards(backend, arrival.protocol, 0);
    for candidate in 0..CANDIDATES {
        key.0.source_port_be = candidate_port(arrival.hash, candidate, control);
        if is_left(&key, now) {
            let value = Aligned(value_of(arrival, now));
            NATS.insert(&key.0, &value.0, BPF_ANY.into()).map_err(|_| Reason::TableFull)?;
            return Ok(key.0.source_port_be);
        }
    }
    Err(Reason::NoPort)
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
    let Some(taken) = NATS.get_ptr_mut(&key.0) else { return false };
    // SAFETY: as in `of_reply`.
    let taken = unsafe { &mut *taken };
    let life = taken.life;
    let is_over = Life::from_raw(life).is_over(now, key.0.protocol);
    if !is_over || !swap_life(taken, life, Life::begun(now).to_raw()) {
        return false;
    }
    let former = Aligned(FlowKey {
        client: copied(&taken.client),
        vip_generation: taken.vip_generation,
        vip: taken.vip,
        client_port_be: taken.client_port_be,
    });
    flow::forget(&former, taken.slot, key.0.source_port_be);
    true
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
fn value_of(arrival: &Arrival, now: u64) -> Nat {
    let key = &arrival.key;
    let mut value = Nat {
        client: copied(&key.client),
        vip_address: widened(arrival.vip_address),
        client_port_be: key.client_port_be,
        vip_port_be: arrival.vip_port_be,
        vip: key.vip,
        slot: arrival.slot,
        vip_generation: key.vip_generation,
        ifindex: arrival.ifindex,
        peer_mac: [0; 6],
        own_mac: [0; 6],
        life: Life::begun(now).to_raw(),
    };
    Mac::of(&arrival.peer_mac).store(&mut value.peer_mac);
    Mac::of(&arrival.own_mac).store(&mut value.own_mac);
    value
}

/// Whether both are one client's flow to one service address, be it before and after a reload.
#[inline(always)]
fn is_same_flow(a: &Nat, b: &Nat) -> bool {
    a.client_port_be == b.client_port_be
        && a.vip_port_be == b.vip_port_be
        && is_same(&a.client, &b.client)
        && is_same(&a.vip_address, &b.vip_address)
}
