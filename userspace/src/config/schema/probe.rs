//! A service's active check as written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::{Span, UpstreamTls};
use crate::config::model::ProbeMethod;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub kind: ProbeKind,
    pub path: Option<Spanned<String>>,
    pub host: Option<Spanned<String>>,
    pub method: Option<Spanned<ProbeMethod>>,
    pub headers: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    pub expect: Option<Spanned<Expect>>,
    pub service: Option<Spanned<String>>,
    pub tls: Option<Spanned<UpstreamTls>>,
    pub address: Option<Spanned<IpAddr>>,
    pub port: Option<Spanned<u16>>,
    #[serde(default = "two_seconds")]
    pub interval: Span,
    pub timeout: Option<Span>,
    #[serde(default = "two")]
    pub rise: u8,
    #[serde(default = "three")]
    pub fall: u8,
}

fn two_seconds() -> Span {
    Span::seconds(2)
}

fn two() -> u8 {
    2
}

fn three() -> u8 {
    3
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    Http,
    Https,
    Tcp,
    Grpc,
    Grpcs,
}

impl ProbeKind {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub status: Option<Spanned<Vec<Spanned<Statuses>>>>,
    pub body: Option<Spanned<String>>,
}

/// A status as a number, or a range of them as text.
pub struct Statuses(pub String);

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Statuses;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a status such as 204, or a range such as \"200-299\"")
            }
            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Statuses, E> {
                Ok(Statuses(status.to_string()))
            }
            fn visit_str<E: de::Error>(self, range: &str) -> Result<Statuses, E> {
                Ok(Statuses(range.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
