//! How a listener speaks TLS, as written.

use serde::Deserialize;
use toml::Spanned;

use super::{Rate, Span};
use crate::config::model::{ClientAuthMode, SniMismatch, TlsVersion};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub cert: Spanned<String>,
    pub key: Spanned<String>,
    pub ocsp: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    pub mode: ClientAuthMode,
    pub ca: Spanned<String>,
    pub subject_header: Option<Spanned<String>>,
    pub fingerprint_header: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTls {
    pub min_version: TlsVersion,
    pub handshake_timeout: Span,
    pub handshake_rate: Option<Spanned<Rate>>,
    pub sni_mismatch: SniMismatch,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            min_version: TlsVersion::default(),
            handshake_timeout: Span::seconds(5),
            handshake_rate: None,
            sni_mismatch: SniMismatch::default(),
        }
    }
}
