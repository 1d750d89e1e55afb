//! How a worker's connections to a backend are made secret.

use std::rc::Rc;
use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};

use super::{Failure, HTTP1, HTTP2, Keyring, config};
use crate::config::model::{Backend, UpstreamProtocol, UpstreamTls};
use crate::net::Stream;

/// Sessions that are remembered of a backend; the library keeps as many of one name.
const SESSIONS_MAX: usize = 8;

/// What a service's connections have in common.
#[derive(Debug)]
pub struct Identity {
    tls: UpstreamTls,
    protocol: UpstreamProtocol,
    config: ClientConfig,
}

/// Makes the connections to one backend.
#[derive(Debug)]
pub struct Dialer {
    identity: Rc<Identity>,
    name: ServerName<'static>,
    /// Offers what the configuration says.
    config: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    plain: Arc<ClientConfig>,
}

/// The protocol that both ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// HTTP/1.1; also where nothing was said.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Agreed {
    /// What was agreed on over a stream; `None` of one without TLS.
    #[must_use]
    pub fn of(stream: &Stream) -> Option<Self> {
        let protocol = stream.session()?.alpn_protocol();
        Some(if protocol == Some(HTTP2) { Self::Http2 } else { Self::Http1 })
    }
}

impl Identity {
    /// # Errors
    /// As [`config`].
    pub fn new(
        tls: &UpstreamTls,
        protocol: UpstreamProtocol,
        ring: &Keyring,
    ) -> Result<Rc<Self>, Error> {
        let offered: &[&[u8]] = match protocol {
            UpstreamProtocol::Http1 => &[HTTP1],
            UpstreamProtocol::Http2 => &[HTTP2],
            UpstreamProtocol::Auto => &[HTTP2, HTTP1],
        };
        Ok(Rc::new(Self { config: config(tls, ring, offered)?, tls: tls.clone(), protocol }))
    }

    /// The name that a backend's certificate must be for.
    fn name(&self, backend: &Backend) -> ServerName<'static> {
        let named = self.tls.name.as_ref().or(backend.host.as_ref());
        // What DNS has need be no name of a host (`_http._tcp`); its address is one in any case.
        let name = named.and_then(|name| ServerName::try_from(name.clone()).ok());
        name.unwrap_or_else(|| backend.address.ip().into())
    }

    /// The backend's dialer: the `former` one, with its sessions, if it is the same.
    #[must_use]
    pub fn dialer(self: &Rc<Self>, backend: &Backend, former: Option<&Rc<Dialer>>) -> Rc<Dialer> {
        let name = self.name(backend);
        let is_same = |former: &&Rc<Dialer>| {
            let before = &former.identity;
            before.tls == self.tls && before.protocol == self.protocol && former.name == name
        };
        if let Some(former) = former.filter(is_same) {
            return former.clone();
        }
        let mut config = self.config.clone();
        // Of its own: backends that share a name need not know each other's sessions.
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX));
        config.resumption = Resumption::store(sessions);
        let mut plain = config.clone();
        plain.alpn_protocols = vec![HTTP1.to_vec()];
        Rc::new(Dialer {
            identity: self.clone(),
            name,
            config: Arc::new(config),
            plain: Arc::new(plain),
        })
    }
}

impl Dialer {
    /// Shakes hands over a connection. `wants_tunnel`: it is to carry HTTP/1.1 alone, unless the
    /// configuration says HTTP/2.
    ///
    /// # Errors
    /// If there is no trusted connection, or the backend does not take the only version of HTTP that is
    /// offered.
    pub async fn handshake(&self, stream: Stream, wants_tunnel: bool) -> Result<Stream, Failure> {
        let protocol = self.identity.protocol;
        let is_plain = wants_tunnel && protocol == UpstreamProtocol::Auto;
        let config = if is_plain { &self.plain } else { &self.config };
        let connected = stream.connect_tls(config.clone(), self.name.clone()).await;
        let stream = connected.map_err(|broken| Failure::of(broken.error, &self.name.to_str()))?;
        if protocol == UpstreamProtocol::Http2 && Agreed::of(&stream) != Some(Agreed::Http2) {
            return Err(Failure::NoHttp2);
        }
        Ok(stream)
    }
}
