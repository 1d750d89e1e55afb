//! IP packets of any protocol, whole or in fragments, with checksums computed in full: what vectors
//! are made of, and what comes out is compared with.

use std::net::IpAddr;

use super::packet::{OWN_MAC, PEER_MAC, Packet, pseudo_header, sum};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMP_V6: u8 = 58;

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes before it.
    pub offset: usize,
    /// Whether others come after it.
    pub more: bool,
}

/// An IP packet.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// What `body` is.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// Which packet a fragment is of; 16 bits in IPv4.
    pub identification: u32,
    /// IPv4: not to be fragmented.
    pub dont_fragment: bool,
    /// IPv6's flow label.
    pub label: u32,
    /// What fragment it is, if it is one.
    pub fragment: Option<Fragment>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What is carried.
    pub body: Vec<u8>,
}

impl Ip {
    /// A packet of this protocol.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, body: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            class: 0,
            identification: 0x1234,
            dont_fragment: true,
            label: 0xabcde,
            fragment: None,
            options: Vec::new(),
            body,
        }
    }

    /// A packet with ports; its own frame is that of `packet`.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        let (source, destination) = (packet.source.ip(), packet.destination.ip());
        Self {
            ttl: packet.ttl,
            class: packet.class,
            options: packet.ip_options.clone(),
            dont_fragment: packet.fragment & 0x4000 != 0,
            ..Self::new(source, destination, packet.protocol, packet.segment())
        }
    }

    /// A control message: type, code, the four bytes after the checksum, the rest.
    #[must_use]
    pub fn icmp(source: IpAddr, destination: IpAddr, head: (u8, u8, u32), rest: &[u8]) -> Self {
        let (kind, code, word) = head;
        let protocol = if source.is_ipv4() { ICMP } else { ICMP_V6 };
        let mut body = vec![kind, code, 0, 0];
        body.extend(word.to_be_bytes());
        body.extend(rest);
        let pseudo = match protocol {
            ICMP => Vec::new(),
            _ => pseudo_header(source, destination, protocol, &body),
        };
        let checksum = sum(&[&pseudo, &body]).to_be_bytes();
        body[2..4].copy_from_slice(&checksum);
        Self::new(source, destination, protocol, body)
    }

    /// Bytes before the body.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        match self.source {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) if self.fragment.is_some() => 48,
            IpAddr::V6(_) => 40,
        }
    }

    /// The packet.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = vec![0x40 | (self.header_bytes() / 4) as u8, self.class];
                ip.extend(((self.header_bytes() + self.body.len()) as u16).to_be_bytes());
                ip.extend((self.identification as u16).to_be_bytes());
                let Fragment { offset, more } = self.fragment.unwrap_or(WHOLE);
                let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13;
                ip.extend((flags | (offset / 8) as u16).to_be_bytes());
                ip.extend([self.ttl, self.protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.options);
                let checksum = sum(&[&ip]).to_be_bytes();
                ip[10..12].copy_from_slice(&checksum);
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let first = 6 << 28 | u32::from(self.class) << 20 | self.label;
                let mut ip = first.to_be_bytes().to_vec();
                ip.extend(((self.header_bytes() - 40 + self.body.len()) as u16).to_be_bytes());
                ip.extend([if self.fragment.is_some() { 44 } else { self.protocol }, self.ttl]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                if let Some(Fragment { offset, more }) = self.fragment {
                    ip.extend([self.protocol, 0]);
                    ip.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    ip.extend(self.identification.to_be_bytes());
                }
                ip
            }
            mixed => panic!("a packet of two families: {mixed:?}"),
        };
        ip.extend(&self.body);
        ip
    }

    /// The packet's frame as it comes in.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        self.frame_to(OWN_MAC, PEER_MAC)
    }

    /// The packet's frame between these link addresses.
    #[must_use]
    pub fn frame_to(&self, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
        let kind = if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        [&destination[..], &source, &kind, &self.bytes()].concat()
    }

    /// The packet one hop further.
    #[must_use]
    pub fn aged(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    /// The packet in two: the first `at` bytes of the body, and the others.
    #[must_use]
    pub fn split(&self, at: usize) -> [Self; 2] {
        let piece = |offset: usize, body: &[u8], more| Self {
            dont_fragment: false,
            fragment: Some(Fragment { offset, more }),
            body: body.to_vec(),
            ..self.clone()
        };
        [piece(0, &self.body[..at], true), piece(at, &self.body[at..], false)]
    }

    /// What an error quotes: the headers and so many bytes of the body.
    #[must_use]
    pub fn quote(&self, body: usize) -> Vec<u8> {
        self.bytes()[..self.header_bytes() + body].to_vec()
    }
}

const WHOLE: Fragment = Fragment { offset: 0, more: false };
