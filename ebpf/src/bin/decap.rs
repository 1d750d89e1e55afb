//! The backend's end of a tunnel: takes the outer headers off packets for a service address, and leaves
//! everything else as it came. No tunnel device is needed; the inner packet goes up the stack as if it
//! had come over the link. There are two programs of which one runs: on XDP, or, where that is another's
//! or the driver has none, on tcx, where a packet has a socket buffer already.
//!
//! Only packets whose inner destination is in `SERVED` are taken: nobody can reach other addresses of
//! this host, or through it, by wrapping packets.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(clippy::needless_borrows_for_generic_args, reason = "keys by value would be copied")]
#![allow(missing_docs, reason = "the macros export symbols without documentation")]
#![allow(dead_code, reason = "shared modules have more than this program needs")]

#[path = "../object.rs"]
mod object;
#[path = "../packet.rs"]
mod packet;

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    btf_maps::{HashMap, PerCpuArray},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use steerage_common::abi::{DECAP_SERVED, Decap};

use packet::{Address, Aligned, Ethernet, Frame, Ipv4, Ipv6, Ports, Udp};

const ETHERNET_BYTES: usize = size_of::<Ethernet>();
const UDP_BYTES: usize = size_of::<Ports>() + size_of::<Udp>();
/// Bytes that are looked at, at most.
const HEADERS_MAX: usize = ETHERNET_BYTES + 2 * size_of::<Ipv6>() + UDP_BYTES;
const KIND_IPV4_BE: u16 = 0x0800u16.to_be();
const KIND_IPV6_BE: u16 = 0x86ddu16.to_be();
const FRAGMENT_BE: u16 = 0x3fffu16.to_be();
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6: u8 = 41;
const GUE_PORT_BE: u16 = 6080u16.to_be();

/// Service addresses that this host serves.
#[btf_map]
static SERVED: HashMap<[u8; 16], u8, DECAP_SERVED> = HashMap::new();

/// Packets by [`Decap`].
#[btf_map]
static DECAP_COUNTERS: PerCpuArray<u64, { Decap::ALL.len() }> = PerCpuArray::new();

#[xdp]
pub fn steerage_decap(context: XdpContext) -> u32 {
    match of(&Frame::of(&context), |outer| strip(&context, outer)) {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

#[classifier]
pub fn steerage_decap_tcx(context: TcContext) -> i32 {
    let mut frame = frame_of(&context);
    // Only what lies in one piece can be looked at.
    let wanted = (context.len() as usize).min(HEADERS_MAX);
    if frame.len() < wanted {
        if context.pull_data(wanted as u32).is_err() {
            return TCX_NEXT;
        }
        frame = frame_of(&context);
    }
    match of(&frame, |outer| strip_buffer(&context, outer)) {
        Verdict::Pass => TCX_NEXT,
        Verdict::Drop => TCX_DROP,
    }
}

enum Verdict {
    Pass,
    Drop,
}

/// Takes the outer headers off with `strip` if it is a tunnel's packet for an address that is served.
#[inline(always)]
fn of(frame: &Frame, strip: impl FnOnce(&Outer) -> Option<()>) -> Verdict {
    let Some(found) = Outer::of(frame) else { return Verdict::Pass };
    if found.is_malformed {
        count(Decap::Malformed);
        return Verdict::Drop;
    }
    // SAFETY: read at once.
    if unsafe { SERVED.get(&found.inner_destination.0) }.is_none() {
        count(Decap::Foreign);
        return Verdict::Pass;
    }
    match strip(&found) {
        Some(()) => {
            count(if found.is_gue { Decap::Gue } else { Decap::Plain });
            Verdict::Pass
        }
        None => {
            count(Decap::Malformed);
            Verdict::Drop
        }
    }
}

/// What stands before the inner packet.
struct Outer {
    /// Bytes of the outer headers.
    bytes: usize,
    inner_kind_be: u16,
    inner_destination: Aligned<[u8; 16]>,
    is_gue: bool,
    is_malformed: bool,
}

impl Outer {
    /// The outer headers of a tunnel's packet; `None` for any other.
    #[inline(always)]
    fn of(frame: &Frame) -> Option<Self> {
        // SAFETY: headers are read one after the other.
        let ethernet = unsafe { frame.header::<Ethernet>(0)? };
        let (protocol, bytes) = match ethernet.kind_be {
            KIND_IPV4_BE => {
                let ip = frame.network::<Ipv4>()?;
                // Fragments are for the stack; options are in no header of ours.
                if ip.version_and_length != 0x45 || ip.fragment_be & FRAGMENT_BE != 0 {
                    return None;
                }
                (ip.protocol, size_of::<Ipv4>())
            }
            KIND_IPV6_BE => (frame.network::<Ipv6>()?.next, size_of::<Ipv6>()),
            _ => return None,
        };
        match protocol {
            PROTOCOL_IPV4 => Some(Self::plain(frame, bytes, KIND_IPV4_BE)),
            PROTOCOL_IPV6 => Some(Self::plain(frame, bytes, KIND_IPV6_BE)),
            PROTOCOL_UDP => Self::gue(frame, bytes),
            _ => None,
        }
    }

    #[inline(always)]
    fn gue(frame: &Frame, bytes: usize) -> Option<Self> {
        // SAFETY: as in `of`.
        let ports = unsafe { frame.header::<Ports>(ETHERNET_BYTES + bytes)? };
        if ports.destination_be != GUE_PORT_BE {
            return None;
        }
        let bytes = bytes + UDP_BYTES;
        // Variant 1 alone: the inner packet's version follows at once.
        // SAFETY: as in `of`. An IPv4 header is the shorter one.
        let first =
            unsafe { frame.header::<Ipv4>(ETHERNET_BYTES + bytes)? }.version_and_length >> 4;
        let kind_be = match first {
            4 => KIND_IPV4_BE,
            6 => KIND_IPV6_BE,
            _ => return None,
        };
        Some(Self { is_gue: true, ..Self::plain(frame, bytes, kind_be) })
    }

    #[inline(always)]
    fn plain(frame: &Frame, bytes: usize, inner_kind_be: u16) -> Self {
        let at = ETHERNET_BYTES + bytes;
        // SAFETY: as in `of`.
        let destination = unsafe {
            if inner_kind_be == KIND_IPV4_BE {
                let ip = frame.header::<Ipv4>(at);
                ip.filter(|ip| ip.version_and_length >> 4 == 4)
                    .map(|ip| Address::v4(ip.destination))
            } else {
                let ip = frame.header::<Ipv6>(at);
                ip.filter(|ip| ip.version_and_class >> 4 == 6).map(|ip| ip.destination)
            }
        };
        let is_malformed = destination.is_none();
        let inner_destination = Aligned(destination.unwrap_or(Address(0, 0)).bytes());
        Self { bytes, inner_kind_be, inner_destination, is_gue: false, is_malformed }
    }
}

/// Takes the outer headers off.
#[inline(always)]
fn strip(context: &XdpContext, found: &Outer) -> Option<()> {
    let frame = Frame::of(context);
    // SAFETY: the only reference.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    let (destination, source) = (ethernet.destination, ethernet.source);
    // SAFETY: the context is this run's own.
    if unsafe { bpf_xdp_adjust_head(context.ctx, found.bytes as i32) } != 0 {
        return None;
    }
    let frame = Frame::of(context);
    // SAFETY: the only reference.
    let ethernet = unsafe { frame.header::<Ethernet>(0)? };
    ethernet.destination = destination;
    ethernet.source = source;
    ethernet.kind_be = found.inner_kind_be;
    Some(())
}

/// As [`strip`], of a packet that has a socket buffer.
#[inline(always)]
fn strip_buffer(context: &TcContext, found: &Outer) -> Option<()> {
    // SAFETY: the only reference.
    let kind_be = unsafe { frame_of(context).header::<Ethernet>(0)? }.kind_be;
    let family = match found.inner_kind_be {
        // The flags are for a change alone (Linux 6.3).
        same if same == kind_be => 0,
        KIND_IPV4_BE => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        _ => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    };
    // Segments stay as large as they are: outer headers are no part of them.
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | family);
    context.adjust_room(-(found.bytes as i32), BPF_ADJ_ROOM_MAC, flags).ok()?;
    // SAFETY: the only reference.
    unsafe { frame_of(context).header::<Ethernet>(0)? }.kind_be = found.inner_kind_be;
    Some(())
}

/// What of a packet lies in one piece.
#[inline(always)]
fn frame_of(context: &TcContext) -> Frame {
    let raw = context.skb.skb;
    // SAFETY: the run's own context; volatile as in `Frame::of`.
    let (start, end) = unsafe {
        ((&raw const (*raw).data).read_volatile(), (&raw const (*raw).data_end).read_volatile())
    };
    Frame::between(start, end)
}

#[inline(always)]
fn count(what: Decap) {
    if let Some(counter) = DECAP_COUNTERS.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
        unsafe { *counter += 1 };
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
