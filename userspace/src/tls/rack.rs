//! The certificates of one listener: which one a client is shown.
//!
//! By the name that it asks for, an exact one before a wildcard. Of several for the same name (of RSA and of
//! ECDSA, say) the first whose kind of key the client knows. Who asks for no name, or for one that none is
//! for, is shown the listener's first.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::names::{Index, Names};
use super::shelf::Shelf;
use crate::config::model::CertificateFiles;

/// The certificates of one listener.
#[derive(Debug, Default)]
pub struct Rack {
    certificates: Vec<(Arc<CertifiedKey>, Arc<Names>)>,
    index: Index,
    /// What is shown to those for whom there is nothing else.
    first: Vec<usize>,
}

impl Rack {
    /// Takes a listener's certificates from the shelf. One that is not there, or broken, is left out: the
    /// supervisor has checked them all.
    #[must_use]
    pub fn new(files: &[CertificateFiles], shelf: &Shelf) -> Self {
        let mut certificates = Vec::with_capacity(files.len());
        for files in files {
            let Some(pair) = shelf.get(files) else {
                tracing::error!(cert = %files.cert.display(), "a certificate did not come");
                continue;
            };
            match pair.open() {
                Ok((certified, names)) => certificates.push((certified, Arc::new(names))),
                Err(why) => {
                    tracing::error!(cert = %files.cert.display(), %why, "a certificate is left out");
                }
            }
        }
        let index = Index::new(certificates.iter().map(|(_, names)| &**names));
        let is_first = |place: &usize| certificates[*place].1 == certificates[0].1;
        let first = (0..certificates.len()).filter(is_first).collect();
        Self { certificates, index, first }
    }

    fn places(&self, name: Option<&str>) -> &[usize] {
        let found = name.map_or(&[][..], |name| self.index.find(&name.to_ascii_lowercase()));
        if found.is_empty() { &self.first } else { found }
    }

    /// The names of the certificate that who asks for `name` is shown.
    #[must_use]
    pub fn names(&self, name: Option<&str>) -> Arc<Names> {
        let place = self.places(name).first();
        place.map(|place| self.certificates[*place].1.clone()).unwrap_or_default()
    }

    /// Whether some certificate is for a host (in lower case).
    #[must_use]
    pub fn knows(&self, host: &str) -> bool {
        !self.index.find(host).is_empty()
    }
}

impl ResolvesServerCert for Rack {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let places = self.places(hello.server_name());
        let schemes = hello.signature_schemes();
        let suits =
            |place: &&usize| self.certificates[**place].0.key.choose_scheme(schemes).is_some();
        let place = places.iter().find(suits).or(places.first())?;
        Some(self.certificates[*place].0.clone())
    }
}
