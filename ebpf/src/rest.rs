//! What is no packet with ports, or could not be sent on: later fragments, ICMP, and the errors that
//! senders are told of.
//!
//! A program of its own, which the first one hands such packets over to for good: it has a stack of its
//! own, and its size costs other packets nothing. It lies in the table [`REST`] while links have either.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use steerage_common::abi::{
    Backend, FAMILY_IPV4, FAMILY_IPV6, MODE_TUNNEL, Reason, SERVES_TCP, SERVES_UDP, serves,
};

use crate::{
    balance::Snapshot,
    flow::Placed,
    fragment, icmp,
    maps::REST,
    packet::{Address, Checksum, Ethernet, Fragment, Frame, Ipv4, Ipv6},
    parse::{
        ETHERNET_BYTES, KIND_IPV4_BE, KIND_IPV6_BE, MORE_V4_BE, NEXT_FRAGMENT, OFFSET_V4_BE,
        OFFSET_V6_BE, Packet, Transport, has_ports,
    },
    tunnel,
    verdict::{self, note},
    vip,
};

/// What a frame is that is no packet with ports.
enum Kind {
    Icmp,
    /// A fragment other than the first.
    Fragment,
    /// A packet of TCP or UDP that ends before its ports do.
    Truncated {
        destination: Address,
        family: u8,
        protocols: u32,
    },
    Other,
}

/// Hands the packet over; `verdict` is what becomes of it if there is nobody to take it.
#[inline(always)]
pub fn call(context: &XdpContext, verdict: u32) -> u32 {
    // SAFETY: the run's own context. A missing program makes the call return.
    unsafe { REST.tail_call(context, 0) };
    verdict
}

/// The verdict on a packet that was handed over.
#[inline(always)]
pub fn of(context: &XdpContext) -> u32 {
    if let Some(is_too_big) = icmp::refusal::ordered() {
        return icmp::refusal::send(context, is_too_big);
    }
    match kind(&Frame::of(context)).unwrap_or(Kind::Other) {
        // SAFETY: the run's own context.
        Kind::Icmp => unsafe { icmp::icmp_receive(context.ctx) },
        // SAFETY: as above.
        Kind::Fragment => unsafe { fragment::fragment_receive(context.ctx) },
        Kind::Truncated { destination, family, protocols }
            if vip::any_at(destination, family, protocols) =>
        {
            note(Reason::Malformed);
            XDP_DROP
        }
        Kind::Truncated { .. } | Kind::Other => XDP_PASS,
    }
}

#[inline(always)]
fn kind(frame: &Frame) -> Option<Kind> {
    // SAFETY: headers are read one after the other.
    match unsafe { frame.header::<Ethernet>(0)? }.kind_be {
        KIND_IPV4_BE => v4(frame.network::<Ipv4>()?),
        KIND_IPV6_BE => v6(frame, frame.network::<Ipv6>()?),
        _ => None,
    }
}

#[inline(always)]
fn v4(ip: &Ipv4) -> Option<Kind> {
    let protocols = serves(ip.protocol);
    if ip.protocol == icmp::PROTOCOL_V4 {
        // With options it is left to the host.
        let is_plain = ip.version_and_length == 0x45;
        let is_whole = ip.fragment_be & (OFFSET_V4_BE | MORE_V4_BE) == 0;
        return (is_plain && is_whole).then_some(Kind::Icmp);
    }
    if protocols == 0 {
        return None;
    }
    if ip.fragment_be & OFFSET_V4_BE != 0 {
        return Some(Kind::Fragment);
    }
    let destination = Address::v4(ip.destination);
    Some(Kind::Truncated { destination, family: FAMILY_IPV4, protocols })
}

#[inline(always)]
fn v6(frame: &Frame, ip: &Ipv6) -> Option<Kind> {
    let mut protocols = serves(ip.next);
    if ip.next == icmp::PROTOCOL_V6 {
        return Some(Kind::Icmp);
    }
    if ip.next == NEXT_FRAGMENT {
        // SAFETY: as in `kind`.
        let fragment = unsafe { frame.header::<Fragment>(ETHERNET_BYTES + size_of::<Ipv6>()) };
        protocols = match fragment {
            Some(fragment) if !has_ports(fragment.next) => return None,
            Some(fragment) if fragment.offset_be & OFFSET_V6_BE != 0 => {
                return Some(Kind::Fragment);
            }
            Some(fragment) => serves(fragment.next),
            None => SERVES_TCP | SERVES_UDP,
        };
    }
    let destination = ip.destination;
    (protocols != 0).then_some(Kind::Truncated { destination, family: FAMILY_IPV6, protocols })
}

/// Sends a packet without ports of its own to the backend of its flow, in a mode that leaves it whole.
#[inline(always)]
pub fn carry(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    mode: u8,
    flags: u8,
    placed: &Placed,
    now: &Snapshot<'static>,
) -> Result<u32, Reason> {
    let backend: &Backend = now.backend(placed.slot);
    let mut none = Checksum(0);
    let mut transport = Transport::of_begun_flow(packet.protocol, &mut none);
    if mode == MODE_TUNNEL {
        tunnel::send(context, packet, &mut transport, flags, placed, backend, now.control)
    } else {
        verdict::pass_on(context, packet, backend)
    }
}
