//! What a frame is, in two steps: enough to tell whose it is, and, once it is known to be ours,
//! whether it is well formed.
//!
//! Everything that is no whole IP packet with ports (fragments, VLAN tags, ARP, ICMP, IPv6 with
//! extension headers, frames too short to tell) is the host's own business.

use steerage_common::{
    abi::{FAMILY_IPV4, FAMILY_IPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    life::{Life, Sign},
    steer::Kind,
};

use crate::packet::{Address, Checksum, Ethernet, Frame, Ipv4, Ipv6, Ports, Tcp, Udp};

pub const ETHERNET_BYTES: usize = size_of::<Ethernet>();
pub const KIND_IPV4_BE: u16 = 0x0800u16.to_be();
pub const KIND_IPV6_BE: u16 = 0x86ddu16.to_be();
/// "More fragments" and the fragment offset.
const FRAGMENT_BE: u16 = 0x3fffu16.to_be();

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
    /// Bytes of the IP header.
    header_bytes: usize,
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
fn has_ports(protocol: u8) -> bool {
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
        let is_whole = ip.fragment_be & FRAGMENT_BE == 0;
        if !has_ports(ip.protocol) || !is_whole || header_bytes < size_of::<Ipv4>() {
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
        })
    }

    #[inline(always)]
    fn v6(frame: Frame, ethernet: &'a mut Ethernet) -> Option<Self> {
        // SAFETY: as in `of`.
        let ip = unsafe { frame.header::<Ipv6>(ETHERNET_BYTES)? };
        if !has_ports(ip.next) {
            return None;
        }
        Some(Self {
            ethernet,
            // SAFETY: as in `of`.
            ports: unsafe { frame.header::<Ports>(ETHERNET_BYTES + size_of::<Ipv6>())? },
            source: ip.source,
            destination: ip.destination,
            family: FAMILY_IPV6,
            protocol: ip.next,
            ttl: ip.hops,
            class: ip.version_and_class << 4 | ip.class_and_label >> 4,
            ip_bytes: match ip.version_and_class >> 4 {
                6 => size_of::<Ipv6>() + usize::from(u16::from_be(ip.payload_length_be)),
                _ => usize::MAX >> 1,
            },
            frame,
            header_bytes: size_of::<Ipv6>(),
        })
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.frame.len()
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
                let is_short = bytes < size_of::<Ports>() + size_of::<Udp>() || bytes > payload;
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

/// No flag at all, or flags that exclude each other.
#[inline(always)]
fn has_impossible_flags(flags: u8) -> bool {
    flags & (FIN | SYN | RST | PSH | ACK | URG) == 0
        || flags & (SYN | FIN) == SYN | FIN
        || flags & (SYN | RST) == SYN | RST
}

impl Transport<'_> {
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
