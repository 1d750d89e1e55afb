//! The handshake with a client, as one listener wants it.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite, version,
};
use steerage_common::handshake::Handshake;

use super::alert;
use super::identity::{Headers, Identity};
use super::names::Names;
use super::rack::Rack;
use super::shelf::Shelf;
use super::ticket::{KeyRing, Ticketer};
use crate::config::model::{ClientAuth, ClientAuthMode, ListenerTls, SniMismatch, TlsVersion};
use crate::net::{Stream, within};

/// What is spoken inside, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The suites, in the order in which they are chosen: all are sound, and AES with 128 bits has the least
/// to compute where processors have instructions for it.
const SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Tickets that a client of TLS 1.3 gets: browsers open two connections at once.
const TICKETS: usize = 2;

/// Makes handshakes as one listener wants them.
#[derive(Debug)]
pub struct Terminator {
    config: Arc<ServerConfig>,
    rack: Arc<Rack>,
    timeout: Duration,
    headers: Headers,
    refuses_misdirected: bool,
}

/// What is known of a client from its handshake.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The name that it asked for, in lower case.
    server_name: Option<Box<str>>,
    /// What the certificate is for that it was shown.
    names: Arc<Names>,
    /// Who it is, if it showed a certificate.
    pub identity: Option<Identity>,
}

/// A handshake that came to nothing.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub end: Handshake,
    /// The name that the client asked for, if it came that far.
    pub server_name: Option<Box<str>>,
    /// The connection, if the client may still have to read why.
    pub stream: Option<Stream>,
}

impl Terminator {
    /// That of the listener of this name. A key of tickets seals for the time of `rotation`.
    ///
    /// # Panics
    /// If the listener's authorities are none: the configuration was checked.
    #[must_use]
    pub fn new(
        name: &str,
        tls: &ListenerTls,
        shelf: &Shelf,
        ring: &Arc<KeyRing>,
        rotation: Duration,
    ) -> Self {
        let rack = Arc::new(Rack::new(&tls.certificates, shelf));
        let provider = Arc::new(CryptoProvider {
            cipher_suites: SUITES.to_vec(),
            ..aws_lc_rs::default_provider()
        });
        let versions: &[_] = match tls.min_version {
            TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V1_3 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("the provider has suites of both versions");
        let builder = match &tls.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(auth)), provider);
                let verifier = match auth.mode {
                    ClientAuthMode::Required => verifier,
                    ClientAuthMode::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().expect("there is at least one authority");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(rack.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = Arc::new(Ticketer::new(ring.clone(), name, tls, rotation));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        config.ignore_client_order = true;
        // What is sent before the handshake is over can be sent again by anybody (RFC 8446, 8).
        config.max_early_data_size = 0;
        Self {
            config: Arc::new(config),
            rack,
            timeout: tls.handshake_timeout,
            headers: Headers::of(tls.client_auth.as_ref()),
            refuses_misdirected: tls.sni_mismatch == SniMismatch::Misdirected,
        }
    }

    /// Shakes hands with a client; gives how that ended and what is known then.
    ///
    /// # Errors
    /// If it came to nothing.
    pub async fn handshake(&self, stream: Stream) -> Result<(Stream, Handshake, Session), Failed> {
        let mut server_name = None;
        let shake = async {
            let hello = stream.hello().await?;
            server_name = hello.client().server_name().map(Box::from);
            hello.accept(self.config.clone()).await
        };
        let stream = match within(self.timeout, shake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(broken)) => {
                let end = alert::end_of(&broken.error);
                tracing::debug!(error = %broken.error, end = end.name(), "no TLS session");
                let is_told = matches!(end, Handshake::Sent(_) | Handshake::NotTls);
                return Err(Failed { end, server_name, stream: is_told.then_some(broken.stream) });
            }
            Err(_) => return Err(Failed { end: Handshake::Timeout, server_name, stream: None }),
        };
        let Some(connection) = stream.server_session() else {
            return Err(Failed { end: Handshake::Closed, server_name, stream: None });
        };
        let end = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        };
        let session = self.session(connection);
        Ok((stream, end, session))
    }

    fn session(&self, connection: &ServerConnection) -> Session {
        let server_name = connection.server_name();
        Session {
            server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
            names: self.rack.names(server_name),
            identity: connection.peer_certificates().and_then(<[_]>::first).map(Identity::of),
        }
    }

    /// The headers that tell backends who a client is.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Whether a request for `host` (without a port) belongs on another connection: it came
    /// on one that was made for another name, by a certificate that is not for it, and there is one that is.
    #[must_use]
    pub fn is_misdirected(&self, session: &Session, host: &str) -> bool {
        let Some(asked) = &session.server_name else { return false };
        if !self.refuses_misdirected || asked.eq_ignore_ascii_case(host) {
            return false;
        }
        let host = host.to_ascii_lowercase();
        !session.names.cover(&host) && self.rack.knows(&host)
    }
}

/// Whom a listener trusts to say who clients are.
fn roots(auth: &ClientAuth) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let known = auth.authorities.certificates.iter();
    roots.add_parsable_certificates(known.map(|der| CertificateDer::from(der.clone())));
    roots
}
