//! What becomes of a packet, and the counters that say so.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use steerage_common::abi::{FAMILY_IPV4, Nat, Reason, Traffic, Vip, VipKey};

use crate::{
    balance::{Snapshot, is_ipv4},
    flow,
    maps::{BACKEND_COUNTERS, REASON_COUNTERS, VIP_COUNTERS, VIPS},
    nat,
    packet::{Aligned, Frame, Mac, halves, key_of, narrowed},
    parse::Packet,
    rewrite::{self, Endpoints},
    route::{self, Hop},
};

/// The verdict on the packet in `context`: sent on, dropped with a reason, or passed untouched.
#[inline(always)]
pub fn of(context: &XdpContext) -> u32 {
    let Some(packet) = Packet::of(Frame::of(context)) else { return XDP_PASS };
    let Some(now) = Snapshot::take() else { return XDP_PASS };
    // Replies first: their ports are told by a comparison, vips only by a lookup.
    if nat::owns_port(now.control, u16::from_be(packet.ports.destination_be))
        && let Some(entry) = nat::of_reply(&packet)
        && is_reply(&packet, entry, &now)
    {
        return reply(context, packet, entry).unwrap_or_else(dropped);
    }
    let Some(vip) = vip_of(&packet) else { return XDP_PASS };
    forward(context, packet, vip, &now).unwrap_or_else(dropped)
}

#[inline(always)]
fn vip_of(packet: &Packet<'_>) -> Option<&'static Vip> {
    let kind = u16::from_ne_bytes([packet.ip.protocol, FAMILY_IPV4]);
    let tail = halves(packet.ports.destination_be, kind);
    let key: Aligned<VipKey> = key_of(packet.ip.destination, tail, 0, 0);
    // SAFETY: the supervisor replaces values whole; a removed one stays readable for this run.
    unsafe { VIPS.get(&key.0) }
}

/// Sends a client's packet to its backend.
#[inline(always)]
fn forward(
    context: &XdpContext,
    mut packet: Packet<'_>,
    vip: &Vip,
    now: &Snapshot<'static>,
) -> Result<u32, Reason> {
    let transport = packet.transport().map_err(|_| Reason::Malformed)?;
    if packet.ip.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let placed = flow::place(context, &packet, vip, transport.is_opening(), now)?;
    nat::live_by_client(&packet, &placed, &transport);
    let to = Endpoints {
        source: narrowed(&placed.backend.source),
        destination: narrowed(&placed.backend.address),
        source_port_be: placed.source_port_be,
        destination_port_be: placed.backend.port_be,
    };
    let hop = route::next_hop(context, &packet, &to)?;
    rewrite::apply(&mut packet, transport, &to, &hop);
    let bytes = packet.bytes() as u64;
    count(vip.index, placed.slot, |traffic| {
        traffic.in_packets += 1;
        traffic.in_bytes += bytes;
    });
    Ok(route::send(context, &hop))
}

/// Whether the packet is for the address that `nat` used, from the backend that it used it towards.
/// A port alone does not tell: the host may route the same backend's other traffic.
#[inline(always)]
fn is_reply(packet: &Packet<'_>, entry: &Nat, now: &Snapshot<'static>) -> bool {
    let backend = now.backend(entry.slot);
    is_ipv4(backend)
        && narrowed(&backend.address) == packet.ip.source
        && narrowed(&backend.source) == packet.ip.destination
        && backend.port_be == packet.ports.source_be
}

/// Sends a backend's packet to the client.
#[inline(always)]
fn reply(context: &XdpContext, mut packet: Packet<'_>, entry: &mut Nat) -> Result<u32, Reason> {
    let transport = packet.transport().map_err(|_| Reason::Malformed)?;
    if packet.ip.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    nat::live_by_reply(entry, &transport);
    let to = Endpoints {
        source: narrowed(&entry.vip_address),
        destination: narrowed(&entry.client),
        source_port_be: entry.vip_port_be,
        destination_port_be: entry.client_port_be,
    };
    let hop = match route::next_hop(context, &packet, &to) {
        // Back the way the client's packets came.
        Err(Reason::NoNeighbor) => {
            let (own_mac, peer_mac) = (Mac::of(&entry.own_mac), Mac::of(&entry.peer_mac));
            Hop { ifindex: entry.ifindex, own_mac, peer_mac }
        }
        other => other?,
    };
    rewrite::apply(&mut packet, transport, &to, &hop);
    let bytes = packet.bytes() as u64;
    count(entry.vip, entry.slot, |traffic| {
        traffic.out_packets += 1;
        traffic.out_bytes += bytes;
    });
    Ok(route::send(context, &hop))
}

/// Adds to the counters of a vip and a backend.
#[inline(always)]
pub fn count(vip: u16, slot: u16, add: impl Fn(&mut Traffic)) {
    if let Some(traffic) = VIP_COUNTERS.get_ptr_mut(vip.into()) {
        // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
        add(unsafe { &mut *traffic });
    }
    if let Some(traffic) = BACKEND_COUNTERS.get_ptr_mut(slot.into()) {
        // SAFETY: as above.
        add(unsafe { &mut *traffic });
    }
}

/// Counts what became of a packet.
#[inline(always)]
pub fn note(reason: Reason) {
    if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own line.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn dropped(reason: Reason) -> u32 {
    note(reason);
    XDP_DROP
}
