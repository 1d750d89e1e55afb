//! What clients of vips may do, as written.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::Span;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    pub deny: Vec<Spanned<Net>>,
    pub allow: Vec<Spanned<Net>>,
    pub exempt: Vec<Spanned<Net>>,
    pub prefix: Prefix,
    pub packet_rate: Option<Spanned<Rate>>,
    pub syn_rate: Option<Spanned<Rate>>,
    pub syn_flood: Option<Spanned<SynFlood>>,
    pub offenders: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            deny: Vec::new(),
            allow: Vec::new(),
            exempt: Vec::new(),
            prefix: Prefix::default(),
            packet_rate: None,
            syn_rate: None,
            syn_flood: None,
            offenders: true,
        }
    }
}

/// A network, or one address.
#[derive(Clone, Copy)]
pub struct Net(pub IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no network; write \"10.0.0.0/8\", \"2001:db8::/32\" or an address"
            ))
        })
    }
}

/// When a listener has an address held back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offenders {
    pub strikes: u32,
    pub within: Span,
    pub hold: Spanned<Span>,
    pub packet_rate: u32,
}

impl Default for Offenders {
    fn default() -> Self {
        Self {
            strikes: 20,
            within: Span::seconds(10),
            hold: Spanned::new(0..0, Span::seconds(30)),
            packet_rate: 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    pub v4: Spanned<u8>,
    pub v6: Spanned<u8>,
}

impl Default for Prefix {
    fn default() -> Self {
        Self { v4: Spanned::new(0..0, 32), v6: Spanned::new(0..0, 64) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub rate: u32,
    pub burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynFlood {
    pub above: Spanned<u32>,
    #[serde(default = "hold")]
    pub hold: Spanned<Span>,
    #[serde(default = "proof")]
    pub proof: Spanned<Span>,
}

fn hold() -> Spanned<Span> {
    Spanned::new(0..0, Span::seconds(5))
}

fn proof() -> Spanned<Span> {
    Spanned::new(0..0, Span::seconds(60))
}
