//! What clients of vips may do.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What clients of vips may do, packet by packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Sources whose packets are dropped. Of all three lists the longest prefix decides.
    pub deny: Vec<IpNet>,
    /// Sources whose packets are not, though a shorter prefix is denied.
    pub allow: Vec<IpNet>,
    /// Sources that nothing of this concerns.
    pub exempt: Vec<IpNet>,
    /// What counts as one source.
    pub prefix: Prefix,
    /// Packets of a source; `None` for any number.
    pub packet_rate: Option<Rate>,
    /// SYNs of a source; `None` for any number.
    pub syn_rate: Option<Rate>,
    /// When sources must prove themselves; `None` for never.
    pub syn_flood: Option<SynFlood>,
    /// Whether sources that listeners report are held back.
    pub offenders: bool,
}

impl Guard {
    /// Whether it lets everything pass.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let Self {
            deny,
            allow: _,
            exempt: _,
            prefix: _,
            packet_rate,
            syn_rate,
            syn_flood,
            offenders,
        } = self;
        deny.is_empty()
            && packet_rate.is_none()
            && syn_rate.is_none()
            && syn_flood.is_none()
            && !offenders
    }
}

/// When a listener has an address held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offenders {
    /// So often it was refused, or cut off for a flood; 0 for never.
    pub strikes: u32,
    /// Within this time.
    pub within: Duration,
    /// How long it is held back.
    pub hold: Duration,
    /// Packets a second that it may send meanwhile; 0 for none.
    pub packet_rate: u32,
}

/// Bits of an address that make a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// Of IPv4.
    pub v4: u8,
    /// Of IPv6.
    pub v6: u8,
}

impl Default for Prefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// A second.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

/// When a vip is under flood, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynFlood {
    /// SYNs a second to one vip that begin a flood; half as many make it go on.
    pub above: u32,
    /// For how long it goes on after the last sign of it.
    pub hold: Duration,
    /// How long a source that proved itself is believed.
    pub proof: Duration,
}
