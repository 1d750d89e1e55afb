//! The segment size that a SYN announces, clamped to what a tunnel leaves.
//!
//! It bounds what the backend sends, and by that what a symmetric path would have to carry; what the
//! client sends is bounded by the backend's own announcement, and by "packet too big" where that is
//! too much.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use steerage_common::{abi::FAMILY_IPV4, checksum::Delta};

use crate::{
    packet::{Frame, Header, Ipv4, Ipv6, Ports, Tcp},
    parse::{Packet, Transport},
};

const END: u8 = 0;
const NOTHING: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
/// Options that are looked at: the one that counts is the first that any stack sends.
const LOOKED_AT: usize = 6;
const TCP_BYTES: usize = size_of::<Ports>() + size_of::<Tcp>();

/// The option; of others, what may be their kind and length.
#[repr(C, packed)]
struct Size {
    kind: u8,
    length: u8,
    value_be: u16,
}

// SAFETY: packed integers.
unsafe impl Header for Size {}

/// Lowers the announced size to what packets of `bytes` can carry.
#[inline(always)]
pub fn clamp(
    context: &XdpContext,
    packet: &Packet<'_>,
    transport: &mut Transport<'_>,
    bytes: usize,
) {
    let ip = if packet.family == FAMILY_IPV4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    let limit = bytes.saturating_sub(ip + TCP_BYTES) as u64;
    let at = (packet.transport_at() + TCP_BYTES) as u64;
    let options = transport.header_bytes.saturating_sub(TCP_BYTES) as u64;
    // SAFETY: the run's own context.
    let change = unsafe { mss_lower(context.ctx, at, options, limit) };
    let (from, to) = ((change >> 16) as u16, change as u16);
    transport.checksum.0 = Delta::new().change16(from, to).apply(transport.checksum.0);
}

/// Lowers the option; gives its value before and after as a checksum sees them, or zeros.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn mss_lower(context: *mut xdp_md, at: u64, options: u64, limit: u64) -> u32 {
    let frame = Frame::of(&XdpContext::new(context));
    let mut offset = 0;
    for _ in 0..LOOKED_AT {
        if offset + size_of::<Size>() > options as usize {
            return 0;
        }
        // SAFETY: nothing else refers to the options.
        let option = unsafe { frame.header::<Size>((at & 0xff) as usize + offset) };
        let Some(option) = option else { return 0 };
        if option.kind == NOTHING {
            offset += 1;
            continue;
        }
        if option.kind == SEGMENT_SIZE {
            let (from, to) = (option.value_be, (limit as u16).to_be());
            if u64::from(u16::from_be(from)) <= limit {
                return 0;
            }
            option.value_be = to;
            // A field that lies across two of the checksum's words.
            let is_odd = offset % 2 == 1;
            let (from, to) = if is_odd { (from.swap_bytes(), to.swap_bytes()) } else { (from, to) };
            return u32::from(from) << 16 | u32::from(to);
        }
        if option.kind == END || option.length < 2 {
            return 0;
        }
        offset = (offset + usize::from(option.length)) & 0x3f;
    }
    0
}
