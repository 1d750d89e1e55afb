//! Next hops whose link address the kernel does not know yet.
//!
//! XDP can look neighbours up but not ask for them. A packet whose next hop is unknown is dropped, its
//! program tells the supervisor, and the supervisor makes the kernel ask; the sender's retransmission
//! then finds the answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steerage_common::abi::{FAMILY_IPV6, NeighborEvent};

use super::{Error, netlink};

/// Makes the kernel resolve `address` on the link `ifindex`.
///
/// # Errors
/// If the kernel refuses: there is no such link, or the process lacks the privilege.
pub fn resolve(ifindex: u32, address: IpAddr) -> Result<(), Error> {
    let outcome = match address {
        IpAddr::V4(v4) => netlink::use_neighbor(ifindex, libc::AF_INET as u8, &v4.octets()),
        IpAddr::V6(v6) => netlink::use_neighbor(ifindex, libc::AF_INET6 as u8, &v6.octets()),
    };
    outcome.map_err(|source| Error::Neighbor { ifindex, address, source })
}

/// The next hop that an event is about.
#[must_use]
pub fn address_of(event: &NeighborEvent) -> IpAddr {
    if event.family == FAMILY_IPV6 {
        return Ipv6Addr::from(event.address).into();
    }
    let [a, b, c, d, ..] = event.address;
    Ipv4Addr::new(a, b, c, d).into()
}
