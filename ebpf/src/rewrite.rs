//! New addresses, ports and checksums for a packet, in place.

use steerage_common::{
    abi::{FAMILY_IPV4, Nat},
    checksum::Delta,
};

use crate::{
    packet::{Address, Frame, Ipv4, Ipv6},
    parse::{Packet, Transport},
    route::{Hop, Way},
};

/// The addresses and ports that a packet leaves with.
#[derive(Clone, Copy)]
pub struct Endpoints {
    pub source: Address,
    pub destination: Address,
    pub source_port_be: u16,
    pub destination_port_be: u16,
}

impl Endpoints {
    /// Those of a packet from the vip to the client of a flow of `nat`.
    #[inline(always)]
    pub fn to_client(entry: &Nat) -> Self {
        Self {
            source: Address::of(&entry.vip_address),
            destination: Address::of(&entry.client),
            source_port_be: entry.vip_port_be,
            destination_port_be: entry.client_port_be,
        }
    }

    /// The way of the packet, for routing.
    #[inline(always)]
    pub fn way(&self, family: u8) -> Way {
        Way { source: self.source, destination: self.destination, family }
    }
}

/// Rewrites the packet for its next hop, which is of the packet's own family. Its time to live must be
/// above one.
#[inline(always)]
pub fn apply(packet: &mut Packet<'_>, transport: Transport<'_>, to: &Endpoints, hop: &Hop) {
    let ports = &mut *packet.ports;
    let Some(addresses) = readdress(packet.frame, packet.family, to) else { return };
    let flow = addresses
        .change16(ports.source_be, to.source_port_be)
        .change16(ports.destination_be, to.destination_port_be);
    let sum = transport.checksum.0;
    transport.checksum.0 = if transport.is_udp { flow.apply_udp(sum) } else { flow.apply(sum) };
    ports.source_be = to.source_port_be;
    ports.destination_be = to.destination_port_be;
    packet.ethernet.source = hop.own_mac;
    packet.ethernet.destination = hop.peer_mac;
}

/// New addresses in the IP header alone, and a time to live of one less; gives what that means for a
/// checksum over them.
#[inline(always)]
pub fn readdress(frame: Frame, family: u8, to: &Endpoints) -> Option<Delta> {
    match family {
        FAMILY_IPV4 => v4(frame.network::<Ipv4>(), to),
        _ => v6(frame.network::<Ipv6>(), to),
    }
}

/// New addresses in an IPv4 header; gives what that means for a checksum over them.
#[inline(always)]
fn v4(ip: Option<&mut Ipv4>, to: &Endpoints) -> Option<Delta> {
    let ip = ip?;
    let (source, destination) = (to.source.to_v4(), to.destination.to_v4());
    let delta = Delta::new().change32(ip.source, source).change32(ip.destination, destination);
    // The time to live is the first byte of its 16-bit word in the packet.
    let ttl = ip.ttl - 1;
    let ttl_word = |ttl: u8, protocol: u8| u16::from_ne_bytes([ttl, protocol]);
    ip.checksum = delta
        .change16(ttl_word(ip.ttl, ip.protocol), ttl_word(ttl, ip.protocol))
        .apply(ip.checksum);
    ip.ttl = ttl;
    ip.source = source;
    ip.destination = destination;
    Some(delta)
}

/// As [`v4`], for IPv6.
#[inline(always)]
fn v6(ip: Option<&mut Ipv6>, to: &Endpoints) -> Option<Delta> {
    let ip = ip?;
    let delta = Delta::new()
        .change64(ip.source.0, to.source.0)
        .change64(ip.source.1, to.source.1)
        .change64(ip.destination.0, to.destination.0)
        .change64(ip.destination.1, to.destination.1);
    ip.hops -= 1;
    ip.source = to.source;
    ip.destination = to.destination;
    Some(delta)
}

/// Takes one off the packet's time to live, which must be above one, and leaves the rest.
#[inline(always)]
pub fn age(packet: &Packet<'_>) {
    if packet.family == FAMILY_IPV4 {
        let Some(ip) = packet.frame.network::<Ipv4>() else { return };
        let word = |ttl: u8, protocol: u8| u16::from_ne_bytes([ttl, protocol]);
        let (from, to) = (word(ip.ttl, ip.protocol), word(ip.ttl - 1, ip.protocol));
        ip.checksum = Delta::new().change16(from, to).apply(ip.checksum);
        ip.ttl -= 1;
    } else {
        let Some(ip) = packet.frame.network::<Ipv6>() else { return };
        ip.hops -= 1;
    }
}
