//! How TLS is spoken to backends, as written.

use serde::Deserialize;
use toml::Spanned;

use crate::config::model::TlsVersion;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    pub ca: Option<Spanned<String>>,
    pub sni: Option<Spanned<String>>,
    pub verify: Option<Spanned<bool>>,
    pub cert: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
    #[serde(default)]
    pub min_version: TlsVersion,
}
