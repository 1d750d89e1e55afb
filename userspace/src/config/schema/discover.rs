//! `[service.discover]`.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

use super::Span;
use crate::config::model::Records;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    pub dns: Spanned<String>,
    #[serde(default, rename = "type")]
    pub records: Records,
    pub weight: Option<Spanned<u16>>,
    #[serde(default = "ttl_min")]
    pub ttl_min: Span,
    #[serde(default = "ttl_max")]
    pub ttl_max: Span,
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
}

const fn ttl_min() -> Span {
    Span::seconds(5)
}

const fn ttl_max() -> Span {
    Span::seconds(300)
}
