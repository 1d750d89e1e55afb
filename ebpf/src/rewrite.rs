//! New addresses, ports and checksums for a packet, in place.

use steerage_common::checksum::Delta;

use crate::{
    parse::{Packet, Transport},
    route::Hop,
};

/// The addresses and ports that a packet leaves with.
#[derive(Clone, Copy)]
pub struct Endpoints {
    pub source: u32,
    pub destination: u32,
    pub source_port_be: u16,
    pub destination_port_be: u16,
}

/// Rewrites the packet for its next hop. Its time to live must be above one.
#[inline(always)]
pub fn apply(packet: &mut Packet<'_>, transport: Transport<'_>, to: &Endpoints, hop: &Hop) {
    let ip = &mut *packet.ip;
    let ports = &mut *packet.ports;
    let addresses =
        Delta::new().change32(ip.source, to.source).change32(ip.destination, to.destination);
    // The time to live is the first byte of its 16-bit word in the packet.
    let ttl = ip.ttl - 1;
    let ttl_word = |ttl: u8, protocol: u8| u16::from_ne_bytes([ttl, protocol]);
    ip.checksum = addresses
        .change16(ttl_word(ip.ttl, ip.protocol), ttl_word(ttl, ip.protocol))
        .apply(ip.checksum);
    let flow = addresses
        .change16(ports.source_be, to.source_port_be)
        .change16(ports.destination_be, to.destination_port_be);
    let sum = transport.checksum.0;
    transport.checksum.0 = if transport.is_udp { flow.apply_udp(sum) } else { flow.apply(sum) };
    ip.ttl = ttl;
    ip.source = to.source;
    ip.destination = to.destination;
    ports.source_be = to.source_port_be;
    ports.destination_be = to.destination_port_be;
    packet.ethernet.source = hop.own_mac;
    packet.ethernet.destination = hop.peer_mac;
}
