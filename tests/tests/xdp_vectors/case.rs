//! A plane, and the model of what it makes of packets.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use steerage_common::abi::{MODE_L2, MODE_NAT, MODE_TUNNEL, VIP_GUE};
use steerage_common::hash::sip13;
use steerage_tests::xdp::ip::Ip;
use steerage_tests::xdp::packet::{OWN_MAC, PEER_MAC, Packet, UDP};
use steerage_tests::xdp::{
    BACKEND_LINK_MAC, BACKEND_PORT, CLIENT_LINK_MAC, Choices, Family, GATEWAY_MAC, HASH_KEY, Plane,
    VIP_PORT, backend_mac,
};

/// The one port that `nat` may take.
const NAT_PORT: u16 = 2_000;
const CLIENT_PORT: u16 = 40_000;

/// A mode, between families.
pub struct Case {
    pub plane: Plane,
    pub vips: Family,
    pub backends: Family,
    pub mode: u8,
    pub flags: u8,
}

impl Case {
    /// Each mode with each families that it takes.
    pub fn all() -> Result<Vec<Self>> {
        let (v4, v6) = (Family::V4, Family::V6);
        let mut all = vec![
            Self::new(v4, v4, MODE_NAT, 0)?,
            Self::new(v6, v6, MODE_NAT, 0)?,
            Self::new(v4, v4, MODE_L2, 0)?,
            Self::new(v6, v6, MODE_L2, 0)?,
            Self::new(v6, v4, MODE_L2, 0)?,
        ];
        for flags in [0, VIP_GUE] {
            for vips in Family::BOTH {
                for backends in Family::BOTH {
                    all.push(Self::new(vips, backends, MODE_TUNNEL, flags)?);
                }
            }
        }
        Ok(all)
    }

    fn new(vips: Family, backends: Family, mode: u8, flags: u8) -> Result<Self> {
        let weights = vec![1];
        let choices = Choices { weights, vips, backends, mode, flags, ..Choices::default() };
        let plane = Plane::with(choices)?;
        plane.set_nat_ports(NAT_PORT, 1);
        Ok(Self { plane, vips, backends, mode, flags })
    }

    pub fn name(&self) -> String {
        let mode = match (self.mode, self.flags) {
            (MODE_NAT, _) => "nat",
            (MODE_L2, _) => "l2",
            (_, VIP_GUE) => "gue",
            _ => "tunnel",
        };
        format!("{mode} of {:?} to {:?}", self.vips, self.backends)
    }

    pub fn is_nat(&self) -> bool {
        self.mode == MODE_NAT
    }

    /// The link that clients' packets come in on.
    pub fn outside(&self) -> u32 {
        self.plane.host.client_ifindex
    }

    /// The link that backends' packets come in on.
    pub fn inside(&self) -> u32 {
        self.plane.host.backend_ifindex
    }

    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.vips.client(), CLIENT_PORT)
    }

    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.vips.vip(), VIP_PORT)
    }

    /// Where `nat` sends from.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.backends.source(), NAT_PORT)
    }

    pub fn backend(&self) -> SocketAddr {
        SocketAddr::new(self.backends.backend(0), BACKEND_PORT)
    }

    /// A router somewhere on the way.
    pub fn router(&self) -> IpAddr {
        match self.vips {
            Family::V4 => [203, 0, 113, 9].into(),
            Family::V6 => [0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into(),
        }
    }

    /// The client's segment with these flags.
    pub fn segment(&self, flags: u8) -> Packet {
        Packet::tcp(self.client(), self.vip(), flags)
    }

    /// The client's datagram.
    pub fn datagram(&self) -> Packet {
        Packet::udp(self.client(), self.vip())
    }

    /// The client's packet as `nat` sends it on.
    pub fn translated(&self, packet: &Packet) -> Packet {
        Packet { source: self.source(), destination: self.backend(), ..packet.clone() }
    }

    /// What leaves for the backend of a packet whose headers and transport are those of `packet`.
    pub fn towards_backend(&self, packet: &Packet) -> Vec<u8> {
        let inner = match self.mode {
            MODE_NAT => self.translated(packet),
            _ => packet.clone(),
        };
        self.delivered(&Ip::of(&inner), packet.protocol)
    }

    /// What leaves for the backend when it is to get `packet`, of the client's flow of `protocol`,
    /// and all addresses are as they are to be.
    pub fn delivered(&self, packet: &Ip, protocol: u8) -> Vec<u8> {
        let aged = packet.aged();
        let frame = match self.mode {
            MODE_TUNNEL => self.outer(&aged, protocol),
            _ => aged,
        };
        frame.frame_to(backend_mac(0), BACKEND_LINK_MAC)
    }

    fn outer(&self, inner: &Ip, protocol: u8) -> Ip {
        let hash = self.hash(protocol);
        let mut body = inner.bytes();
        let mut carries = if self.vips == Family::V4 { 4 } else { 41 };
        if self.flags == VIP_GUE {
            carries = UDP;
            let length = 8 + body.len() as u16;
            let fields = [hash as u16 | 0xc000, 6080, length, 0];
            body = [fields.map(u16::to_be_bytes).concat(), body].concat();
        }
        Ip {
            class: inner.class,
            identification: 0,
            label: (hash >> 40) as u32 & 0xf_ffff,
            ..Ip::new(self.backends.source(), self.backends.backend(0), carries, body)
        }
    }

    /// Bytes that a tunnel puts in front of a packet.
    pub fn overhead(&self) -> usize {
        let ip = if self.backends == Family::V4 { 20 } else { 40 };
        match self.mode {
            MODE_TUNNEL if self.flags == VIP_GUE => ip + 8,
            MODE_TUNNEL => ip,
            _ => 0,
        }
    }

    /// The hash of the client's flow.
    fn hash(&self, protocol: u8) -> u64 {
        let (client, vip) = (self.client(), self.vip());
        let ports =
            u64::from(client.port()) << 32 | u64::from(vip.port()) << 16 | u64::from(protocol);
        match (client.ip(), vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let addresses = u64::from(client.to_bits()) << 32 | u64::from(vip.to_bits());
                sip13(HASH_KEY, &[addresses, ports])
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
                let ([a, b], [c, d]) = (halves(client.to_bits()), halves(vip.to_bits()));
                sip13(HASH_KEY, &[a, b, c, d, ports])
            }
            _ => unreachable!("client and vip are of one family"),
        }
    }

    /// The frame of a packet that leaves for the client.
    pub fn towards_client(&self, packet: &Ip) -> Vec<u8> {
        packet.aged().frame_to(GATEWAY_MAC, CLIENT_LINK_MAC)
    }

    /// The frame of a packet that begins here, and goes back where the frame came from.
    pub fn back(&self, packet: &Ip) -> Vec<u8> {
        packet.frame_to(PEER_MAC, OWN_MAC)
    }
}
