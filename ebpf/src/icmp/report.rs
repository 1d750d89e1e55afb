//! Errors from the network about a flow of ours: sent on to whoever sent the packet that they quote.
//!
//! The quoted packet's addresses and ports, turned round, are those of a packet of the flow, so that
//! its backend is found as that packet's would be. Towards a vip, an error is about what a backend sent
//! to a client, and goes to that backend; towards an address that `nat` uses, it is about what a client
//! sent, and goes to that client from the vip. Where `nat` changes addresses it changes those of the
//! quoted packet as well, so that the receiver finds its own flow in it. Eight quoted bytes behind the
//! IP headers do.

use aya_ebpf::{bindings::xdp_action::XDP_PASS, programs::XdpContext};
use steerage_common::{
    abi::{FAMILY_IPV4, MODE_LOCAL, MODE_NAT, Nat, PROTOCOL_TCP, Reason, Vip},
    checksum::Delta,
    steer::NOBODY,
};

use super::Message;
use crate::{
    balance::Snapshot,
    flow::{self, Arrival, Placed},
    nat,
    packet::{Address, Checksum, Fragment, Frame, Header, Icmp, Ipv4, Ipv6, Ports, Tcp, Udp},
    parse::{NEXT_FRAGMENT, OFFSET_V4_BE, OFFSET_V6_BE, Packet, Transport, has_ports},
    rest,
    rewrite::{self, Endpoints},
    route::{self, Hop},
    verdict::{count, count_out, hop_back, is_reply, note},
    vip,
};

/// The eight bytes that every error quotes: all of UDP's header.
///
/// One header and not two: the kernel knows that bytes are there by the pointer that was compared.
#[repr(C, packed)]
struct Datagram {
    ports: Ports,
    udp: Udp,
}

/// All of TCP's header but its options.
#[repr(C, packed)]
struct Segment {
    ports: Ports,
    tcp: Tcp,
}

// SAFETY: packed structs of integers.
unsafe impl Header for Datagram {}
// SAFETY: as above.
unsafe impl Header for Segment {}

/// The packet that an error is about, as far as it is quoted.
struct Quoted {
    source: Address,
    destination: Address,
    protocol: u8,
    source_port_be: u16,
    destination_port_be: u16,
    /// Where its IP header lies in the frame.
    at: usize,
    /// Where its ports lie in the frame.
    ports_at: usize,
}

impl Quoted {
    #[inline(always)]
    fn of(message: &Message<'_>) -> Option<Self> {
        let at = message.at + size_of::<Icmp>();
        let frame = &message.frame;
        let (source, destination, protocol, ports_at) =
            if message.is_v4() { Self::v4(frame, at)? } else { Self::v6(frame, at)? };
        // SAFETY: no other reference to these bytes is used while it lives.
        let Datagram { ports, .. } = unsafe { frame.header(ports_at)? };
        Some(Self {
            source,
            destination,
            protocol,
            source_port_be: ports.source_be,
            destination_port_be: ports.destination_be,
            at,
            ports_at,
        })
    }

    #[inline(always)]
    fn v4(frame: &Frame, at: usize) -> Option<(Address, Address, u8, usize)> {
        // SAFETY: as in `of`.
        let ip = unsafe { frame.header::<Ipv4>(at)? };
        let header_bytes = usize::from(ip.version_and_length & 0xf) * 4;
        let is_v4 = ip.version_and_length >> 4 == 4 && header_bytes >= size_of::<Ipv4>();
        let is_first = ip.fragment_be & OFFSET_V4_BE == 0;
        if !is_v4 || !is_first || !has_ports(ip.protocol) {
            return None;
        }
        let (source, destination) = (Address::v4(ip.source), Address::v4(ip.destination));
        Some((source, destination, ip.protocol, at + header_bytes))
    }

    #[inline(always)]
    fn v6(frame: &Frame, at: usize) -> Option<(Address, Address, u8, usize)> {
        // SAFETY: as in `of`.
        let ip = unsafe { frame.header::<Ipv6>(at)? };
        let (source, destination) = (ip.source, ip.destination);
        let (mut protocol, mut ports_at) = (ip.next, at + size_of::<Ipv6>());
        if protocol == NEXT_FRAGMENT {
            // SAFETY: as in `of`.
            let fragment = unsafe { frame.header::<Fragment>(ports_at)? };
            if fragment.offset_be & OFFSET_V6_BE != 0 {
                return None;
            }
            (protocol, ports_at) = (fragment.next, ports_at + size_of::<Fragment>());
        }
        let is_v6 = ip.version_and_class >> 4 == 6 && has_ports(protocol);
        is_v6.then_some((source, destination, protocol, ports_at))
    }
}

/// Sends an error on if it is about a flow of ours; others pass.
#[inline(always)]
pub fn follow(context: &XdpContext, message: Message<'_>) -> Result<u32, Reason> {
    let (Some(quoted), Some(now)) = (Quoted::of(&message), Snapshot::take()) else {
        return Ok(XDP_PASS);
    };
    // Errors go to whoever sent the packet.
    if message.destination != quoted.source {
        return Ok(XDP_PASS);
    }
    let Message { ethernet, icmp, family, ttl, class, ip_bytes, frame, .. } = message;
    let mut ports =
        Ports { source_be: quoted.destination_port_be, destination_be: quoted.source_port_be };
    let mut packet = Packet {
        ethernet,
        ports: &mut ports,
        source: quoted.destination,
        destination: quoted.source,
        family,
        protocol: quoted.protocol,
        ttl,
        class,
        ip_bytes,
        frame,
        header_bytes: 0,
        is_fragment: false,
    };
    if nat::owns_port(now.control, u16::from_be(quoted.source_port_be))
        && let Some(entry) = nat::of_reply(&packet)
        && is_reply(&packet, entry, &now)
    {
        return to_client(context, &mut packet, icmp, &quoted, entry);
    }
    match vip::of(&packet) {
        Some(vip) if vip.mode == MODE_LOCAL => Ok(XDP_PASS),
        Some(vip) => to_backend(context, &mut packet, icmp, &quoted, vip, &now),
        None => Ok(XDP_PASS),
    }
}

#[inline(always)]
fn to_backend(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    icmp: &mut Icmp,
    quoted: &Quoted,
    vip: &Vip,
    now: &Snapshot<'static>,
) -> Result<u32, Reason> {
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let mut none = Checksum(0);
    let transport = Transport::of_begun_flow(packet.protocol, &mut none);
    // What a backend sent does not name it: QUIC's connection ids are their receiver's.
    let vip = &Vip { server_id_lengths: 0, ..*vip };
    let placed = flow::place(context, packet, &transport, vip, now);
    if placed.slot == NOBODY {
        return Err(Reason::NoBackend);
    }
    let bytes = packet.bytes() as u64;
    let action = if vip.mode == MODE_NAT {
        let to = known_endpoints(context, packet, &transport, vip, &placed, now)?;
        let hop = route::next_hop(context, &to.way(packet.family), packet.ip_bytes)?;
        rewrite(packet, icmp, quoted, &to, &hop);
        route::send(context, &hop)
    } else {
        rest::carry(context, packet, vip.mode, vip.flags, &placed, now)?
    };
    count(vip.index, placed.slot, |traffic| {
        traffic.in_packets += 1;
        traffic.in_bytes += bytes;
    });
    note(Reason::ErrorForwarded);
    Ok(action)
}

/// The addresses and ports that the flow's packets leave with, if `nat` knows the flow.
#[inline(always)]
fn known_endpoints(
    context: &XdpContext,
    packet: &Packet<'_>,
    transport: &Transport<'_>,
    vip: &Vip,
    placed: &Placed,
    now: &Snapshot<'static>,
) -> Result<Endpoints, Reason> {
    let backend = now.backend(placed.slot);
    let port_be = nat::backend_port(vip, backend, packet.ports.destination_be);
    let arrival = Arrival::note(context, packet, transport, vip, placed.hash);
    let arrival = arrival.ok_or(Reason::UnknownFlow)?;
    arrival.nat.slot = placed.slot;
    arrival.backend_port_be = port_be;
    let source_port_be = nat::nat_known() as u16;
    if source_port_be == 0 {
        return Err(Reason::UnknownFlow);
    }
    Ok(Endpoints {
        source: Address::of(&backend.source),
        destination: Address::of(&backend.address),
        source_port_be,
        destination_port_be: port_be,
    })
}

#[inline(always)]
fn to_client(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    icmp: &mut Icmp,
    quoted: &Quoted,
    entry: &Nat,
) -> Result<u32, Reason> {
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let to = Endpoints::to_client(entry);
    let hop = hop_back(context, entry, &to.way(packet.family), packet.ip_bytes)?;
    let bytes = packet.bytes() as u64;
    rewrite(packet, icmp, quoted, &to, &hop);
    count_out(entry.vip, entry.slot, bytes);
    note(Reason::ErrorForwarded);
    Ok(route::send(context, &hop))
}

/// Gives an error new addresses, and the packet that it quotes the same ones turned round.
#[inline(always)]
fn rewrite(
    packet: &mut Packet<'_>,
    icmp: &mut Icmp,
    quoted: &Quoted,
    to: &Endpoints,
    hop: &Hop,
) -> Option<()> {
    let outer = rewrite::readdress(packet.frame, packet.family, to)?;
    let flow = Delta::new()
        .change16(quoted.source_port_be, to.destination_port_be)
        .change16(quoted.destination_port_be, to.source_port_be);
    let (flow, message) = if packet.family == FAMILY_IPV4 {
        // SAFETY: headers of different bytes; nothing else refers to them.
        let ip = unsafe { packet.frame.header::<Ipv4>(quoted.at)? };
        let (source, destination) = (to.destination.to_v4(), to.source.to_v4());
        let flow = flow.change32(ip.source, source).change32(ip.destination, destination);
        let checksum = Delta::new()
            .change32(ip.source, source)
            .change32(ip.destination, destination)
            .apply(ip.checksum);
        let message = flow.change16(ip.checksum, checksum);
        (ip.source, ip.destination, ip.checksum) = (source, destination, checksum);
        (flow, message)
    } else {
        // SAFETY: as above.
        let ip = unsafe { packet.frame.header::<Ipv6>(quoted.at)? };
        let flow = flow
            .change64(ip.source.0, to.destination.0)
            .change64(ip.source.1, to.destination.1)
            .change64(ip.destination.0, to.source.0)
            .change64(ip.destination.1, to.source.1);
        (ip.source, ip.destination) = (to.destination, to.source);
        // The message's checksum is over the outer addresses too.
        (flow, flow.and(outer))
    };
    let message = new_ports(packet, quoted, to, flow, message)?;
    icmp.checksum.0 = message.apply(icmp.checksum.0);
    packet.ethernet.source = hop.own_mac;
    packet.ethernet.destination = hop.peer_mac;
    Some(())
}

/// New ports in the quoted packet, and a new checksum if that is quoted; gives what both mean for the
/// message's checksum.
#[inline(always)]
fn new_ports(
    packet: &Packet<'_>,
    quoted: &Quoted,
    to: &Endpoints,
    flow: Delta,
    message: Delta,
) -> Option<Delta> {
    let (source_be, destination_be) = (to.destination_port_be, to.source_port_be);
    // What lies behind the packet's end is no part of it.
    if quoted.protocol == PROTOCOL_TCP && quoted.ports_at + size_of::<Segment>() <= packet.end() {
        // SAFETY: nothing else refers to it.
        let Segment { ports, tcp } = unsafe { packet.frame.header(quoted.ports_at)? };
        *ports = Ports { source_be, destination_be };
        let before = tcp.checksum.0;
        tcp.checksum.0 = flow.apply(before);
        return Some(message.change16(before, tcp.checksum.0));
    }
    // SAFETY: as above.
    let Datagram { ports, udp } = unsafe { packet.frame.header(quoted.ports_at)? };
    *ports = Ports { source_be, destination_be };
    if quoted.protocol == PROTOCOL_TCP {
        return Some(message);
    }
    let before = udp.checksum.0;
    udp.checksum.0 = flow.apply_udp(before);
    Some(message.change16(before, udp.checksum.0))
}
