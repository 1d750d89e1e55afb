//! How TLS is spoken to backends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{TlsVersion, Trust};

/// How TLS is spoken to backends, by requests or by probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpstreamTls {
    /// Whose word for a backend's certificate is taken.
    pub trust: Trust,
    /// The name that the certificate must be for, and that is asked for by SNI; `None` for the backend's
    /// own: that by which DNS knows it, or else its address.
    pub name: Option<String>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What is shown to backends that ask who is there.
    pub client: Option<ClientCertificate>,
}

/// A certificate of Steerage's own. Its key is in no model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate's file.
    pub cert: PathBuf,
    /// Its key's file.
    pub key: PathBuf,
    /// What was in `cert` when the configuration was read, in DER: the certificate first.
    pub chain: Vec<Vec<u8>>,
}
