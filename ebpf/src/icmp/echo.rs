//! Echo: a vip answers as a host would.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use steerage_common::{
    abi::{Reason, SERVES_TCP, SERVES_UDP},
    checksum::Delta,
};

use super::{
    ECHO_REPLY_V4, ECHO_REPLY_V6, ECHO_REQUEST_V4, ECHO_REQUEST_V6, Message, PROTOCOL_V4, TTL,
    is_host,
};
use crate::{
    packet::{Ipv4, Ipv6},
    verdict::note,
    vip,
};

/// Answers a request to an address that has vips; others pass.
///
/// The answer goes back over the link, and to the link address, that the request came from.
#[inline(always)]
pub fn answer(message: &mut Message<'_>) -> Result<u32, Reason> {
    let is_for_many = message.ethernet.destination.is_group();
    if message.icmp.code != 0
        || is_for_many
        || !is_host(message.source, message.family)
        || !vip::any_at(message.destination, message.family, SERVES_TCP | SERVES_UDP)
    {
        return Ok(XDP_PASS);
    }
    if message.source == message.destination {
        return Err(Reason::Malformed);
    }
    let (from, to) = if message.is_v4() {
        let Some(ip) = message.frame.network::<Ipv4>() else { return Ok(XDP_PASS) };
        let word = |ttl: u8| u16::from_ne_bytes([ttl, PROTOCOL_V4]);
        ip.checksum = Delta::new().change16(word(ip.ttl), word(TTL)).apply(ip.checksum);
        ip.ttl = TTL;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        (ECHO_REQUEST_V4, ECHO_REPLY_V4)
    } else {
        let Some(ip) = message.frame.network::<Ipv6>() else { return Ok(XDP_PASS) };
        ip.hops = TTL;
        (ip.source, ip.destination) = (message.destination, message.source);
        (ECHO_REQUEST_V6, ECHO_REPLY_V6)
    };
    let icmp = &mut *message.icmp;
    let word = |kind: u8| u16::from_ne_bytes([kind, 0]);
    icmp.checksum.0 = Delta::new().change16(word(from), word(to)).apply(icmp.checksum.0);
    icmp.kind = to;
    message.ethernet.turn();
    note(Reason::EchoAnswered);
    Ok(XDP_TX)
}
