//! Backends that DNS names.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where backends are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Discover {
    /// The name that is asked for.
    pub name: String,
    /// The port of backends that address records name; those of SRV records have theirs.
    pub port: u16,
    /// Which records.
    pub records: Records,
    /// The weight of backends that address records name.
    pub weight: u16,
    /// An answer counts at least so long, whatever its time to live.
    pub ttl_min: Duration,
    /// And at most so long.
    pub ttl_max: Duration,
    /// Who is asked; empty for the host's own servers.
    pub servers: Vec<SocketAddr>,
}

/// Which records name backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Records {
    /// IPv4 and IPv6 addresses.
    #[default]
    Any,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Names, ports, weights and priorities (RFC 2782); the lowest priority is the first tier.
    Srv,
}
