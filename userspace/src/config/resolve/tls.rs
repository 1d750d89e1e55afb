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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::model::{ListenerTls, SniMismatch, TlsVersion};
    use crate::config::parse;

    /// The listener's TLS, or the problems; its keys begin on line 4.
    fn resolve(protocol: &str, keys: &str) -> Result<Option<ListenerTls>, String> {
        let text = format!(
            "[[listener]]\nname = 'a'\nbind = ['127.0.0.1:1']\n{keys}\nprotocol = '{protocol}'\n\
             [[listener.route]]\nservice = 's'\n[[service]]\nname = 's'\n"
        );
        let parsed = parse(Path::new("/etc/steerage/x.toml"), &text);
        let mut model = parsed.map_err(|error| error.to_string())?;
        Ok(model.listeners.remove(0).tls)
    }

    const ONE: &str = "certificates = [{ cert = 'tls/a.pem', key = '/keys/a.key' }]";

    #[test]
    fn paths_are_beside_the_file_and_every_key_has_a_default() {
        let tls = resolve("https", ONE).unwrap().unwrap();
        let files = &tls.certificates[0];
        assert_eq!(files.cert, Path::new("/etc/steerage/tls/a.pem"));
        assert_eq!((&*files.key, &files.ocsp), (Path::new("/keys/a.key"), &None));
        assert_eq!(
            (tls.min_version, tls.sni_mismatch),
            (TlsVersion::V1_2, SniMismatch::Misdirected)
        );
        assert_eq!((tls.handshake_timeout, tls.handshake_rate), (Duration::from_secs(5), None));
        assert!(tls.client_auth.is_none());
        assert_eq!(resolve("http", "").unwrap(), None);
        let keys = format!(
            "{ONE}\ntls = {{ min_version = '1.3', handshake_timeout = '1s', sni_mismatch = 'allow', \
             handshake_rate = {{ rate = 5 }} }}"
        );
        let tls = resolve("https", &keys).unwrap().unwrap();
        assert_eq!((tls.min_version, tls.sni_mismatch), (TlsVersion::V1_3, SniMismatch::Allow));
        let rate = tls.handshake_rate.unwrap();
        assert_eq!((tls.handshake_timeout, rate.burst), (Duration::from_secs(1), 5));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let twice = "certificates = [{ cert = 'a', key = 'b' }, { cert = 'a', key = 'c' }]";
        for (protocol, keys, line, said) in [
            ("https", "", 2, "listener \"a\" has no certificate to show; write certificates = ["),
            ("https", "certificates = []", 4, "listener \"a\" has no certificate to show"),
            ("https", twice, 4, "cert: \"a\" is there twice"),
            ("http", ONE, 4, "certificates: for protocol = \"https\" alone; remove it"),
            ("http", "tls = {}", 4, "tls: for protocol = \"https\" alone; remove it"),
            (
                "https",
                &format!("{ONE}\ntls = {{ handshake_rate = {{ rate = 0 }} }}"),
                5,
                "handshake_rate: rate must be from 1",
            ),
            (
                "https",
                &format!("{ONE}\ntls = {{ min_version = '1.1' }}"),
                5,
                "min_version: unknown variant `1.1`",
            ),
            (
                "https",
                &format!("{ONE}\nclient_auth = {{ mode = 'optional', ca = 'none.pem' }}"),
                5,
                "ca: /etc/steerage/none.pem: cannot be read",
            ),
            (
                "https",
                &format!(
                    "{ONE}\nclient_auth = {{ mode = 'optional', ca = 'x', subject_header = 'Host' }}"
                ),
                5,
                "subject_header: host says something else; take a name of its own",
            ),
            (
                "https",
                &format!(
                    "{ONE}\nclient_auth = {{ mode = 'optional', ca = 'x', subject_header = 'X-A', \
                     fingerprint_header = 'x-a' }}"
                ),
                5,
                "fingerprint_header: is the header of the subject already",
            ),
        ] {
            let message = resolve(protocol, keys).unwrap_err();
            let place = format!("/etc/steerage/x.toml:{line}:");
            let found = message.lines().find(|problem| problem.contains(said));
            assert!(found.is_some_and(|problem| problem.starts_with(&place)), "{keys}: {message}");
        }
    }
}
