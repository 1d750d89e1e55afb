//! Active checks.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::UpstreamTls;
use crate::l4::proxy_protocol::Version as ProxyVersion;

/// Bytes of an answer's body that a probe reads at most.
pub const PROBE_BODY_MAX: usize = 64 * 1024;

/// An active check, and what a service makes of its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked, and how often.
    pub check: Check,
    /// Good checks in a row that bring a backend back.
    pub rise: u8,
    /// Failed checks in a row that take a backend down.
    pub fall: u8,
}

/// What is asked, where and how often: services with the same check of an address share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Address to ask instead of the backend's own.
    pub address: Option<IpAddr>,
    /// Port to ask instead of the backend's own.
    pub port: Option<u16>,
    /// The PROXY header that goes before the question; `None` for none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

impl Check {
    /// Whom to ask about a backend.
    #[must_use]
    pub fn target(&self, backend: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(backend.ip()), self.port.unwrap_or(backend.port()))
    }
}

impl Check {
    /// Whether the certificate that it is shown must be for the name that the backend itself has.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.address.is_none() && self.kind.tls().is_some_and(|tls| tls.name.is_none())
    }

    /// The same of a backend that is known by `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let mut check = self.clone();
        let tls = match &mut check.kind {
            CheckKind::Tcp => None,
            CheckKind::Http(check) => check.tls.as_mut(),
            CheckKind::Grpc(check) => check.tls.as_mut(),
        };
        if let Some(tls) = tls {
            tls.name = Some(name.to_owned());
        }
        check
    }
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckKind {
    /// Whether a connection is accepted.
    Tcp,
    /// Whether a request is answered as expected.
    Http(HttpCheck),
    /// Whether `grpc.health.v1.Health/Check` says `SERVING`, by HTTP/2 with prior knowledge.
    Grpc(GrpcCheck),
}

impl CheckKind {
    /// How the connection is made secret; `None` for a plain one.
    #[must_use]
    pub fn tls(&self) -> Option<&UpstreamTls> {
        match self {
            Self::Tcp => None,
            Self::Http(check) => check.tls.as_ref(),
            Self::Grpc(check) => check.tls.as_ref(),
        }
    }
}

/// Whose word for a certificate is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trust {
    /// The authorities that the system trusts.
    System,
    /// These authorities.
    Authorities(Authorities),
    /// Anybody's: nothing is verified.
    Anybody,
}

/// Certificates of authorities, read from a file with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// The file.
    pub file: PathBuf,
    /// Its certificates in DER; each one is an authority's.
    pub certificates: Vec<Vec<u8>>,
}

impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Checks are looked up often, and the same file rarely has two contents.
        self.file.hash(state);
    }
}

/// A request, and the answer that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The method.
    pub method: ProbeMethod,
    /// Request target.
    pub path: String,
    /// `Host` header; `None` for the address that is asked.
    pub host: Option<String>,
    /// More headers: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The statuses that are good.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// What the first [`PROBE_BODY_MAX`] bytes of the body must hold.
    pub body: Option<String>,
    /// For HTTPS.
    pub tls: Option<UpstreamTls>,
}

/// The method of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    /// `GET`.
    #[default]
    Get,
    /// `HEAD`.
    Head,
}

/// A question to gRPC's health service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GrpcCheck {
    /// The service that is asked about; empty for the server as a whole.
    pub service: String,
    /// `:authority`; `None` for the address that is asked.
    pub host: Option<String>,
    /// More metadata: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// For gRPC over TLS.
    pub tls: Option<UpstreamTls>,
}
