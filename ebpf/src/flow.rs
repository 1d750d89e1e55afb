//! The flow table: which backend a client's flow went to, and under which source port.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_ANY, programs::XdpContext};
use steerage_common::{
    abi::{Backend, Flow, FlowKey, Reason, Vip},
    hash::sip13,
};

use crate::{
    balance::{self, NOBODY, Snapshot},
    maps::{ARRIVAL, FLOWS},
    nat,
    packet::{Aligned, key_of, widened},
    parse::Packet,
    verdict::{count, note},
};

/// A client's packet to a vip, for the part of the work that only the first packet of a flow needs.
///
/// It lies in a map and not on the stack, for the stack's sake and for the verifier's: what is read
/// back from a map is any number to it, not one of the thousands that it saw written.
#[repr(C, align(8))]
pub struct Arrival {
    pub hash: u64,
    pub key: FlowKey,
    pub vip_address: u32,
    pub ifindex: u32,
    pub peer_mac: [u8; 6],
    pub own_mac: [u8; 6],
    pub vip_port_be: u16,
    pub service: u16,
    /// The backend that is to have the flow.
    pub slot: u16,
    pub protocol: u8,
}

const _: () =
    assert!(offset_of!(Arrival, peer_mac) % 2 == 0 && offset_of!(Arrival, own_mac) % 2 == 0);

impl Arrival {
    #[inline(always)]
    fn note(
        &mut self,
        context: &XdpContext,
        packet: &Packet<'_>,
        vip: &Vip,
        key: &FlowKey,
        seed: [u64; 2],
    ) {
        self.hash = hash(packet, seed);
        self.key.client = widened(packet.ip.source);
        self.key.vip_generation = key.vip_generation;
        self.key.vip = key.vip;
        self.key.client_port_be = key.client_port_be;
        self.vip_address = packet.ip.destination;
        self.ifindex = context.ingress_ifindex() as u32;
        packet.ethernet.source.store(&mut self.peer_mac);
        packet.ethernet.destination.store(&mut self.own_mac);
        self.vip_port_be = packet.ports.destination_be;
        self.service = vip.service;
        self.protocol = packet.ip.protocol;
    }
}

/// Where on the ring the packet's flow is at home.
#[inline(always)]
fn hash(packet: &Packet<'_>, seed: [u64; 2]) -> u64 {
    let (client, vip) = (u32::from_be(packet.ip.source), u32::from_be(packet.ip.destination));
    let client_port = u16::from_be(packet.ports.source_be);
    let vip_port = u16::from_be(packet.ports.destination_be);
    let ports =
        u64::from(client_port) << 32 | u64::from(vip_port) << 16 | u64::from(packet.ip.protocol);
    sip13(seed, &[u64::from(client) << 32 | u64::from(vip), ports])
}

/// Where a flow's packets go.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    pub backend: &'a Backend,
    pub slot: u16,
    pub source_port_be: u16,
}

/// The backend of the packet's flow; a flow that has none yet, or whose backend is gone, is begun.
#[inline(always)]
pub fn place(
    context: &XdpContext,
    packet: &Packet<'_>,
    vip: &Vip,
    is_opening: bool,
    now: &Snapshot<'static>,
) -> Result<Placed<'static>, Reason> {
    let key: Aligned<FlowKey> =
        key_of(packet.ip.source, vip.generation, vip.index, packet.ports.source_be);
    let mut keep = NOBODY;
    // SAFETY: an entry that is evicted while this reference lives may show another flow's backend
    // for this one packet. The lookup marks the entry as used, which makes it the last to go.
    if let Some(flow) = unsafe { FLOWS.get(&key.0) } {
        let Flow { epoch, slot, source_port_be } = *flow;
        let backend = now.backend(slot);
        if backend.epoch == epoch && balance::may_stay(vip.service, slot, backend, is_opening) {
            let placed = Placed { backend, slot, source_port_be };
            if nat::is_whose(packet, &key.0, &placed) {
                return Ok(placed);
            }
            keep = slot;
        } else if balance::is_gone(slot) {
            note(Reason::Moved);
        }
    }
    let arrival = ARRIVAL.get_ptr_mut(0).ok_or(Reason::NoBackend)?;
    // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
    let arrival = unsafe { &mut *arrival };
    arrival.note(context, packet, vip, &key.0, now.control.hash_key);
    arrival.slot = keep;
    if keep == NOBODY {
        balance::pick(arrival);
    }
    let mut outcome = begin(arrival);
    if let Err(Reason::NoPort) = outcome {
        outcome = succeed(arrival);
    }
    let source_port_be = outcome?;
    Ok(Placed { backend: now.backend(arrival.slot), slot: arrival.slot, source_port_be })
}

/// Gives the flow a source port towards its backend, and remembers both.
#[inline(never)]
fn begin(arrival: &Arrival) -> Result<u16, Reason> {
    let now = Snapshot::take().ok_or(Reason::NoBackend)?;
    if arrival.slot == NOBODY {
        return Err(Reason::NoBackend);
    }
    let backend = now.backend(arrival.slot);
    let source_port_be = nat::allocate(arrival, backend, now.control)?;
    remember(arrival, backend.epoch, source_port_be)
}

/// As [`begin`], for a flow that finds no free port. Apart from it for the sake of the stack.
#[inline(never)]
fn succeed(arrival: &Arrival) -> Result<u16, Reason> {
    let now = Snapshot::take().ok_or(Reason::NoBackend)?;
    let backend = now.backend(arrival.slot);
    let source_port_be = nat::inherit(arrival, backend, now.control)?;
    remember(arrival, backend.epoch, source_port_be)
}

#[inline(always)]
fn remember(arrival: &Arrival, epoch: u32, source_port_be: u16) -> Result<u16, Reason> {
    let flow = Aligned(Flow { epoch, slot: arrival.slot, source_port_be });
    FLOWS.insert(&arrival.key, &flow.0, BPF_ANY.into()).map_err(|_| Reason::TableFull)?;
    count(arrival.key.vip, arrival.slot, |traffic| traffic.flows += 1);
    Ok(source_port_be)
}

/// Forgets a flow whose source port passes to another one.
#[inline(always)]
pub fn forget(key: &Aligned<FlowKey>, slot: u16, source_port_be: u16) {
    // SAFETY: read at once; see `place`.
    let is_same = unsafe { FLOWS.get(&key.0) }
        .is_some_and(|flow| flow.slot == slot && flow.source_port_be == source_port_be);
    if is_same {
        // It may have been evicted meanwhile, which is as good.
        let _ = FLOWS.remove(&key.0);
    }
}
