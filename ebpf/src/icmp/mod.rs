//! Control messages: echo requests to vips are answered ([`echo`]), errors about flows are sent on to
//! whoever owns the flow ([`report`]), and senders of packets that can't be sent on are told why
//! ([`refusal`]). Everything else passes.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    programs::XdpContext,
};
use steerage_common::abi::{FAMILY_IPV4, FAMILY_IPV6};

use crate::{
    packet::{Address, Ethernet, Frame, Icmp, Ipv4, Ipv6},
    parse::{ETHERNET_BYTES, KIND_IPV4_BE},
    verdict::note,
};

mod echo;
pub mod refusal;
mod report;

/// IP protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;

const ECHO_REPLY_V4: u8 = 0;
const UNREACHABLE_V4: u8 = 3;
/// Code of [`UNREACHABLE_V4`]: too big, and not to be fragmented.
const TOO_BIG_V4_CODE: u8 = 4;
const ECHO_REQUEST_V4: u8 = 8;
const TIME_EXCEEDED_V4: u8 = 11;
const PARAMETER_PROBLEM_V4: u8 = 12;

const UNREACHABLE_V6: u8 = 1;
const TOO_BIG_V6: u8 = 2;
const TIME_EXCEEDED_V6: u8 = 3;
const PARAMETER_PROBLEM_V6: u8 = 4;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Time to live of messages that begin here.
const TTL: u8 = 64;

/// A whole message without IP options or extension headers.
struct Message<'a> {
    ethernet: &'a mut Ethernet,
    icmp: &'a mut Icmp,
    source: Address,
    destination: Address,
    family: u8,
    ttl: u8,
    class: u8,
    /// Bytes that the IP header claims for the packet, all of which are there.
    ip_bytes: usize,
    /// Where the message lies in the frame.
    at: usize,
    frame: Frame,
}

impl<'a> Message<'a> {
    #[inline(always)]
    fn of(frame: Frame) -> Option<Self> {
        // SAFETY: headers of different bytes; nothing else refers to them.
        let ethernet: &mut Ethernet = unsafe { frame.header(0)? };
        let message = if ethernet.kind_be == KIND_IPV4_BE {
            let ip = frame.network::<Ipv4>()?;
            let at = ETHERNET_BYTES + size_of::<Ipv4>();
            Self {
                ethernet,
                // SAFETY: as above.
                icmp: unsafe { frame.header(at)? },
                source: Address::v4(ip.source),
                destination: Address::v4(ip.destination),
                family: FAMILY_IPV4,
                ttl: ip.ttl,
                class: ip.service,
                ip_bytes: u16::from_be(ip.total_length_be).into(),
                at,
                frame,
            }
        } else {
            let ip = frame.network::<Ipv6>()?;
            let at = ETHERNET_BYTES + size_of::<Ipv6>();
            Self {
                ethernet,
                // SAFETY: as above.
                icmp: unsafe { frame.header(at)? },
                source: ip.source,
                destination: ip.destination,
                family: FAMILY_IPV6,
                ttl: ip.hops,
                class: ip.version_and_class << 4 | ip.class_and_label >> 4,
                ip_bytes: size_of::<Ipv6>() + usize::from(u16::from_be(ip.payload_length_be)),
                at,
                frame,
            }
        };
        let end = ETHERNET_BYTES + message.ip_bytes;
        let is_whole = end >= message.at + size_of::<Icmp>() && end <= frame.len();
        is_whole.then_some(message)
    }

    #[inline(always)]
    fn is_v4(&self) -> bool {
        self.family == FAMILY_IPV4
    }
}

/// The verdict on a message that came in.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn icmp_receive(context: *mut xdp_md) -> u32 {
    let context = XdpContext::new(context);
    let Some(mut message) = Message::of(Frame::of(&context)) else { return XDP_PASS };
    let kind = message.icmp.kind;
    let verdict = match (message.is_v4(), kind) {
        (true, ECHO_REQUEST_V4) | (false, ECHO_REQUEST_V6) => echo::answer(&mut message),
        (true, UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4)
        | (false, UNREACHABLE_V6 | TOO_BIG_V6 | TIME_EXCEEDED_V6 | PARAMETER_PROBLEM_V6) => {
            report::follow(&context, message)
        }
        _ => return XDP_PASS,
    };
    verdict.unwrap_or_else(|reason| {
        note(reason);
        XDP_DROP
    })
}

/// Whether an address can be that of one host: nobody answers others (RFC 1122, section 3.2.2).
#[inline(always)]
fn is_host(address: Address, family: u8) -> bool {
    let [first, ..] = address.bytes();
    if family == FAMILY_IPV4 {
        !matches!(first, 0 | 127 | 224..)
    } else {
        first != 0xff && (address.0 != 0 || u64::from_be(address.1) > 1)
    }
}
