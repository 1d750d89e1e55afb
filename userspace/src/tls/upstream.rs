//! TLS to backends.
//!
//! One [`config`] for requests and for probes: whose word is taken, what is shown, which versions. It is
//! made of the model and of the [`Keyring`], which is what the model must not hold: private keys, and the
//! authorities of the system. The supervisor fills the ring, because it alone may read those files, and
//! workers get it beside the model.
//!
//! Requests go through a [`Dialer`], one for each backend: it knows the name and keeps the sessions, so that
//! all connections of a worker to a backend resume each other's, and none those of another backend that has
//! the same name. Sessions end with the identity that they were made under: another `upstream_tls` is
//! another dialer.
//!
//! Why there is no connection is a [`Failure`].

mod dialer;
mod failure;
mod keyring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::config::model::{TlsVersion, Trust, UpstreamTls};

pub use dialer::{Agreed, Dialer, Identity};
pub use failure::Failure;
pub use keyring::{Keyring, Unreadable, spoken};

/// HTTP/1.1 by its ALPN name.
pub const HTTP1: &[u8] = b"http/1.1";

/// HTTP/2 by its ALPN name.
pub const HTTP2: &[u8] = b"h2";

/// A client that offers these protocols (ALPN names), first the one it likes best. It resumes no session.
///
/// # Errors
/// If the ring has not the key that the model asks for, or something is not what it should be.
pub fn config(
    tls: &UpstreamTls,
    ring: &Keyring,
    protocols: &[&[u8]],
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?;
    let builder = match &tls.trust {
        Trust::Anybody => {
            let verifier = Arc::new(Anybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Trust::Authorities(authorities) => {
            builder.with_root_certificates(roots(&authorities.certificates))
        }
        Trust::System => builder.with_root_certificates(roots(ring.system())),
    };
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = client.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            builder.with_client_auth_cert(chain, ring.key(client)?)?
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(authorities: &[Vec<u8>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let known = authorities.iter().map(|der| CertificateDer::from_slice(der));
    roots.add_parsable_certificates(known);
    roots
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
