//! Direct server return by encapsulation: the client's packet goes to its backend whole, inside a
//! packet of ours, and the backend answers the client itself.
//!
//! Outer headers: IPv4 or IPv6 by the backend's address, whatever the inner packet is; plain (protocols
//! 4 and 41) or GUE variant 1 (draft-ietf-intarea-gue-09: the inner packet follows UDP directly), whose
//! UDP checksum is zero (RFC 6935 over IPv6). The outer source varies with the flow as far as it is
//! allowed to (source port, flow label, configured prefix), so that a backend's card spreads flows over
//! its queues.

use aya_ebpf::{EbpfContext as _, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use steerage_common::{
    abi::{Backend, Control, FAMILY_IPV4, Reason, VIP_GUE},
    checksum::fold,
    steer::Kind,
};

use crate::{
    flow::Placed,
    mss,
    packet::{Address, Checksum, Ethernet, Frame, Ipv4, Ipv6, Ports, Udp},
    parse::{ETHERNET_BYTES, KIND_IPV4_BE, KIND_IPV6_BE, Packet, Transport},
    rewrite,
    route::{self, Hop, Way},
};

const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6: u8 = 41;
const GUE_PORT_BE: u16 = 6080u16.to_be();
const UDP_BYTES: usize = size_of::<Ports>() + size_of::<Udp>();
const DONT_FRAGMENT_BE: u16 = 0x4000u16.to_be();
const TTL: u8 = 64;

/// What the outer headers say, found out while the inner ones can be read.
#[derive(Clone, Copy)]
struct Outer {
    source: Address,
    destination: Address,
    hash: u64,
    family: u8,
    is_gue: bool,
    inner_protocol: u8,
    class: u8,
    inner_bytes: u16,
}

impl Outer {
    #[inline(always)]
    fn bytes(&self) -> usize {
        let ip = if self.family == FAMILY_IPV4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
        if self.is_gue { ip + UDP_BYTES } else { ip }
    }
}

/// Sends the packet to its backend; `flags` are the vip's.
#[inline(always)]
pub fn send(
    context: &XdpContext,
    packet: &Packet<'_>,
    transport: &mut Transport<'_>,
    flags: u8,
    placed: &Placed,
    backend: &Backend,
    control: &Control,
) -> Result<u32, Reason> {
    let own = Address::of(&backend.source);
    let outer = Outer {
        source: spread(own, backend.family, placed.hash, control),
        destination: Address::of(&backend.address),
        hash: placed.hash,
        family: backend.family,
        is_gue: flags & VIP_GUE != 0,
        inner_protocol: if packet.family == FAMILY_IPV4 { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 },
        class: packet.class,
        inner_bytes: packet.ip_bytes as u16,
    };
    // Looked up by our own address, so that one answer serves all flows to the backend.
    let way = Way { source: own, destination: outer.destination, family: outer.family };
    let hop = route::next_hop(context, &way, packet.ip_bytes + outer.bytes())?;
    if matches!(transport.kind(), Kind::Opening) {
        mss::clamp(context, packet, transport, usize::from(hop.bytes_max) - outer.bytes());
    }
    rewrite::age(packet);
    wrap(context, &outer, &hop).ok_or(Reason::NoRoom)?;
    Ok(route::send(context, &hop))
}

/// The outer source: the host's part of a configured prefix is the flow's.
#[inline(always)]
fn spread(own: Address, family: u8, hash: u64, control: &Control) -> Address {
    if family == FAMILY_IPV4 {
        if control.tunnel_hosts_v4 == 0 {
            return own;
        }
        return Address::v4(control.tunnel_source_v4 | hash as u32 & control.tunnel_hosts_v4);
    }
    let prefix = Address::of(&control.tunnel_source_v6);
    if prefix.0 == 0 { own } else { Address(prefix.0, prefix.1 | hash.to_be() << 32) }
}

/// Puts the outer headers in front of the packet. References into it are of no use any more.
#[inline(always)]
fn wrap(context: &XdpContext, outer: &Outer, hop: &Hop) -> Option<()> {
    let bytes = outer.bytes();
    // SAFETY: the context is this run's own.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), -(bytes as i32)) } != 0 {
        return None;
    }
    let frame = Frame::of(context);
    // SAFETY: the headers do not overlap, and nothing else refers to them.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    ethernet.source = hop.own_mac;
    ethernet.destination = hop.peer_mac;
    let protocol = if outer.is_gue { PROTOCOL_UDP } else { outer.inner_protocol };
    let total = outer.inner_bytes.wrapping_add(bytes as u16);
    let after = if outer.family == FAMILY_IPV4 {
        ethernet.kind_be = KIND_IPV4_BE;
        // SAFETY: as above.
        v4(unsafe { frame.header(ETHERNET_BYTES)? }, outer, protocol, total);
        ETHERNET_BYTES + size_of::<Ipv4>()
    } else {
        ethernet.kind_be = KIND_IPV6_BE;
        // SAFETY: as above.
        v6(unsafe { frame.header(ETHERNET_BYTES)? }, outer, protocol, total);
        ETHERNET_BYTES + size_of::<Ipv6>()
    };
    if outer.is_gue {
        // SAFETY: as above.
        let (ports, udp) = unsafe {
            (frame.header::<Ports>(after)?, frame.header::<Udp>(after + size_of::<Ports>())?)
        };
        // Of the dynamic range (RFC 6335).
        ports.source_be = (outer.hash as u16 | 0xc000).to_be();
        ports.destination_be = GUE_PORT_BE;
        udp.length_be = outer.inner_bytes.wrapping_add(UDP_BYTES as u16).to_be();
        udp.checksum = Checksum(0);
    }
    Some(())
}

#[inline(always)]
fn v4(ip: &mut Ipv4, outer: &Outer, protocol: u8, total: u16) {
    let (source, destination) = (outer.source.to_v4(), outer.destination.to_v4());
    ip.version_and_length = 0x45;
    ip.service = outer.class;
    ip.total_length_be = total.to_be();
    ip.identification = 0;
    ip.fragment_be = DONT_FRAGMENT_BE;
    ip.ttl = TTL;
    ip.protocol = protocol;
    ip.source = source;
    ip.destination = destination;
    let word = |a: u8, b: u8| u64::from(u16::from_ne_bytes([a, b]));
    ip.checksum = !fold(
        word(0x45, outer.class)
            + u64::from(total.to_be())
            + u64::from(DONT_FRAGMENT_BE)
            + word(TTL, protocol)
            + u64::from(source)
            + u64::from(destination),
    );
}

#[inline(always)]
fn v6(ip: &mut Ipv6, outer: &Outer, protocol: u8, total: u16) {
    let label = (outer.hash >> 40) as u32 & 0xf_ffff;
    let first = 6 << 28 | u32::from(outer.class) << 20 | label;
    ip.set_first(first);
    ip.payload_length_be = (total - size_of::<Ipv6>() as u16).to_be();
    ip.next = protocol;
    ip.hops = TTL;
    ip.source = outer.source;
    ip.destination = outer.destination;
}
