//! Frames, made and read field by field, with checksums computed in full.

use std::net::{Ipv4Addr, SocketAddrV4};

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

/// An IPv4 packet with ports, to be made into a frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Flags, of TCP.
    pub flags: u8,
    /// Time to live.
    pub ttl: u8,
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
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Self {
        Self {
            source,
            destination,
            protocol: TCP,
            flags,
            ttl: 64,
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            payload: b"the quick brown fox".to_vec(),
            udp_has_checksum: true,
            fragment: 0x4000,
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        Self { protocol: UDP, flags: 0, ..Self::tcp(source, destination, 0) }
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let segment = self.segment();
        let ip_bytes = 20 + self.ip_options.len();
        let mut ip = vec![0x40 | (ip_bytes / 4) as u8, 0];
        ip.extend(((ip_bytes + segment.len()) as u16).to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.protocol, 0, 0]);
        ip.extend(self.source.ip().octets());
        ip.extend(self.destination.ip().octets());
        ip.extend(&self.ip_options);
        let checksum = sum(&[&ip]);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = Vec::with_capacity(ETHERNET + ip.len() + segment.len());
        frame.extend(OWN_MAC);
        frame.extend(PEER_MAC);
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        let checksum_at = if self.protocol == TCP {
            segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
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
                pseudo_header(*self.source.ip(), *self.destination.ip(), self.protocol, &segment);
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
        assert_eq!(frame[12..14], [8, 0], "an IPv4 frame");
        let ip_bytes = usize::from(frame[ETHERNET] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let (ip, segment) = frame[ETHERNET..ETHERNET + total].split_at(ip_bytes);
        assert_eq!(sum(&[ip]), 0, "the IP checksum");
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let (source, destination, protocol) = (address(12), address(16), ip[9]);
        let udp_has_checksum = protocol != UDP || segment[6..8] != [0, 0];
        if udp_has_checksum {
            let pseudo = pseudo_header(source, destination, protocol, segment);
            assert_eq!(sum(&[&pseudo, segment]), 0, "the transport checksum");
        }
        let header = if protocol == TCP { usize::from(segment[12] >> 4) * 4 } else { 8 };
        Self {
            source: SocketAddrV4::new(source, port(0)),
            destination: SocketAddrV4::new(destination, port(2)),
            protocol,
            flags: if protocol == TCP { segment[13] } else { 0 },
            ttl: ip[8],
            ip_options: ip[20..].to_vec(),
            tcp_options: if protocol == TCP { segment[20..header].to_vec() } else { Vec::new() },
            payload: segment[header..].to_vec(),
            udp_has_checksum,
            fragment: u16::from_be_bytes([ip[6], ip[7]]),
        }
    }
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut pseudo = Vec::with_capacity(12);
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend([0, protocol]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    pseudo
}

/// The Internet checksum of parts that each begin on a 16-bit boundary.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
