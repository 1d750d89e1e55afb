//! Checks over TLS.
//!
//! Every check makes a full handshake: a session that is resumed would go on for hours with a
//! certificate that has expired or was changed for a wrong one, and to find that out is what an
//! operator has the check for. Otherwise it is as [`crate::tls::upstream`] has it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::model::UpstreamTls;
use crate::tls::upstream::{Failure, Keyring, config};

/// Makes connections as one check wants them.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Client {
    /// A client that offers `protocol` alone (its ALPN name).
    pub fn new(tls: &UpstreamTls, ring: &Keyring, protocol: &[u8]) -> Result<Self, rustls::Error> {
        let name = tls.name.clone().and_then(|name| ServerName::try_from(name).ok());
        Ok(Self { config: Arc::new(config(tls, ring, &[protocol])?), name })
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

#[cfg(test)]
mod tests;
