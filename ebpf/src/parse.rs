//! What a frame is, in two steps: enough to tell whose it is, and, once it is known to be ours,
//! whether it is well formed.
//!
//! Here are packets with ports, the first fragments of such packets among them. Of all else, later
//! fragments and ICMP are looked at in `rest`; VLAN tags, ARP, IPv6 with other extension headers and
//! frames too short to tell are the host's own business.

use steerage_common::{
    abi::{FAMILY_IPV4, FAMILY_IPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    life::{Life, Sign},
    steer::Kind,
};

use crate::packet::{Address, Checksum, Ethernet, Fragment, Frame, Ipv4, Ipv6, Ports, Tcp, Udp};

pub const ETHERNET_BYTES: usize = size_of::<Ethernet>();
pub const KIND_IPV4_BE: u16 = 0x0800u16.to_be();
pub const KIND_IPV6_BE: u16 = 0x86ddu16.to_be();
/// The fragment offset of IPv4, in units of eight bytes.
pub const OFFSET_V4_BE: u16 = 0x1fffu16.to_be();
/// "More fragments" of IPv4.
pub const MORE_V4_BE: u16 = 0x2000u16.to_be();
/// The fragment offset of IPv6, in bytes.
pub const OFFSET_V6_BE: u16 = 0xfff8u16.to_be();
/// "More fragments" of IPv6.
pub const MORE_V6_BE: u16 = 0x0001u16.to_be();
/// Next header: a fragment header.
pub const NEXT_FRAGMENT: u8 = 44;

const FIN: u8 = 1 << 0;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
const URG: u8 = 1 << 5;
const PSH: u8 = 1 << 3;

/// An IP packet with ports.
pub struct Packet<'a> {
    pub ethernet: &'a mut Ethernet,
    pub ports: &'a mut Ports,
    pub source: Address,
    pub destination: Address,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// TCP or UDP.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// Bytes that the IP header claims for the packet.
    pub ip_bytes: usize,
    pub frame: Frame,
    /// Bytes of the IP header, and of IPv6's fragment header.
    pub header_bytes: usize,
    /// Whether it is the first of several fragments.
    pub is_fragment: bool,
}

/// What of the transport's header matters.
///
/// One shape for both protocols, found out once: the kernel would not remember that a second look at
/// the protocol comes out like the first.
pub struct Transport<'a> {
    pub checksum: &'a mut Checksum,
    /// Flags of TCP; none for UDP.
    flags: u8,
    /// Bytes of the header with its ports and options.
    pub header_bytes: usize,
    pub is_udp: bool,
}

/// A packet for us that no host would take.
pub struct Malformed;

#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP
}

impl<'a> Packet<'a> {
    /// The packet in `frame`, if it is one that could be ours.
    #[inline(always)]
    pub fn of(frame: Frame) -> Option<Self> {
        // SAFETY: the header does not overlap others, and nothing else refers to it yet.
        let ethernet = unsafe { frame.header::<Ethernet>(0)? };
        match ethernet.kind_be {
            KIND_IPV4_BE => Self::v4(frame, ethernet),
            KIND_IPV6_BE => Self::v6(frame, ethernet),
            _ => None,
        }
    }

    #[inline(always)]
    fn v4(frame: Frame, ethernet: &'a mut Ethernet) -> Option<Self> {
        // SAFETY: as in `of`.
        let ip = unsafe { frame.header::<Ipv4>(ETHERNET_BYTES)? };
        let header_bytes = usize::from(ip.version_and_length & 0xf) * 4;
        let is_first = ip.fragment_be & OFFSET_V4_BE == 0;
        if !has_ports(ip.protocol) || !is_first || header_bytes < size_of::<Ipv4>() {
            return None;
        }
        Some(Self {
            ethernet,
            // SAFETY: as in `of`.
            ports: unsafe { frame.header::<Ports>(ETHERNET_BYTES + header_bytes)? },
            source: Address::v4(ip.source),
            destination: Address::v4(ip.destination),
            family: FAMILY_IPV4,
            protocol: ip.protocol,
            ttl: ip.ttl,
            class: ip.service,
            // No version but 4 is a length that any check lets pass.
            ip_bytes: match ip.version_and_length >> 4 {
                4 => usize::from(u16::from_be(ip.total_length_be)),
                _ => usize::MAX >> 1,
            },
            frame,
            header_bytes,
            is_fragment: ip.fragment_be & MORE_V4_BE != 0,
        })
    }

    #[inline(always)]
    fn v6(frame: Frame, ethernet: &'a mut Ethernet) -> Option<Self> {
        // SAFETY: as in `of`.
        let ip = unsafe { frame.header::<Ipv6>(ETHERNET_BYTES)? };
        let (mut protocol, mut header_bytes, mut is_fragment) = (ip.next, size_of::<Ipv6>(), false);
        if protocol == NEXT_FRAGMENT {
            // SAFETY: as in `of`.
            let fragment = unsafe { frame.header::<Fragment>(ETHERNET_BYTES + header_bytes)? };
            if fragment.offset_be & OFFSET_V6_BE != 0 {
                return None;
            }
            protocol = fragment.next;
            header_bytes += size_of::<Fragment>();
            is_fragment = fragment.offset_be & MORE_V6_BE != 0;
        }
        if !has_ports(protocol) {
            return None;
        }
        Some(Self {
            ethernet,
            // SAFETY: as in `of`.
            ports: unsafe { frame.header::<Ports>(ETHERNET_BYTES + header_bytes)? },
            source: ip.source,
            destination: ip.destination,
            family: FAMILY_IPV6,
            protocol,
            ttl: ip.hops,
            class: ip.version_and_class << 4 | ip.class_and_label >> 4,
            ip_bytes: match ip.version_and_class >> 4 {
                6 => size_of::<Ipv6>() + usize::from(u16::from_be(ip.payload_length_be)),
                _ => usize::MAX >> 1,
            },
            frame,
            header_bytes,
            is_fragment,
        })
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// Where the packet ends in the frame.
    #[inline(always)]
    pub fn end(&self) -> usize {
        ETHERNET_BYTES + self.ip_bytes
    }

    /// Where the ports lie in the frame.
    #[inline(always)]
    pub fn transport_at(&self) -> usize {
        ETHERNET_BYTES + self.header_bytes
    }

    /// What follows the ports, if the packet is well formed in all that the rewriting relies on and
    /// in what no honest sender gets wrong.
    #[inline(always)]
    pub fn transport(&self) -> Result<Transport<'a>, Malformed> {
        let is_land =
            self.source == self.destination && self.ports.source_be == self.ports.destination_be;
        if ETHERNET_BYTES + self.ip_bytes > self.frame.len() || is_land {
            return Err(Malformed);
        }
        let payload = self.ip_bytes.wrapping_sub(self.header_bytes);
        if self.is_fragment && !payload.is_multiple_of(FRAGMENT_UNIT) {
            return Err(Malformed);
        }
        let at = ETHERNET_BYTES + self.header_bytes + size_of::<Ports>();
        // SAFETY: what follows the ports overlaps none of the other headers and is asked for once.
        unsafe {
            if self.protocol == PROTOCOL_TCP {
                let tcp = self.frame.header::<Tcp>(at).ok_or(Malformed)?;
                let bytes = usize::from(tcp.length >> 4) * 4;
                let is_short = bytes < size_of::<Ports>() + size_of::<Tcp>() || bytes > payload;
                // A payload that wrapped below zero is larger than any packet.
                if is_short || payload > self.ip_bytes || has_impossible_flags(tcp.flags) {
                    return Err(Malformed);
                }
                Ok(Transport {
                    flags: tcp.flags,
                    checksum: &mut tcp.checksum,
                    header_bytes: bytes,
                    is_udp: false,
                })
            } else {
                let udp = self.frame.header::<Udp>(at).ok_or(Malformed)?;
                let bytes = usize::from(u16::from_be(udp.length_be));
                // The length is that of the whole datagram.
                let is_past_end = bytes > payload && !self.is_fragment;
                let is_short = bytes < size_of::<Ports>() + size_of::<Udp>() || is_past_end;
                if is_short || payload > self.ip_bytes {
                    return Err(Malformed);
                }
                Ok(Transport {
                    flags: 0,
                    checksum: &mut udp.checksum,
                    header_bytes: 8,
                    is_udp: true,
                })
            }
        }
    }
}

/// All fragments but the last have a multiple of so many bytes.
pub const FRAGMENT_UNIT: usize = 8;

/// No flag at all, or flags that exclude each other.
#[inline(always)]
fn has_impossible_flags(flags: u8) -> bool {
    flags & (FIN | SYN | RST | PSH | ACK | URG) == 0
        || flags & (SYN | FIN) == SYN | FIN
        || flags & (SYN | RST) == SYN | RST
}

impl<'a> Transport<'a> {
    /// Of a packet that no flow begins with, and that has no transport header of its own: a later
    /// fragment, an error about the flow.
    #[inline(always)]
    pub fn of_begun_flow(protocol: u8, checksum: &'a mut Checksum) -> Self {
        Self { checksum, flags: ACK, header_bytes: 0, is_udp: protocol == PROTOCOL_UDP }
    }

    /// What the packet is to its flow.
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        match self.flags & (SYN | ACK) {
            _ if self.is_udp => Kind::Datagram,
            SYN => Kind::Opening,
            _ => Kind::Segment,
        }
    }

    /// Whether the packet resets its connection.
    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether the packet is part of a handshake.
    #[inline(always)]
    fn is_handshake(&self) -> bool {
        self.flags & SYN != 0
    }

    /// A flow's life after this packet of its client: only what a table that other packets keep alive
    /// could not know.
    #[inline(always)]
    pub fn live_by_client(&self, life: Life) -> Life {
        let life = if self.flags & RST != 0 { life.with(Sign::Reset) } else { life };
        if self.flags & FIN != 0 { life.with(Sign::ClientFin) } else { life }
    }

    /// A flow's life after this packet of one side of it, heard just now.
    #[inline(always)]
    pub fn live(&self, life: Life, now_ns: u64, fin: Sign) -> Life {
        let life = life.heard(now_ns);
        let life = if self.flags & RST != 0 {
            life.with(Sign::Reset)
        } else if !self.is_handshake() {
            life.with(Sign::Established)
        } else {
            life
        };
        if self.flags & FIN != 0 { life.with(fin) } else { life }
    }
}
