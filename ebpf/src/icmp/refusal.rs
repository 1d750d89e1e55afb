//! Errors that begin here: "too big" and "time exceeded".
//!
//! An error quotes the packet that it is about as it came: all IP headers and eight bytes, as much as
//! every sender needs to find its flow (RFC 792), or [`QUOTED_MAX`] bytes of a longer one, which is
//! what QUIC needs (RFC 9000, section 14.2.1). Its source is whom the packet was for: the vip towards
//! clients. It goes back to the link address that the packet came from, is never about a packet from or to
//! more than one host, and is sent no oftener than [`ERRORS_MAX`] times in a window on one CPU.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_TX},
        xdp_md,
    },
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use steerage_common::{
    abi::{FAMILY_IPV4, FAMILY_IPV6, Reason, Refusals},
    checksum::fold,
};

use super::{
    PROTOCOL_V4, PROTOCOL_V6, TIME_EXCEEDED_V4, TIME_EXCEEDED_V6, TOO_BIG_V4_CODE, TOO_BIG_V6, TTL,
    UNREACHABLE_V4, is_host,
};
use crate::{
    flow::now_ns,
    maps::REFUSALS,
    packet::{Address, Checksum, Ethernet, Frame, Header, Icmp, Ipv4, Ipv6},
    parse::{ETHERNET_BYTES, KIND_IPV4_BE, NEXT_FRAGMENT},
    verdict::note,
};

/// Errors are of internetwork control (RFC 1812, section 4.3.2.5).
const CLASS: u8 = 0xc0;
/// Bytes after the IP header that are quoted at least.
const QUOTED_MIN: usize = 8;
/// Bytes after the IP header that are quoted if the packet has them: room for IPv4's options too.
const QUOTED_MAX: usize = 128;
/// A window of time: 2²⁸ ns, a quarter of a second.
const WINDOW_SHIFT: u32 = 28;
const ERRORS_MAX: u32 = 64;
const DONT_FRAGMENT_BE: u16 = 0x4000u16.to_be();

/// Leaves for [`send`] what a packet, with the outer headers that it is to get, is too big by.
#[inline(always)]
pub fn note_excess(bytes: usize, bytes_max: u16) {
    if let Some(refusals) = REFUSALS.get_ptr_mut(0) {
        // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
        unsafe { (*refusals).excess = bytes.saturating_sub(bytes_max.into()) as u32 };
    }
}

/// Has the program that is handed the packet tell its sender why it was dropped.
#[inline(always)]
pub fn order(reason: Reason) {
    if let Some(refusals) = REFUSALS.get_ptr_mut(0) {
        // SAFETY: as in `note_excess`.
        unsafe { (*refusals).ordered = reason as u32 };
    }
}

/// Takes an order; says whether the packet was too big, or else too old.
#[inline(always)]
pub fn ordered() -> Option<bool> {
    let refusals = REFUSALS.get_ptr_mut(0)?;
    // SAFETY: as in `note_excess`.
    let reason = unsafe { core::mem::take(&mut (*refusals).ordered) };
    (reason != 0).then_some(reason == Reason::TooBig as u32)
}

/// Turns a packet that was dropped into the error that says so, if there is to be one.
#[inline(always)]
pub fn send(context: &XdpContext, is_too_big: bool) -> u32 {
    // SAFETY: the run's own context.
    match unsafe { icmp_refuse(context.ctx, is_too_big.into()) } {
        0 => XDP_DROP,
        _ => {
            note(Reason::ErrorSent);
            XDP_TX
        }
    }
}

/// Makes the packet an error about itself; 0 if it can't be.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn icmp_refuse(context: *mut xdp_md, is_too_big: u32) -> u32 {
    let Some(refusals) = REFUSALS.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
    let refusals = unsafe { &mut *refusals };
    let context = XdpContext::new(context);
    let frame = Frame::of(&context);
    // SAFETY: nothing else refers to it.
    let Some(ethernet) = (unsafe { frame.header::<Ethernet>(0) }) else { return 0 };
    if ethernet.destination.is_group() || ethernet.source.is_group() {
        return 0;
    }
    let excess = (is_too_big != 0).then_some(refusals.excess as usize);
    let made = match ethernet.kind_be {
        KIND_IPV4_BE => v4(&context, &frame, excess, refusals),
        _ => v6(&context, &frame, excess, refusals),
    };
    u32::from(made.is_some())
}

/// Whether one more error may be sent now.
#[inline(always)]
fn take(refusals: &mut Refusals) -> Option<()> {
    let window = now_ns() >> WINDOW_SHIFT;
    if refusals.window != window {
        refusals.window = window;
        refusals.sent = 0;
    }
    if refusals.sent >= ERRORS_MAX {
        return None;
    }
    refusals.sent += 1;
    Some(())
}

#[inline(always)]
fn v4(
    context: &XdpContext,
    frame: &Frame,
    excess: Option<usize>,
    refusals: &mut Refusals,
) -> Option<()> {
    let ip = frame.network::<Ipv4>()?;
    let bytes = usize::from(u16::from_be(ip.total_length_be));
    let (source, destination) = (ip.destination, ip.source);
    if !is_host(Address::v4(destination), FAMILY_IPV4) {
        return None;
    }
    let (kind, code, rest) = match excess {
        // Whoever allows fragments is not told; nobody here makes them.
        Some(_) if ip.fragment_be & DONT_FRAGMENT_BE == 0 => return None,
        Some(excess) => {
            (UNREACHABLE_V4, TOO_BIG_V4_CODE, [0, (bytes.saturating_sub(excess) as u16).to_be()])
        }
        None => (TIME_EXCEEDED_V4, 0, [0, 0]),
    };
    let is_plain = ip.version_and_length == 0x45;
    let quoted = match bytes - size_of::<Ipv4>() {
        QUOTED_MAX.. => QUOTED_MAX,
        // An option would leave no room for the ports.
        _ if is_plain => QUOTED_MIN,
        _ => return None,
    };
    take(refusals)?;
    let icmp = Icmp { kind, code, checksum: Checksum(0), rest };
    if quoted == QUOTED_MAX {
        error_v4::<{ size_of::<Icmp>() + size_of::<Ipv4>() + QUOTED_MAX }>(
            context,
            source,
            destination,
            icmp,
        )
    } else {
        error_v4::<{ size_of::<Icmp>() + size_of::<Ipv4>() + QUOTED_MIN }>(
            context,
            source,
            destination,
            icmp,
        )
    }
}

/// Puts the headers of an error in front of the packet; `BODY` bytes follow the new IP header.
#[inline(always)]
fn error_v4<const BODY: usize>(
    context: &XdpContext,
    source: u32,
    destination: u32,
    message: Icmp,
) -> Option<()> {
    let room = size_of::<Ipv4>() + size_of::<Icmp>();
    let frame = reshape(context, ETHERNET_BYTES + BODY - size_of::<Icmp>(), room)?;
    let ip = frame.network::<Ipv4>()?;
    let total = (size_of::<Ipv4>() + BODY) as u16;
    ip.version_and_length = 0x45;
    ip.service = CLASS;
    ip.total_length_be = total.to_be();
    ip.identification = 0;
    ip.fragment_be = 0;
    ip.ttl = TTL;
    ip.protocol = PROTOCOL_V4;
    ip.source = source;
    ip.destination = destination;
    let word = |a: u8, b: u8| u64::from(u16::from_ne_bytes([a, b]));
    ip.checksum = !fold(
        word(0x45, CLASS)
            + u64::from(total.to_be())
            + word(TTL, PROTOCOL_V4)
            + u64::from(source)
            + u64::from(destination),
    );
    finish::<BODY>(&frame, ETHERNET_BYTES + size_of::<Ipv4>(), message, 0)
}

#[inline(always)]
fn v6(
    context: &XdpContext,
    frame: &Frame,
    excess: Option<usize>,
    refusals: &mut Refusals,
) -> Option<()> {
    let ip = frame.network::<Ipv6>()?;
    let payload = usize::from(u16::from_be(ip.payload_length_be));
    let (source, destination) = (ip.destination, ip.source);
    if !is_host(destination, FAMILY_IPV6) {
        return None;
    }
    let (kind, rest) = match excess {
        Some(excess) => {
            let fits = (size_of::<Ipv6>() + payload).saturating_sub(excess) as u32;
            let [high, low] = [(fits >> 16) as u16, fits as u16];
            (TOO_BIG_V6, [high.to_be(), low.to_be()])
        }
        None => (TIME_EXCEEDED_V6, [0, 0]),
    };
    take(refusals)?;
    let icmp = Icmp { kind, code: 0, checksum: Checksum(0), rest };
    if payload >= QUOTED_MAX {
        error_v6::<{ size_of::<Icmp>() + size_of::<Ipv6>() + QUOTED_MAX }>(
            context,
            source,
            destination,
            icmp,
        )
    } else {
        // Ports behind a fragment header would not be quoted.
        if ip.next == NEXT_FRAGMENT {
            return None;
        }
        error_v6::<{ size_of::<Icmp>() + size_of::<Ipv6>() + QUOTED_MIN }>(
            context,
            source,
            destination,
            icmp,
        )
    }
}

/// As [`error_v4`], for IPv6.
#[inline(always)]
fn error_v6<const BODY: usize>(
    context: &XdpContext,
    source: Address,
    destination: Address,
    message: Icmp,
) -> Option<()> {
    let room = size_of::<Ipv6>() + size_of::<Icmp>();
    let frame = reshape(context, ETHERNET_BYTES + BODY - size_of::<Icmp>(), room)?;
    let ip = frame.network::<Ipv6>()?;
    ip.set_first(6 << 28 | u32::from(CLASS) << 20);
    ip.payload_length_be = (BODY as u16).to_be();
    ip.next = PROTOCOL_V6;
    ip.hops = TTL;
    ip.source = source;
    ip.destination = destination;
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let pseudo = halves(source.0)
        + halves(source.1)
        + halves(destination.0)
        + halves(destination.1)
        + u64::from((BODY as u16).to_be())
        + u64::from(u16::from_ne_bytes([0, PROTOCOL_V6]));
    finish::<BODY>(&frame, ETHERNET_BYTES + size_of::<Ipv6>(), message, pseudo)
}

/// Cuts the packet after `kept` bytes, puts `room` in front, and turns the link addresses round.
#[inline(always)]
fn reshape(context: &XdpContext, kept: usize, room: usize) -> Option<Frame> {
    let frame = Frame::of(context);
    // SAFETY: nothing else refers to it.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    let (to, from, kind_be) = (ethernet.source, ethernet.destination, ethernet.kind_be);
    let excess = kept as i32 - frame.len() as i32;
    // SAFETY: the run's own context; references into the packet are of no use after either.
    unsafe {
        if excess > 0
            || bpf_xdp_adjust_tail(context.ctx, excess) != 0
            || bpf_xdp_adjust_head(context.ctx, -(room as i32)) != 0
        {
            return None;
        }
    }
    let frame = Frame::of(context);
    // SAFETY: as above.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    ethernet.destination = to;
    ethernet.source = from;
    ethernet.kind_be = kind_be;
    Some(frame)
}

/// Writes the message's header, with the checksum over `BODY` bytes and what was summed before.
#[inline(always)]
fn finish<const BODY: usize>(frame: &Frame, at: usize, message: Icmp, before: u64) -> Option<()> {
    const { assert!(BODY.is_multiple_of(4) && BODY <= 512, "what the kernel sums up at once") };
    // SAFETY: nothing else refers to it.
    *unsafe { frame.header::<Icmp>(at)? } = message;
    // SAFETY: nothing is written while it lives.
    let body = unsafe { frame.header::<Body<BODY>>(at)? };
    let words = (&raw mut *body).cast::<u32>();
    // SAFETY: the helper reads `BODY` bytes, which are within the packet.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words, BODY as u32, 0) };
    // SAFETY: nothing else refers to it any more.
    unsafe { frame.header::<Icmp>(at)? }.checksum =
        Checksum(!fold(before + (sum as u64 & 0xffff_ffff)));
    Some(())
}

/// The bytes of a message.
#[repr(C, packed)]
struct Body<const BYTES: usize>([u8; BYTES]);

// SAFETY: bytes.
unsafe impl<const BYTES: usize> Header for Body<BYTES> {}
