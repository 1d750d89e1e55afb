//! What becomes of a packet, and the counters that say so.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use steerage_common::{
    abi::{Backend, MODE_NAT, MODE_TUNNEL, Nat, Reason, Traffic, VIP_PASSES, Vip},
    steer::{Kind, NOBODY},
};

use crate::{
    balance::Snapshot,
    flow::{self, Placed},
    fragment, guard,
    icmp::refusal,
    maps::{BACKEND_COUNTERS, REASON_COUNTERS, VIP_COUNTERS},
    nat,
    packet::{Address, Frame, Mac},
    parse::{Packet, Transport},
    rest,
    rewrite::{self, Endpoints},
    route::{self, Hop, Way},
    tunnel, vip,
};

/// The verdict on the packet in `context`: sent on, dropped with a reason, or passed untouched.
#[inline(always)]
pub fn of(context: &XdpContext) -> u32 {
    let Some(packet) = Packet::of(Frame::of(context)) else { return rest::call(context, XDP_PASS) };
    let Some(now) = Snapshot::take() else { return XDP_PASS };
    // Replies first: their ports are told by a comparison, vips only by a lookup.
    if nat::owns_port(now.control, u16::from_be(packet.ports.destination_be))
        && let Some(entry) = nat::of_reply(&packet)
        && is_reply(&packet, entry, &now)
    {
        let sent = reply(context, packet, entry);
        return sent.unwrap_or_else(|reason| refused(context, reason));
    }
    let Some(vip) = vip::of(&packet) else {
        if packet.is_fragment {
            fragment::remember_foreign(context);
        }
        return XDP_PASS;
    };
    forward(context, packet, vip, &now).unwrap_or_else(|reason| refused(context, reason))
}

/// Sends a client's packet to its backend.
#[inline(always)]
fn forward(
    context: &XdpContext,
    mut packet: Packet<'_>,
    vip: &Vip,
    now: &Snapshot<'static>,
) -> Result<u32, Reason> {
    let mut transport = packet.transport().map_err(|_| Reason::Malformed)?;
    if vip.guard != 0
        && let Some(action) = guard::check(context, &packet, &transport, vip)
    {
        if packet.is_fragment && action == XDP_PASS {
            fragment::remember_foreign(context);
        }
        return Ok(action);
    }
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let placed = flow::place(context, &packet, &transport, vip, now);
    if placed.slot == NOBODY {
        if vip.flags & VIP_PASSES == 0 {
            return Err(Reason::NoBackend);
        }
        note(Reason::NoBackend);
        return Ok(XDP_PASS);
    }
    if packet.is_fragment {
        fragment::remember(context, vip, &placed);
    }
    let backend = now.backend(placed.slot);
    let bytes = packet.bytes() as u64;
    let flows = u64::from(vip.mode != MODE_NAT && matches!(transport.kind(), Kind::Opening));
    let action = match vip.mode {
        MODE_NAT => translate(context, packet, transport, vip, &placed, now)?,
        MODE_TUNNEL => tunnel::send(
            context,
            &packet,
            &mut transport,
            vip.flags,
            &placed,
            backend,
            now.control,
        )?,
        _ => pass_on(context, &mut packet, backend)?,
    };
    count(vip.index, placed.slot, |traffic| {
        traffic.in_packets += 1;
        traffic.in_bytes += bytes;
        traffic.flows += flows;
    });
    Ok(action)
}

/// Mode `nat`: the packet goes on with other addresses and ports.
#[inline(always)]
fn translate(
    context: &XdpContext,
    mut packet: Packet<'_>,
    transport: Transport<'_>,
    vip: &Vip,
    placed: &Placed,
    now: &Snapshot<'static>,
) -> Result<u32, Reason> {
    let backend = now.backend(placed.slot);
    let port_be = nat::backend_port(vip, backend, packet.ports.destination_be);
    let source_port_be = nat::port_of(context, &packet, &transport, vip, placed, port_be, now);
    if source_port_be == 0 {
        return Err(Reason::NoPort);
    }
    let to = Endpoints {
        source: Address::of(&backend.source),
        destination: Address::of(&backend.address),
        source_port_be,
        destination_port_be: port_be,
    };
    let hop = route::next_hop(context, &to.way(packet.family), packet.ip_bytes)?;
    rewrite::apply(&mut packet, transport, &to, &hop);
    Ok(route::send(context, &hop))
}

/// Mode `l2`: the packet goes on as it is to the backend's link address.
#[inline(always)]
pub fn pass_on(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    backend: &Backend,
) -> Result<u32, Reason> {
    let way = Way {
        source: Address::of(&backend.source),
        destination: Address::of(&backend.address),
        family: backend.family,
    };
    let hop = route::next_hop(context, &way, packet.ip_bytes)?;
    if !hop.is_destination {
        return Err(Reason::NotOnLink);
    }
    rewrite::age(packet);
    packet.ethernet.source = hop.own_mac;
    packet.ethernet.destination = hop.peer_mac;
    Ok(route::send(context, &hop))
}

/// Whether the packet is for the address that `nat` used, from the backend that it used it towards.
/// A port alone does not tell: the host may route the same backend's other traffic.
#[inline(always)]
pub fn is_reply(packet: &Packet<'_>, entry: &Nat, now: &Snapshot<'static>) -> bool {
    let backend = now.backend(entry.slot);
    backend.family == packet.family
        && Address::of(&backend.address) == packet.source
        && Address::of(&backend.source) == packet.destination
        // A vip of all ports leaves the port as it is.
        && (backend.port_be == packet.ports.source_be
            || entry.vip_port_be == packet.ports.source_be)
}

/// Sends a backend's packet to the client.
#[inline(always)]
fn reply(context: &XdpContext, mut packet: Packet<'_>, entry: &mut Nat) -> Result<u32, Reason> {
    let transport = packet.transport().map_err(|_| Reason::Malformed)?;
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    nat::live_by_reply(entry, &transport);
    if packet.is_fragment {
        fragment::remember_reply(context);
    }
    let to = Endpoints::to_client(entry);
    let hop = hop_back(context, entry, &to.way(packet.family), packet.ip_bytes)?;
    rewrite::apply(&mut packet, transport, &to, &hop);
    let bytes = packet.bytes() as u64;
    count_out(entry.vip, entry.slot, bytes);
    Ok(route::send(context, &hop))
}

/// The next hop to a client.
#[inline(always)]
pub fn hop_back(context: &XdpContext, entry: &Nat, way: &Way, bytes: usize) -> Result<Hop, Reason> {
    match route::next_hop(context, way, bytes) {
        // Back the way the client's packets came.
        Err(Reason::NoNeighbor) => {
            let (own_mac, peer_mac) = (Mac::of(&entry.own_mac), Mac::of(&entry.peer_mac));
            let (bytes_max, is_destination) = (0, false);
            Ok(Hop { ifindex: entry.ifindex, own_mac, peer_mac, bytes_max, is_destination })
        }
        other => other,
    }
}

/// Adds to the counters of a vip and a backend.
#[inline(always)]
pub fn count(vip: u16, slot: u16, add: impl Fn(&mut Traffic)) {
    count_at_vip(vip, &add);
    if let Some(traffic) = BACKEND_COUNTERS.get_ptr_mut(slot.into()) {
        // SAFETY: as above.
        add(unsafe { &mut *traffic });
    }
}

/// Counts a packet that went to a client.
#[inline(always)]
pub fn count_out(vip: u16, slot: u16, bytes: u64) {
    count(vip, slot, |traffic| {
        traffic.out_packets += 1;
        traffic.out_bytes += bytes;
    });
}

/// Adds to the counters of a vip alone.
#[inline(always)]
pub fn count_at_vip(vip: u16, add: impl Fn(&mut Traffic)) {
    if let Some(traffic) = VIP_COUNTERS.get_ptr_mut(vip.into()) {
        // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
        add(unsafe { &mut *traffic });
    }
}

/// Counts what became of a packet.
#[inline(always)]
pub fn note(reason: Reason) {
    note_index(reason as u32);
}

/// [`note`], of a reason that is known by its index.
#[inline(always)]
pub fn note_index(reason: u32) {
    if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own line.
        unsafe { *counter += 1 };
    }
}

/// Drops a packet, and tells its sender why if that is worth an error.
#[inline(always)]
fn refused(context: &XdpContext, reason: Reason) -> u32 {
    note(reason);
    match reason {
        Reason::TooBig | Reason::TtlExpired => {
            refusal::order(reason);
            rest::call(context, XDP_DROP)
        }
        _ => XDP_DROP,
    }
}
