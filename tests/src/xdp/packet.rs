//! Frames, made and read field by field, with checksums computed in full.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag.
pub const FIN: u8 = 1;
/// TCP flag.
pub const SYN: u8 = 2;
/// TCP flag.
pub const RST: u8 = 4;
/// TCP flag.
pub const ACK: u8 = 16;

/// MAC address of the host's own end of a link, as far as the program is concerned.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 9, 0, 1];
/// MAC address of whoever sends to it.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 9, 0, 2];

const ETHERNET: usize = 14;

/// An IP packet with ports, to be made into a frame; of the family of its addresses.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Flags, of TCP.
    pub flags: u8,
    /// Sequence and acknowledgement numbers, of TCP.
    pub numbers: [u32; 2],
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// IP options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// What is carried.
    pub payload: Vec<u8>,
    /// Whether a UDP datagram has a checksum.
    pub udp_has_checksum: bool,
    /// Flags and fragment offset of IP.
    pub fragment: u16,
}

impl Packet {
    /// A TCP segment with these flags.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self {
            source,
            destination,
            protocol: TCP,
            flags,
            numbers: [1, 2],
            ttl: 64,
            class: 0x2e,
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            payload: b"the quick brown fox".to_vec(),
            udp_has_checksum: true,
            fragment: 0x4000,
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { protocol: UDP, flags: 0, ..Self::tcp(source, destination, 0) }
    }

    /// The frame.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let segment = self.segment();
        let (kind, ip) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ([8, 0], self.v4_header(source, destination, segment.len()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ([0x86, 0xdd], self.v6_header(source, destination, segment.len()))
            }
            mixed => panic!("a packet of two families: {mixed:?}"),
        };
        [&OWN_MAC[..], &PEER_MAC, &kind, &ip, &segment].concat()
    }

    fn v4_header(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
        let ip_bytes = 20 + self.ip_options.len();
        let mut ip = vec![0x40 | (ip_bytes / 4) as u8, self.class];
        ip.extend(((ip_bytes + payload) as u16).to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.protocol, 0, 0]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        ip.extend(&self.ip_options);
        let checksum = sum(&[&ip]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    }

    fn v6_header(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut ip = vec![0x60 | self.class >> 4, self.class << 4 | 0x0a, 0xbc, 0xde];
        ip.extend((payload as u16).to_be_bytes());
        ip.extend([self.protocol, self.ttl]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        ip
    }

    /// The transport's part of it: header and payload.
    #[must_use]
    pub fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        let checksum_at = if self.protocol == TCP {
            self.numbers.iter().for_each(|number| segment.extend(number.to_be_bytes()));
            segment.extend([
                ((20 + self.tcp_options.len()) / 4 * 16) as u8,
                self.flags,
                0xff,
                0xff,
            ]);
            segment.extend([0; 4]);
            segment.extend(&self.tcp_options);
            16
        } else {
            segment.extend((8 + self.payload.len() as u16).to_be_bytes());
            segment.extend([0; 2]);
            6
        };
        segment.extend(&self.payload);
        if self.protocol == TCP || self.udp_has_checksum {
            let pseudo =
                pseudo_header(self.source.ip(), self.destination.ip(), self.protocol, &segment);
            let checksum = sum(&[&pseudo, &segment]);
            let checksum = if self.protocol == UDP && checksum == 0 { 0xffff } else { checksum };
            segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        segment
    }

    /// Reads a frame, and checks both checksums over all of it.
    ///
    /// # Panics
    /// If it is none of ours, or a checksum is wrong.
    #[must_use]
    #[track_caller]
    pub fn read(frame: &[u8]) -> Self {
        Self::read_ip([frame[12], frame[13]], &frame[ETHERNET..])
    }

    /// Reads what follows an Ethernet header of this kind, as [`Packet::read`] does.
    ///
    /// # Panics
    /// As [`Packet::read`].
    #[must_use]
    #[track_caller]
    pub fn read_ip(kind: [u8; 2], bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let is_v4 = kind == [8, 0];
        assert!(is_v4 || kind == [0x86, 0xdd], "an IP frame, not {kind:x?}");
        let (ip_bytes, total) = match is_v4 {
            true => (usize::from(bytes[0] & 15) * 4, usize::from(half(2))),
            false => (40, 40 + usize::from(half(4))),
        };
        let (ip, segment) = bytes[..total].split_at(ip_bytes);
        assert_eq!(ip[0] >> 4, if is_v4 { 4 } else { 6 }, "the IP version");
        let v4 = |at: usize| IpAddr::from(*ip[at..].first_chunk::<4>().expect("an address"));
        let v6 = |at: usize| IpAddr::from(*ip[at..].first_chunk::<16>().expect("an address"));
        let (source, destination, protocol, ttl) = match is_v4 {
            true => (v4(12), v4(16), ip[9], ip[8]),
            false => (v6(8), v6(24), ip[6], ip[7]),
        };
        if is_v4 {
            assert_eq!(sum(&[ip]), 0, "the IP checksum");
        }
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let udp_has_checksum = protocol != UDP || segment[6..8] != [0, 0];
        if udp_has_checksum {
            let pseudo = pseudo_header(source, destination, protocol, segment);
            assert_eq!(sum(&[&pseudo, segment]), 0, "the transport checksum");
        }
        let number = |at: usize| u32::from(port(at)) << 16 | u32::from(port(at + 2));
        let header = if protocol == TCP { usize::from(segment[12] >> 4) * 4 } else { 8 };
        Self {
            class: if is_v4 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 },
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
            protocol,
            flags: if protocol == TCP { segment[13] } else { 0 },
            numbers: if protocol == TCP { [number(4), number(8)] } else { [1, 2] },
            ttl,
            ip_options: if is_v4 { ip[20..].to_vec() } else { Vec::new() },
            tcp_options: if protocol == TCP { segment[20..header].to_vec() } else { Vec::new() },
            payload: segment[header..].to_vec(),
            udp_has_checksum,
            fragment: if is_v4 { half(6) } else { 0x4000 },
        }
    }
}

pub(super) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
) -> Vec<u8> {
    let mut pseudo = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    pseudo.extend([0, protocol]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    pseudo
}

/// The Internet checksum of parts that each begin on a 16-bit boundary.
pub(super) fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
