//! What a frame is, in two steps: enough to tell whose it is, and, once it is known to be ours,
//! whether it is well formed.
//!
//! Everything that is no whole IPv4 packet with ports (fragments, VLAN tags, ARP, IPv6, ICMP, frames
//! too short to tell) is the host's own business.

use steerage_common::abi::{PROTOCOL_TCP, PROTOCOL_UDP};

use crate::packet::{Checksum, Ethernet, Frame, Ipv4, Ports, Tcp, Udp};

const ETHERNET_BYTES: usize = size_of::<Ethernet>();
const KIND_IPV4_BE: u16 = 0x0800u16.to_be();
/// "More fragments" and the fragment offset.
const FRAGMENT_BE: u16 = 0x3fffu16.to_be();

const FIN: u8 = 1 << 0;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
const URG: u8 = 1 << 5;
const PSH: u8 = 1 << 3;

/// An IPv4 packet with ports.
pub struct Packet<'a> {
    pub ethernet: &'a mut Ethernet,
    pub ip: &'a mut Ipv4,
    pub ports: &'a mut Ports,
    frame: Frame,
    /// Bytes of the IP header.
    ip_bytes: usize,
}

/// What of the transport's header matters.
///
/// One shape for both protocols, found out once: the kernel would not remember that a second look at
/// the protocol comes out like the first.
pub struct Transport<'a> {
    pub checksum: &'a mut Checksum,
    /// Flags of TCP; none for UDP.
    flags: u8,
    pub is_udp: bool,
}

/// A packet for us that no host would take.
pub struct Malformed;

impl<'a> Packet<'a> {
    /// The packet in `frame`, if it is one that could be ours.
    #[inline(always)]
    pub fn of(frame: Frame) -> Option<Self> {
        // SAFETY: the three headers do not overlap, and nothing else refers to them yet.
        unsafe {
            let ethernet = frame.header::<Ethernet>(0)?;
            if ethernet.kind_be != KIND_IPV4_BE {
                return None;
            }
            let ip = frame.header::<Ipv4>(ETHERNET_BYTES)?;
            let ip_bytes = usize::from(ip.version_and_length & 0xf) * 4;
            let has_ports = ip.protocol == PROTOCOL_TCP || ip.protocol == PROTOCOL_UDP;
            let is_whole = ip.fragment_be & FRAGMENT_BE == 0;
            if !has_ports || !is_whole || ip_bytes < size_of::<Ipv4>() {
                return None;
            }
            let ports = frame.header::<Ports>(ETHERNET_BYTES + ip_bytes)?;
            Some(Self { ethernet, ip, ports, frame, ip_bytes })
        }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// What follows the ports, if the packet is well formed in all that the rewriting relies on and
    /// in what no honest sender gets wrong.
    #[inline(always)]
    pub fn transport(&self) -> Result<Transport<'a>, Malformed> {
        let total = usize::from(u16::from_be(self.ip.total_length_be));
        let is_land = self.ip.source == self.ip.destination
            && self.ports.source_be == self.ports.destination_be;
        if self.ip.version_and_length >> 4 != 4
            || ETHERNET_BYTES + total > self.frame.len()
            || is_land
        {
            return Err(Malformed);
        }
        let payload = total.wrapping_sub(self.ip_bytes);
        let at = ETHERNET_BYTES + self.ip_bytes + size_of::<Ports>();
        // SAFETY: what follows the ports overlaps none of the other headers and is asked for once.
        unsafe {
            if self.ip.protocol == PROTOCOL_TCP {
                let tcp = self.frame.header::<Tcp>(at).ok_or(Malformed)?;
                let bytes = usize::from(tcp.length >> 4) * 4;
                let is_short = bytes < size_of::<Ports>() + size_of::<Tcp>() || bytes > payload;
                // A payload that wrapped below zero is larger than any packet.
                if is_short || payload > total || has_impossible_flags(tcp.flags) {
                    return Err(Malformed);
                }
                Ok(Transport { flags: tcp.flags, checksum: &mut tcp.checksum, is_udp: false })
            } else {
                let udp = self.frame.header::<Udp>(at).ok_or(Malformed)?;
                let bytes = usize::from(u16::from_be(udp.length_be));
                let is_short = bytes < size_of::<Ports>() + size_of::<Udp>() || bytes > payload;
                if is_short || payload > total {
                    return Err(Malformed);
                }
                Ok(Transport { flags: 0, checksum: &mut udp.checksum, is_udp: true })
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
    /// Whether the packet begins a connection.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether the packet says that its sender will send no more.
    #[inline(always)]
    pub fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    /// Whether the packet ends its connection at once.
    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether the packet is part of a handshake.
    #[inline(always)]
    pub fn is_handshake(&self) -> bool {
        self.flags & SYN != 0
    }
}
