//! Checks over TLS.
//!
//! Every check makes a full handshake: a session that is resumed would go on for hours with a
//! certificate that has expired or was changed for a wrong one, and to find that out is what an
//! operator has the check for. Certificates are verified against the configured authorities, or those
//! that the system trusts, and for the configured name; without verification (`verify = false`) only
//! the signatures of the handshake are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use crate::config::model::{TlsCheck, Trust};
use crate::tls::alert::{cause_of, registered};

/// Why there is no trusted connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The certificate's time is over.
    #[error("certificate expired{0}")]
    Expired(String),
    /// The certificate's time has not come.
    #[error("certificate not valid yet")]
    NotValidYet,
    /// The certificate is somebody else's.
    #[error("certificate is not for {0}")]
    Name(String),
    /// Nobody who is trusted signed the certificate.
    #[error("certificate of an unknown issuer")]
    Issuer,
    /// The backend refused, and said why.
    #[error("alert {0}")]
    Alert(String),
    /// The answer was none of TLS.
    #[error("the backend speaks no TLS")]
    NoTls,
    /// The backend ended the connection in the handshake.
    #[error("closed in the handshake")]
    Closed,
    /// Anything else that TLS has against the backend.
    #[error("{0}")]
    Other(Error),
    /// The connection broke.
    #[error("{0}")]
    Io(io::Error),
}

/// Makes connections as one check wants them.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Client {
    /// A client that offers `protocol` alone (its ALPN name).
    pub fn new(check: &TlsCheck, protocol: &[u8]) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of both versions");
        let mut config = match roots(&check.trust) {
            Some(roots) => builder.with_root_certificates(roots),
            None => {
                let verifier = Arc::new(Anybody(provider));
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        let name = check.name.clone().and_then(|name| ServerName::try_from(name).ok());
        Self { config: Arc::new(config), name }
    }

    /// Shakes hands over a stream that is connected to `target`.
    pub async fn handshake<S>(&self, stream: S, target: SocketAddr) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name.clone().unwrap_or_else(|| target.ip().into());
        let shown = name.to_str().into_owned();
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await.map_err(|error| Failure::of(error, &shown))
    }
}

impl Failure {
    fn of(error: io::Error, name: &str) -> Self {
        let Some(cause) = cause_of(&error) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
                _ => Self::Io(error),
            };
        };
        match cause {
            Error::InvalidCertificate(CertificateError::NotValidForName) => {
                Self::Name(name.to_owned())
            }
            Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }) => {
                let whom = if presented.is_empty() {
                    "nobody".into()
                } else {
                    presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
                };
                Self::Name(format!("{name}, but for {whom}"))
            }
            other => Self::from_cause(other),
        }
    }

    /// What an error of TLS means, wherever in an exchange it came up.
    pub fn from_cause(cause: &Error) -> Self {
        match cause {
            Error::InvalidCertificate(CertificateError::Expired) => Self::Expired(String::new()),
            Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                let at = UNIX_EPOCH + Duration::from_secs(not_after.as_secs());
                Self::Expired(format!(" at {}", humantime::format_rfc3339_seconds(at)))
            }
            Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => Self::NotValidYet,
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => Self::Issuer,
            Error::AlertReceived(alert) => match alert.as_str() {
                Some(name) => Self::Alert(registered(name)),
                None => Self::Alert(u8::from(*alert).to_string()),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            other => Self::Other(other.clone()),
        }
    }
}

/// A name as people write it: `DnsName("a.org")` is `a.org`.
fn bare(presented: &str) -> &str {
    let inner = presented.split_once('(').map_or(presented, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// The authorities; `None` if any certificate will do.
fn roots(trust: &Trust) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Anybody => return None,
        Trust::Authorities(authorities) => {
            let known = authorities.certificates.iter();
            roots.add_parsable_certificates(known.map(|der| CertificateDer::from(der.clone())));
        }
        Trust::System => {
            let system = rustls_native_certs::load_native_certs();
            for error in system.errors {
                warn!(%error, "some of the system's certificate authorities cannot be read");
            }
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                warn!("probes over TLS fail: the system trusts no authority; name one by tls.ca");
            }
        }
    }
    Some(roots)
}

/// Takes any certificate whose key signed the handshake.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
