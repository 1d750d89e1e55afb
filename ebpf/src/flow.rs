//! Flows and their backends: the ring where it can be trusted, the flow table where it can't.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use steerage_common::{
    abi::{Flow, FlowKey, Nat, Reason, VIP_REMEMBERS, Vip},
    hash::flow_hash,
    life::{Life, Sign},
    ring,
    steer::{self, Kind, Memory, NOBODY},
};

use crate::{
    balance::{self, Snapshot},
    maps::{ARRIVAL, FLOWS},
    packet::{Address, Aligned, key_of},
    parse::{Packet, Transport},
    quic,
    verdict::{count, count_at_vip, note},
};

/// A client's packet to a vip, for the part of the work that only few packets need.
///
/// It lies in a map and not on the stack, for the stack's sake and for the verifier's: what is read
/// back from a map is any number to it, not one of the thousands that it saw written.
#[repr(C, align(8))]
pub struct Arrival {
    pub hash: u64,
    pub key: FlowKey,
    /// What `nat` would remember of it: where the packet came from, the backend that is to have the
    /// flow, and the flow's life after this packet.
    pub nat: Nat,
    pub service: u16,
    /// The slot that the ring names.
    pub home: u16,
    /// The port that the backend gets the flow at.
    pub backend_port_be: u16,
    pub protocol: u8,
    pub family: u8,
    pub is_opening: bool,
}

impl Arrival {
    /// This CPU's scratch space, with the packet noted in it.
    #[inline(always)]
    pub fn note(
        context: &XdpContext,
        packet: &Packet<'_>,
        transport: &Transport<'_>,
        vip: &Vip,
        hash: u64,
    ) -> Option<&'static mut Self> {
        let arrival = ARRIVAL.get_ptr_mut(0)?;
        // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
        let arrival = unsafe { &mut *arrival };
        arrival.hash = hash;
        arrival.key.client = packet.source.bytes();
        arrival.key.vip_generation = vip.generation;
        arrival.key.vip_port_be = packet.ports.destination_be;
        arrival.key.client_port_be = packet.ports.source_be;
        let nat = &mut arrival.nat;
        nat.client = packet.source.bytes();
        nat.vip_address = packet.destination.bytes();
        nat.client_port_be = packet.ports.source_be;
        nat.vip_port_be = packet.ports.destination_be;
        nat.vip = vip.index;
        nat.vip_generation = vip.generation;
        nat.ifindex = context.ingress_ifindex() as u32;
        packet.ethernet.source.store(&mut nat.peer_mac);
        packet.ethernet.destination.store(&mut nat.own_mac);
        let now = now_ns();
        nat.life = transport.live(Life::begun(now), now, Sign::ClientFin).to_raw();
        arrival.service = vip.service;
        arrival.protocol = packet.protocol;
        arrival.family = packet.family;
        arrival.is_opening = matches!(transport.kind(), Kind::Opening);
        Some(arrival)
    }
}

#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Where on the ring the packet's flow is at home.
#[inline(always)]
fn hash(packet: &Packet<'_>, seed: [u64; 2]) -> u64 {
    let words = |address: Address| [u64::from_be(address.0), u64::from_be(address.1)];
    let (client, vip) = (words(packet.source), words(packet.destination));
    let ports = (u16::from_be(packet.ports.source_be), u16::from_be(packet.ports.destination_be));
    flow_hash(seed, packet.family, client, vip, ports, packet.protocol)
}

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Placed {
    /// [`NOBODY`] if no backend takes it.
    pub slot: u16,
    /// The flow's hash.
    pub hash: u64,
}

/// The backend of the packet's flow.
#[inline(always)]
pub fn place(
    context: &XdpContext,
    packet: &Packet<'_>,
    transport: &Transport<'_>,
    vip: &Vip,
    now: &Snapshot<'static>,
) -> Placed {
    let hash = hash(packet, now.control.hash_key);
    let mut placed = Placed { slot: NOBODY, hash };
    let mut kind = transport.kind();
    if vip.server_id_lengths != 0 {
        match quic::named(context, packet, vip) {
            quic::OPENING => kind = Kind::Opening,
            NOBODY => {}
            slot => {
                placed.slot = slot;
                return placed;
            }
        }
    }
    let position = ring::position(hash, 0);
    let Some(entry) = balance::entry(vip.service, now.half, position) else { return placed };
    let always = vip.flags & VIP_REMEMBERS != 0;
    let standing = |slot| balance::standing(vip.service, slot);
    let admits = |slot| balance::admits(vip.service, slot, hash);
    let recall = || recall(packet, transport, vip, now);
    let choice = steer::decide(entry, kind, always, standing, recall, admits);
    if choice.is_move {
        note(Reason::Moved);
    }
    placed.slot = choice.slot;
    if choice.remember
        && let Some(arrival) = Arrival::note(context, packet, transport, vip, hash)
    {
        arrival.nat.slot = choice.slot;
        arrival.home = entry.current_raw();
        placed.slot = flow_remember() as u16;
    }
    placed
}

/// What the table says of the packet's flow, which lives on by this.
#[inline(always)]
fn recall(
    packet: &Packet<'_>,
    transport: &Transport<'_>,
    vip: &Vip,
    now: &Snapshot<'static>,
) -> Memory {
    let key: Aligned<FlowKey> =
        key_of(packet.source, vip.generation, packet.ports.destination_be, packet.ports.source_be);
    let Some(flow) = FLOWS.get_ptr_mut(&key.0) else {
        count_at_vip(vip.index, |traffic| traffic.misses += 1);
        return Memory::NONE;
    };
    // SAFETY: an entry that is evicted while this reference lives may show another flow's backend
    // for this one packet. The lookup marks the entry as used, which makes it the last to go. Other
    // CPUs write `life` alone.
    let flow = unsafe { &mut *flow };
    let backend = now.backend(flow.slot);
    if backend.epoch != flow.epoch {
        return Memory::NONE;
    }
    let life = transport.live(Life::from_raw(flow.life), now_ns(), Sign::ClientFin).to_raw();
    // Mostly the same second as before: a line that is only read stays with all CPUs.
    if flow.life != life {
        flow.life = life;
    }
    Memory { slot: flow.slot, has_weight: backend.weight > 0 }
}

/// Remembers where the flow of [`ARRIVAL`] goes, and finds that out first if it can't have its home;
/// gives its slot.
///
/// A global function, as all that are dear to verify: the kernel looks at it once, by itself, and not
/// once for each way that leads to a call of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_remember() -> u64 {
    let (Some(now), Some(arrival)) = (Snapshot::take(), ARRIVAL.get_ptr_mut(0)) else {
        return NOBODY.into();
    };
    // SAFETY: as in `Arrival::note`.
    let arrival = unsafe { &mut *arrival };
    if arrival.nat.slot == NOBODY {
        balance::pick(arrival);
        if arrival.nat.slot == NOBODY {
            return NOBODY.into();
        }
        balance::mark_stray(arrival.home);
    }
    let flow = Aligned(Flow {
        epoch: now.backend(arrival.nat.slot).epoch,
        life: arrival.nat.life,
        position: ring::position(arrival.hash, 0),
        slot: arrival.nat.slot,
        home: arrival.home,
        service: arrival.service,
        protocol: arrival.protocol,
        reserved: 0,
    });
    match FLOWS.insert(&arrival.key, &flow.0, BPF_ANY.into()) {
        Ok(()) => count(arrival.nat.vip, arrival.nat.slot, |traffic| traffic.remembered += 1),
        Err(_) => note(Reason::TableFull),
    }
    arrival.nat.slot.into()
}
