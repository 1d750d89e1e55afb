//! What is needed beside the model, and must not be in it.

use std::collections::HashMap;
use std::fmt;

use rustls::Error;
use rustls::pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use super::config;
use crate::config::model::{ClientCertificate, Model, Trust, UpstreamTls};
use crate::pem::{self, Fault};

/// Private keys, and the authorities of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    /// The certificates of authorities that the system trusts, in DER; `None` if nobody needs them.
    system: Option<Vec<Vec<u8>>>,
    keys: Vec<Key>,
}

/// A certificate's key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    /// The certificate in DER.
    certificate: Vec<u8>,
    /// The key in DER.
    key: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A key that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file can't be read, or has no key.
    #[error("service {service:?}: {source}")]
    File {
        /// The service.
        service: String,
        /// What is wrong with the file.
        source: Fault,
    },
    /// The parts do not make a client: the file has changed since it was looked at, say.
    #[error("service {service:?}: no client for TLS can be made of its files: {source}")]
    Parts {
        /// The service.
        service: String,
        /// What is wrong with them.
        source: Error,
    },
}

impl Keyring {
    /// All that a model needs. What `former` has is taken from there: files that have changed since count
    /// when the configuration is read again.
    ///
    /// # Errors
    /// If a key can't be read, or is not that of its certificate.
    pub fn fill(model: &Model, former: &Self) -> Result<Self, Unreadable> {
        let known: HashMap<_, _> = former.keys.iter().map(|key| (&key.certificate, key)).collect();
        let mut ring = Self::default();
        for (service, tls) in spoken(model) {
            if tls.trust == Trust::System && ring.system.is_none() {
                ring.system = Some(former.system.clone().unwrap_or_else(system));
            }
            if let Some(client) = &tls.client
                && let Some(certificate) = client.chain.first()
                && ring.find(client).is_none()
            {
                let key = match known.get(certificate) {
                    Some(key) => (*key).clone(),
                    None => read(client, certificate)
                        .map_err(|source| Unreadable::File { service: service.into(), source })?,
                };
                ring.keys.push(key);
            }
            // Workers make the same of the same: what fails there fails here first.
            config(tls, &ring, &[])
                .map_err(|source| Unreadable::Parts { service: service.into(), source })?;
        }
        Ok(ring)
    }

    /// The certificates of authorities that the system trusts.
    pub(super) fn system(&self) -> &[Vec<u8>] {
        self.system.as_deref().unwrap_or_default()
    }

    /// A certificate's key.
    pub(super) fn key(&self, client: &ClientCertificate) -> Result<PrivateKeyDer<'static>, Error> {
        let key = self.find(client).ok_or_else(|| Error::General("its key is not there".into()))?;
        PrivateKeyDer::try_from(key.key.clone()).map_err(|reason| Error::General(reason.into()))
    }

    fn find(&self, client: &ClientCertificate) -> Option<&Key> {
        let certificate = client.chain.first()?;
        self.keys.iter().find(|key| key.certificate == *certificate)
    }
}

/// Every way in which a model speaks TLS to backends, with the service's name.
pub fn spoken(model: &Model) -> impl Iterator<Item = (&str, &UpstreamTls)> {
    model.services.iter().flat_map(|service| {
        let probe = service.probe.as_ref().and_then(|probe| probe.check.kind.tls());
        let both = service.upstream_tls.iter().chain(probe);
        both.map(|tls| (service.name.as_str(), tls))
    })
}

fn read(client: &ClientCertificate, certificate: &[u8]) -> Result<Key, Fault> {
    let key = pem::text(&client.key).and_then(|text| pem::key(&Zeroizing::new(text)));
    let key = key.map_err(|why| why.of(&client.key))?;
    Ok(Key { certificate: certificate.to_vec(), key: key.secret_der().to_vec() })
}

fn system() -> Vec<Vec<u8>> {
    let system = rustls_native_certs::load_native_certs();
    for error in system.errors {
        warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    if system.certs.is_empty() {
        warn!("the system trusts no certificate authority: no backend passes; name one by `ca`");
    }
    system.certs.into_iter().map(|certificate| certificate.to_vec()).collect()
}
