//! The answer to a SYN under flood: an ACK that only the SYN's sender can turn into a proof
//! (`steerage_common::guard`).
//!
//! It is the SYN's own frame, cut to bare headers and sent back the way it came: a flood would fill the
//! memory of next hops with answers to addresses that nobody has.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_redirect, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use steerage_common::{abi::FAMILY_IPV4, checksum::fold};

use crate::{
    guard::Guest,
    maps::GUEST,
    packet::{Checksum, Ethernet, Frame, Ipv4, Ipv6, Ports, Tcp},
    parse::ETHERNET_BYTES,
};

const PROTOCOL_TCP: u8 = 6;
const ACK: u8 = 1 << 4;
const TTL: u8 = 64;
const DONT_FRAGMENT_BE: u16 = 0x4000u16.to_be();
const TCP_BYTES: usize = size_of::<Ports>() + size_of::<Tcp>();
/// Without options.
const LENGTH: u8 = (TCP_BYTES as u8 / 4) << 4;

/// Sends the SYN of [`GUEST`] back as an acknowledgement of `cookie`.
#[inline(always)]
pub fn answer(context: &XdpContext, cookie: u32) -> Option<u32> {
    let guest = GUEST.get_ptr_mut(0)?;
    // SAFETY: as in `guard::check`.
    let guest = unsafe { &*guest };
    let is_v4 = guest.family == u32::from(FAMILY_IPV4);
    let ip_bytes = if is_v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    let bytes = ETHERNET_BYTES + ip_bytes + TCP_BYTES;
    let excess = guest.bytes as i32 - bytes as i32;
    // SAFETY: the context is this run's own.
    if excess != 0 && unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), -excess) } != 0 {
        return None;
    }
    let frame = Frame::of(context);
    // SAFETY: the headers do not overlap, and nothing else refers to them.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    (ethernet.source, ethernet.destination) = (ethernet.destination, ethernet.source);
    if is_v4 {
        // SAFETY: as above.
        v4(unsafe { frame.header(ETHERNET_BYTES)? }, guest);
    } else {
        // SAFETY: as above.
        v6(unsafe { frame.header(ETHERNET_BYTES)? }, guest);
    }
    let at = ETHERNET_BYTES + ip_bytes;
    // SAFETY: as above.
    let (ports, tcp) =
        unsafe { (frame.header::<Ports>(at)?, frame.header::<Tcp>(at + size_of::<Ports>())?) };
    ports.source_be = guest.destination_port_be;
    ports.destination_be = guest.source_port_be;
    tcp.sequence = sequence(cookie);
    tcp.acknowledgement = cookie.to_be();
    tcp.length = LENGTH;
    tcp.flags = ACK;
    tcp.window = 0;
    tcp.urgent = 0;
    tcp.checksum = Checksum(checksum(guest, cookie));
    // Not `XDP_TX`, which a veth link delivers only if its far end has a program too.
    // SAFETY: takes plain numbers.
    Some(unsafe { bpf_redirect(context.ingress_ifindex() as u32, 0) } as u32)
}

/// Any number does: what counts is the acknowledgement.
#[inline(always)]
fn sequence(cookie: u32) -> u32 {
    cookie.rotate_left(16)
}

/// The sum of a word's 32-bit halves, as a checksum takes them.
#[inline(always)]
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

#[inline(always)]
fn checksum(guest: &Guest, cookie: u32) -> u16 {
    let (source, destination) = (guest.source, guest.destination);
    let pseudo = halves(source.0)
        + halves(source.1)
        + halves(destination.0)
        + halves(destination.1)
        + u64::from(u16::from(PROTOCOL_TCP).to_be())
        + u64::from((TCP_BYTES as u16).to_be());
    !fold(
        pseudo
            + u64::from(guest.source_port_be)
            + u64::from(guest.destination_port_be)
            + u64::from(sequence(cookie))
            + u64::from(cookie.to_be())
            + u64::from(u16::from_ne_bytes([LENGTH, ACK])),
    )
}

#[inline(always)]
fn v4(ip: &mut Ipv4, guest: &Guest) {
    let (source, destination) = (guest.destination.to_v4(), guest.source.to_v4());
    let total_be = ((size_of::<Ipv4>() + TCP_BYTES) as u16).to_be();
    ip.version_and_length = 0x45;
    ip.service = 0;
    ip.total_length_be = total_be;
    ip.identification = 0;
    ip.fragment_be = DONT_FRAGMENT_BE;
    ip.ttl = TTL;
    ip.protocol = PROTOCOL_TCP;
    ip.source = source;
    ip.destination = destination;
    ip.checksum = !fold(
        u64::from(u16::from_ne_bytes([0x45, 0]))
            + u64::from(total_be)
            + u64::from(DONT_FRAGMENT_BE)
            + u64::from(u16::from_ne_bytes([TTL, PROTOCOL_TCP]))
            + u64::from(source)
            + u64::from(destination),
    );
}

#[inline(always)]
fn v6(ip: &mut Ipv6, guest: &Guest) {
    ip.set_first(6 << 28);
    ip.payload_length_be = (TCP_BYTES as u16).to_be();
    ip.next = PROTOCOL_TCP;
    ip.hops = TTL;
    ip.source = guest.destination;
    ip.destination = guest.source;
}
