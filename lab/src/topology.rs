//! Client, balancer and backends as hosts of their own, joined by veth links:
//!
//! ```text
//!  client 10.80.0.2 ── clients 10.80.0.1 ┐          ┌ to-1 10.81.1.1 ── 10.81.1.2 backend 1
//!                                        balancer ──┤ to-2 10.81.2.1 ── 10.81.2.2 backend 2
//!       vip 192.0.2.10 via 10.80.0.1                └ …
//! ```
//!
//! Two things make veth behave like a network card towards XDP: senders compute their checksums
//! (`tx off`; a partial one would leave as a wrong one), and the far end of a link that XDP
//! transmits on has its receive queue on (`gro on`, Linux 5.13 and later). What XDP sends back over the
//! link that it came in on needs a program at the far end as well.
//!
//! The links to the backends can be [`Wire`]s, on which frames take their time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::command;
use crate::netns::Netns;
use crate::wire::Wire;

/// The address of the L4 services.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The balancer's address on the client's link.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 2);
/// The balancer's link to the client.
pub const CLIENT_LINK: &str = "clients";
/// The port of every backend.
pub const BACKEND_PORT: u16 = 8080;

/// The hosts. Dropping it removes them and their links.
#[derive(Debug)]
pub struct Topology {
    /// Where requests come from.
    pub client: Netns,
    /// Where the daemon runs.
    pub balancer: Netns,
    /// Where backends run, number 1 first.
    pub backends: Vec<Netns>,
    #[allow(dead_code, reason = "lives as long as the hosts")]
    wires: Vec<Wire>,
}

impl Topology {
    /// Builds it with so many backends; names begin with `PREFIX-PID-`, and with a number after it
    /// from this process's second topology on.
    ///
    /// # Errors
    /// If a namespace or link can't be made; what was made is removed.
    pub fn build(prefix: &str, backends: u8) -> Result<Self> {
        Self::build_apart(prefix, backends, Duration::ZERO)
    }

    /// As [`build`](Self::build), with backends that are `delay` away from the balancer, each way.
    ///
    /// # Errors
    /// As `build`.
    pub fn build_apart(prefix: &str, backends: u8, delay: Duration) -> Result<Self> {
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let maker = match BUILT.fetch_add(1, Ordering::Relaxed) {
            0 => format!("{prefix}-{}", std::process::id()),
            before => format!("{prefix}-{}-{}", std::process::id(), before + 1),
        };
        let named = |role: &str| format!("{maker}-{role}");
        let balancer = Netns::create(named("balancer"))?;
        // XDP asks the kernel's forwarding table for the next hop.
        balancer.sysctl("ipv4/ip_forward", "1")?;
        let client = Netns::create(named("client"))?;
        veth(&balancer, CLIENT_LINK, &client)?;
        address([(&balancer, CLIENT_LINK, BALANCER), (&client, "eth0", CLIENT)])?;
        client.ip(&format!("route add default via {BALANCER}"))?;
        let mut topology = Self { client, balancer, backends: Vec::new(), wires: Vec::new() };
        for number in 1..=backends {
            let backend = Netns::create(named(&format!("backend-{number}")))?;
            let gateway = Ipv4Addr::new(10, 81, number, 1);
            let name = format!("to-{number}");
            if delay.is_zero() {
                veth(&topology.balancer, &name, &backend)?;
            } else {
                let ends = [(&topology.balancer, &*name), (&backend, "eth0")];
                let middle = named(&format!("wire-{number}"));
                topology.wires.push(Wire::lay(middle, ends, delay)?);
            }
            let own = (&topology.balancer, &*name, gateway);
            address([own, (&backend, "eth0", backend_address(number))])?;
            backend.ip(&format!("route add default via {gateway}"))?;
            topology.backends.push(backend);
        }
        Ok(topology)
    }
}

/// The address of a backend, from number 1.
#[must_use]
pub fn backend_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 81, number, 2)
}

/// The address and port of a backend, from number 1.
#[must_use]
pub fn backend_socket(number: u8) -> SocketAddr {
    SocketAddr::from((backend_address(number), BACKEND_PORT))
}

fn veth(balancer: &Netns, name: &str, host: &Netns) -> Result<()> {
    let peer = host.name();
    balancer.ip(&format!("link add {name} type veth peer name eth0 netns {peer}")).map(drop)
}

/// Gives both ends of a link their addresses.
fn address(ends: [(&Netns, &str, Ipv4Addr); 2]) -> Result<()> {
    for (netns, device, address) in ends {
        netns.ip(&format!("address add {address}/24 dev {device}"))?;
        netns.ip(&format!("link set {device} up"))?;
        let mut ethtool = netns.command("ethtool");
        command::output(ethtool.args(["-K", device, "tx", "off", "gro", "on"]))?;
    }
    Ok(())
}
