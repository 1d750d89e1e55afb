//! How a listener speaks TLS. What is in the files of certificates and keys is looked at by
//! [`crate::tls::shelf`], and is in no model.

use std::collections::HashSet;
use std::ops::Range;

use http::HeaderName;
use toml::Spanned;

use super::Resolver;
use crate::config::model::{CertificateFiles, ClientAuth, ListenerTls};
use crate::config::schema::{self, ListenerProtocol};

/// Headers that can't be taken for a certificate's: what they say is needed, or is said by Steerage.
const TAKEN: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "upgrade",
    "expect",
    "cookie",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
];

/// What a listener says of TLS.
pub(super) struct Written {
    pub(super) certificates: Option<Spanned<Vec<schema::Certificate>>>,
    pub(super) client_auth: Option<Spanned<schema::ClientAuth>>,
    pub(super) tls: Option<Spanned<schema::ListenerTls>>,
}

impl Resolver<'_> {
    /// `name` is that of the listener.
    pub(super) fn listener_tls(
        &mut self,
        name: &Spanned<String>,
        protocol: ListenerProtocol,
        written: Written,
    ) -> Option<ListenerTls> {
        let Written { certificates, client_auth, tls } = written;
        if protocol != ListenerProtocol::Https {
            for (key, span) in [
                ("certificates", span(&certificates)),
                ("client_auth", span(&client_auth)),
                ("tls", span(&tls)),
            ] {
                if let Some(span) = span {
                    let message = format!("{key}: for protocol = \"https\" alone; remove it");
                    self.problem(span, message);
                }
            }
            return None;
        }
        let certificates = self.certificates(name, certificates);
        let tls = tls.map(Spanned::into_inner).unwrap_or_default();
        Some(ListenerTls {
            certificates,
            client_auth: client_auth.and_then(|auth| self.client_auth(auth.into_inner())),
            min_version: tls.min_version,
            handshake_timeout: tls.handshake_timeout.0,
            handshake_rate: self.rate("handshake_rate", tls.handshake_rate),
            sni_mismatch: tls.sni_mismatch,
        })
    }

    fn certificates(
        &mut self,
        name: &Spanned<String>,
        written: Option<Spanned<Vec<schema::Certificate>>>,
    ) -> Vec<CertificateFiles> {
        let at = span(&written).unwrap_or(name.span());
        let written = written.map(Spanned::into_inner).unwrap_or_default();
        if written.is_empty() {
            let message = format!(
                "listener {:?} has no certificate to show; write \
                 certificates = [{{ cert = \"tls/site.pem\", key = \"tls/site.key\" }}]",
                name.get_ref()
            );
            self.problem(at, message);
        }
        let mut seen = HashSet::new();
        let mut resolved = Vec::with_capacity(written.len());
        for certificate in written {
            let files = CertificateFiles {
                cert: self.directory.join(certificate.cert.get_ref()),
                key: self.directory.join(certificate.key.get_ref()),
                ocsp: certificate.ocsp.map(|ocsp| self.directory.join(ocsp.get_ref())),
            };
            if !seen.insert(files.cert.clone()) {
                let message = format!("cert: {:?} is there twice", certificate.cert.get_ref());
                self.problem(certificate.cert.span(), message);
            }
            resolved.push(files);
        }
        resolved
    }

    fn client_auth(&mut self, written: schema::ClientAuth) -> Option<ClientAuth> {
        let subject_header = self.identity_header("subject_header", written.subject_header);
        let at = span(&written.fingerprint_header);
        let fingerprint_header =
            self.identity_header("fingerprint_header", written.fingerprint_header);
        if let Some(at) = at.filter(|_| subject_header.is_some())
            && subject_header == fingerprint_header
        {
            self.problem(at, "fingerprint_header: is the header of the subject already");
        }
        match self.authorities(written.ca.get_ref()) {
            Ok(authorities) => Some(ClientAuth {
                mode: written.mode,
                authorities,
                subject_header,
                fingerprint_header,
            }),
            Err(message) => {
                self.problem(written.ca.span(), format!("ca: {message}"));
                None
            }
        }
    }

    fn identity_header(&mut self, key: &str, name: Option<Spanned<String>>) -> Option<String> {
        let name = name?;
        let Ok(known) = HeaderName::from_bytes(name.get_ref().as_bytes()) else {
            let message = format!("{key}: {:?} is no header's name", name.get_ref());
            self.problem(name.span(), message);
            return None;
        };
        if TAKEN.contains(&known.as_str()) {
            let message = format!("{key}: {known} says something else; take a name of its own");
            self.problem(name.span(), message);
        }
        Some(known.as_str().to_owned())
    }
}

fn span<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}
