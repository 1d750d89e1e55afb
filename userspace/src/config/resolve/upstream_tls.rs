//! How TLS is spoken to backends: names that can be, authorities that are some, and a key that fits its
//! certificate.

use std::ops::Range;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use toml::Spanned;

use super::Resolver;
use crate::config::model::{Authorities, ClientCertificate, Trust, UpstreamTls};
use crate::config::schema;

impl Resolver<'_> {
    /// `else_name` is the name where the table has none, with its place in the file.
    pub(super) fn upstream_tls(
        &mut self,
        tls: schema::UpstreamTls,
        else_name: Option<(String, Range<usize>)>,
    ) -> UpstreamTls {
        let schema::UpstreamTls { ca, sni, verify, cert, key, min_version } = tls;
        let trust = self.trust(ca, verify.is_none_or(Spanned::into_inner));
        let name = sni.map(|sni| (sni.get_ref().clone(), sni.span())).or(else_name);
        if let Some((name, span)) = &name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let message = format!("{name:?} is no name that a certificate can be for");
            self.problem(span.clone(), message);
        }
        let client = self.client_certificate(cert, key);
        UpstreamTls { trust, name: name.map(|(name, _)| name), min_version, client }
    }

    fn trust(&mut self, ca: Option<Spanned<String>>, verifies: bool) -> Trust {
        match ca {
            Some(ca) if !verifies => {
                self.problem(ca.span(), "ca: nothing is verified by it; remove it, or verify");
                Trust::Anybody
            }
            None if !verifies => Trust::Anybody,
            None => Trust::System,
            Some(ca) => match self.authorities(ca.get_ref()) {
                Ok(authorities) => Trust::Authorities(authorities),
                Err(message) => {
                    self.problem(ca.span(), format!("ca: {message}"));
                    Trust::System
                }
            },
        }
    }

    pub(super) fn authorities(&self, file: &str) -> Result<Authorities, String> {
        let path = self.directory.join(file);
        let shown = path.display();
        let certificates = certificates(&path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| format!("{shown} has a certificate that is none: {error}"))?;
        }
        let certificates = certificates.into_iter().map(|certificate| certificate.to_vec());
        Ok(Authorities { file: path, certificates: certificates.collect() })
    }

    fn client_certificate(
        &mut self,
        cert: Option<Spanned<String>>,
        key: Option<Spanned<String>>,
    ) -> Option<ClientCertificate> {
        let (cert, key) = match (cert, key) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(cert), None) => {
                self.problem(cert.span(), "cert: needs its key; add key = \"tls/client.key\"");
                return None;
            }
            (None, Some(key)) => {
                let message = "key: needs its certificate; add cert = \"tls/client.pem\"";
                self.problem(key.span(), message);
                return None;
            }
            (None, None) => return None,
        };
        let (cert_path, key_path) =
            (self.directory.join(cert.get_ref()), self.directory.join(key.get_ref()));
        let chain = certificates(&cert_path);
        if let Err(message) = &chain {
            self.problem(cert.span(), format!("cert: {message}"));
        }
        let chain = chain.ok()?;
        if let Err(message) = check_key(&key_path, &chain, &cert_path) {
            self.problem(key.span(), format!("key: {message}"));
            return None;
        }
        let chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
        Some(ClientCertificate { cert: cert_path, key: key_path, chain })
    }
}

/// The certificates in a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path);
    let read = read.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{shown} has no certificate"));
    }
    Ok(certificates)
}

/// Whether the key is one, and that of the chain's first certificate.
fn check_key(path: &Path, chain: &[CertificateDer<'static>], cert: &Path) -> Result<(), String> {
    let shown = path.display();
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("{shown} has no private key"),
        error => format!("{shown} cannot be read: {error}"),
    })?;
    match CertifiedKey::from_der(chain.to_vec(), key, &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(format!("{shown} is not the key of the certificate in {}", cert.display()))
        }
        Err(error) => Err(format!("{shown} with {}: {error}", cert.display())),
    }
}
