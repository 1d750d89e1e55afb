//! How a listener speaks TLS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Authorities, Rate};

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTls {
    /// At least one; the first is for clients that ask for no name, or for one that none has.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates; `None` if they are not asked for any.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes of one address; `None` for any number.
    pub handshake_rate: Option<Rate>,
    /// What becomes of requests for a host that the connection was not made for.
    pub sni_mismatch: SniMismatch,
}

/// Where a certificate and its key are. What is in the files no configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateFiles {
    /// The certificate and those that lead from it to an authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What its authority says of it, for clients to have with it.
    pub ocsp: Option<PathBuf>,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAuth {
    /// Whether they must.
    pub mode: ClientAuthMode,
    /// Who must have signed them.
    pub authorities: Authorities,
    /// The header that tells backends the subject, in lower case.
    pub subject_header: Option<String>,
    /// The header that tells backends the SHA-256 of the certificate, in lower case.
    pub fingerprint_header: Option<String>,
}

/// Whether clients must show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthMode {
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// What becomes of requests for a host that another certificate is for than the connection's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SniMismatch {
    /// 421: the client makes another connection, which gets that certificate.
    #[default]
    Misdirected,
    /// They are served.
    Allow,
}
