//! The XDP program on packets of our own making, by `BPF_PROG_TEST_RUN`.
//!
//! Nothing is mocked but the wire: a [`Host`] is a network namespace with real links, routes and
//! neighbours, a [`Plane`] is a loaded program with its maps pinned in a directory of its own, and
//! [`Plane::receive`] hands it a frame as if it came in on one of the links.

mod flow;
mod host;
pub mod ip;
pub mod measure;
pub mod packet;
mod plane;
pub mod vector;

pub use flow::{answer, home_of, segment, slot_of};
pub use host::{
    BACKEND_LINK, BACKEND_LINK_MAC, CLIENT_LINK, CLIENT_LINK_MAC, GATEWAY_MAC, Host, backend_mac,
};
pub use plane::{Action, Choices, HASH_KEY, Plane, Verdict, client_socket, vip_socket};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn choose(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }

    /// The service address.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        self.choose(VIP, Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10))
    }

    /// A client's address.
    #[must_use]
    pub fn client(self) -> IpAddr {
        self.choose(CLIENT, Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 1, 2, 3, 7))
    }

    /// The host's address on the backends' link.
    #[must_use]
    pub fn source(self) -> IpAddr {
        self.choose(SOURCE, Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1))
    }

    /// The address of the backend at `slot`.
    #[must_use]
    pub fn backend(self, slot: u16) -> IpAddr {
        self.choose(backend(slot), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0x16, slot))
    }
}

/// The service address of most tests.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Its port.
pub const VIP_PORT: u16 = 80;
/// A client, reached through the host's default route.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The host's address on the backends' link: where `nat` sends from.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// The port that backends listen on.
pub const BACKEND_PORT: u16 = 8080;
/// First port of `nat`.
pub const NAT_PORT_FIRST: u16 = 1024;
/// Number of ports of `nat`.
pub const NAT_PORT_COUNT: u16 = 30_000;

/// The IPv4 address of the backend at `slot`.
#[must_use]
pub fn backend(slot: u16) -> Ipv4Addr {
    let [high, low] = slot.to_be_bytes();
    Ipv4Addr::new(10, 2, 16 + high, low)
}
