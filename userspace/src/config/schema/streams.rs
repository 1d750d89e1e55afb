//! What concerns connections as a whole, as written.

use serde::Deserialize;
use toml::Spanned;

use super::Net;

/// From whom a listener takes PROXY headers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    pub accept_from: Spanned<Vec<Net>>,
}
