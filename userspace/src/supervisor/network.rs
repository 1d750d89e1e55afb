//! What the host's network says: sources, links and ports for the L4 plane.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use steerage_common::hash::key_from_seed;

use super::Error;
use crate::config::Model;
use crate::config::model::table_address;

/// Who this host is towards a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The source address that the routing table prefers.
    pub source: IpAddr,
    /// The link that carries that address.
    pub interface: String,
}

/// The way to `backend`, by what [`links`] gave; `None` without a route.
#[must_use]
pub fn path_to(backend: SocketAddr, links: &HashMap<IpAddr, String>) -> Option<Path> {
    let source = source_towards(backend)?;
    Some(Path { source, interface: links.get(&source)?.clone() })
}

/// The address that packets to `backend` would come from. Sends nothing: connecting a datagram
/// socket only looks the route up.
fn source_towards(backend: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match backend {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(backend).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Looks for the links of the model's vips.
///
/// # Errors
/// Names the first vip whose link this host has not.
pub fn check_links(model: &Model) -> Result<(), Error> {
    let all = model.vips.iter().flat_map(|vip| vip.interfaces.iter().map(move |link| (vip, link)));
    for (vip, link) in all {
        if nix::net::if_::if_nametoindex(link.as_str()).is_err() {
            let (vip, interface) = (vip.name.clone(), link.clone());
            return Err(Error::NoInterface { vip, interface });
        }
    }
    Ok(())
}

/// The families of packets that go on to backends of vips: those that the kernel must forward.
#[must_use]
pub fn families(model: &Model) -> Vec<u8> {
    let backends = model.vips.iter().flat_map(|vip| &model.services[vip.service].backends);
    let mut families: Vec<u8> =
        backends.map(|backend| table_address(backend.address.ip()).1).collect();
    families.sort_unstable();
    families.dedup();
    families
}

/// The links of this host by their addresses.
///
/// # Errors
/// If the kernel refuses to tell.
pub fn links() -> io::Result<HashMap<IpAddr, String>> {
    let mut links = HashMap::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let ip = address
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
        if let Some(ip) = ip {
            links.entry(ip).or_insert(entry.interface_name);
        }
    }
    Ok(links)
}

/// The ports that `nat` gives to flows: first and count.
///
/// They lie outside the range that the host's own connections come from, so that a backend's packet
/// belongs either to a flow or to a socket of this host, never to both.
///
/// # Errors
/// If the kernel's range can't be read.
pub fn nat_ports() -> io::Result<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => Ok(ports_beside(low, high)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("net.ipv4.ip_local_port_range is {text:?}"),
        )),
    }
}

/// The larger of the two ranges beside `low..=high`, from 1024 up.
fn ports_beside(low: u16, high: u16) -> (u16, u16) {
    const FIRST: u16 = 1024;
    let below = low.saturating_sub(FIRST);
    let above = u16::MAX - high;
    if below >= above { (FIRST, below) } else { (high + 1, above) }
}

/// The key of the packet hash: from the configured seed, or else from the host's boot id, which is
/// secret enough and lasts as long as flows do.
///
/// # Errors
/// If the boot id is needed and can't be read.
pub fn hash_key(seed: Option<&str>) -> io::Result<[u64; 2]> {
    match seed {
        Some(seed) => Ok(key_from_seed(seed.as_bytes())),
        None => {
            let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
            Ok(key_from_seed(boot_id.trim().as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nat_takes_the_larger_range_beside_the_hosts_own() {
        assert_eq!(ports_beside(32768, 60999), (1024, 31744));
        assert_eq!(ports_beside(1024, 30000), (30001, 35535));
        assert_eq!(ports_beside(1024, 65535), (1024, 0));
    }

    #[test]
    fn the_way_to_ourselves_is_the_loopback() {
        let path = path_to("127.0.0.1:80".parse().unwrap(), &links().unwrap()).unwrap();
        assert_eq!(path, Path { source: "127.0.0.1".parse().unwrap(), interface: "lo".into() });
    }

    #[test]
    fn without_a_seed_the_key_lasts_until_the_next_boot() {
        assert_eq!(hash_key(None).unwrap(), hash_key(None).unwrap());
        assert_ne!(hash_key(Some("a")).unwrap(), hash_key(Some("b")).unwrap());
    }
}
