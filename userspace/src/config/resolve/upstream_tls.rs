//! How TLS is spoken to backends: names that can be, authorities that are some, and a key that fits its
//! certificate.

use std::ops::Range;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use toml::Spanned;
use zeroize::Zeroizing;

use super::Resolver;
use crate::config::model::{Authorities, ClientCertificate, Trust, UpstreamTls};
use crate::config::schema;
use crate::pem::{self, Fault, Why};

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

    pub(super) fn authorities(&self, file: &str) -> Result<Authorities, Fault> {
        let path = self.directory.join(file);
        let certificates = certificates(&path)?;
        let mut roots = RootCertStore::empty();
        for (at, certificate) in (1..).zip(&certificates) {
            let added = roots.add(certificate.clone());
            let none = |error: rustls::Error| Why::Certificate { at, error: error.to_string() };
            added.map_err(|error| none(error).of(&path))?;
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
        if let Err(fault) = &chain {
            self.problem(cert.span(), format!("cert: {fault}"));
        }
        let chain = chain.ok()?;
        let pair = pem::text(&key_path).and_then(|text| pem::key(&Zeroizing::new(text)));
        let pair = pair.and_then(|key| pem::certified(chain.clone(), key, &cert_path));
        if let Err(why) = pair {
            self.problem(key.span(), format!("key: {}", why.of(&key_path)));
            return None;
        }
        let chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
        Some(ClientCertificate { cert: cert_path, key: key_path, chain })
    }
}

/// The certificates in a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read = pem::text(path).and_then(|text| pem::certificates(&text));
    read.map_err(|why| why.of(path))
}
