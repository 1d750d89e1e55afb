//! How a client's connection begins, and connections that are passed on as they are.
//!
//! ```text
//! connection ─► PROXY header ─┬─► HTTP (l7)
//!               (entry)       ├─► tcp: pick ─► connect ─► copy, splice
//!                             └─► tls: ClientHello ─► route by name ─► the same
//! ```
//!
//! - [`serve`]: what becomes of a connection, by its listener.
//!
//! A route of a tls listener may also end here, at an https listener ([`l7::serve`]).
//!
//! - [`proxy_protocol`]: who the client is, told by a proxy before us or to a backend behind. Pure.
//! - [`client_hello`]: which host a TLS client wants. Pure. `names`: which route has it.
//! - `tcp`: the backend for a connection, with the balancing, health and limits that requests have.
//! - `copy`: the bytes, both ways; tunnels of HTTP too.
//!
//! Whatever comes before a connection's own bytes has `timeouts.header_read` to come whole.

pub mod client_hello;
pub(crate) mod copy;
mod entry;
mod names;
pub mod proxy_protocol;
mod tcp;
mod tls;

use std::net::SocketAddr;
use std::rc::Rc;

use ipnet::IpNet;
use rustls::{ProtocolVersion, ServerConnection};

use self::client_hello::{Alert, ClientHello};
use self::names::Names;
use self::proxy_protocol::{Addresses, Header, Kind, Notes, Tls, Version};
use crate::config::model::{self, Listener, StreamEnd, StreamTimeouts};
use crate::l7::{self, Door, OpenClient};
use crate::net::{Progress, Stream};

/// What a listener does with its connections before, or instead of, speaking HTTP.
#[derive(Debug)]
pub(crate) struct Entry {
    accept_from: Option<Vec<IpNet>>,
    streams: Option<Streams>,
}

/// Where connections go that are passed on.
#[derive(Debug)]
struct Streams {
    /// How a name decides; `None` if it does not: there is one route.
    names: Option<Names>,
    routes: Vec<Route>,
}

/// Where a route's connections end.
#[derive(Clone, Debug)]
struct Route {
    end: StreamEnd,
    timeouts: StreamTimeouts,
}

/// A client, as far as it is known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its address: the connection's other end, or whom the proxy there names.
    pub address: SocketAddr,
    /// Where it connected to, if the proxy says so.
    destination: Option<SocketAddr>,
    /// What else is known of its connection.
    notes: Notes,
}

impl From<SocketAddr> for Caller {
    fn from(address: SocketAddr) -> Self {
        Self { address, destination: None, notes: Notes::default() }
    }
}

impl Caller {
    /// Whom the proxy at `peer` names.
    fn told(peer: SocketAddr, header: Header) -> Self {
        let Header { addresses, notes } = header;
        let address = addresses.map_or(peer, |addresses| addresses.source);
        Self { address, destination: addresses.map(|addresses| addresses.destination), notes }
    }

    /// Notes how the client's TLS is, which ends here; `subject` is that of its certificate.
    pub(crate) fn note_tls(&mut self, session: &ServerConnection, subject: Option<&str>) {
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        };
        // Named as IANA does.
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let cipher = suite.unwrap_or_default().replacen("TLS13_", "TLS_", 1);
        let common_name = |subject: &str| {
            let name = subject.split(',').find_map(|part| part.strip_prefix("CN="))?;
            // What is escaped is not the name itself.
            (!name.contains('\\')).then(|| name.to_owned())
        };
        let tls = Tls {
            version: version.into(),
            cipher,
            has_certificate: subject.is_some(),
            common_name: subject.and_then(common_name),
        };
        self.notes.set(Kind::Tls, &tls.to_bytes());
        if let Some(protocol) = session.alpn_protocol() {
            self.notes.set(Kind::Alpn, protocol);
        }
        if let Some(name) = session.server_name() {
            self.notes.set(Kind::Authority, name.as_bytes());
        }
    }

    /// The name that its TLS asks for, if that was looked at.
    fn sni(&self) -> Option<&str> {
        self.notes.get(Kind::Authority).and_then(|name| std::str::from_utf8(name).ok())
    }

    /// The header that tells a backend of the client; `connection` is what the client came by.
    pub(crate) fn header(&self, connection: &Progress, version: Version) -> Vec<u8> {
        let destination = self.destination.or_else(|| connection.local_addr().ok());
        let addresses =
            destination.map(|destination| Addresses { source: self.address, destination });
        Header { addresses, notes: self.notes.clone() }.to_bytes(version)
    }
}

impl Entry {
    pub(crate) fn new(listener: &Listener) -> Self {
        let streams = listener.streams.as_ref().map(|streams| Streams {
            names: streams.is_tls.then(|| Names::new(&streams.routes)),
            routes: streams
                .routes
                .iter()
                .map(|route| Route { end: route.end.clone(), timeouts: route.timeouts })
                .collect(),
        });
        Self { accept_from: listener.accept_from.clone(), streams }
    }

    /// Whether a connection is HTTP from its first byte on.
    fn is_plain(&self) -> bool {
        self.accept_from.is_none() && self.streams.is_none()
    }
}

/// The route of a client that asks for `name` and speaks these protocols.
///
/// # Errors
/// What to tell a client that none takes.
pub(crate) fn route_of(
    streams: &model::Streams,
    name: &str,
    protocols: &[&str],
) -> Result<usize, Alert> {
    if !streams.is_tls {
        return Ok(0);
    }
    let alpn = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let server_name = (!name.is_empty()).then(|| name.to_ascii_lowercase());
    Names::new(&streams.routes).find(&ClientHello { server_name, alpn })
}

/// Serves a client until one side ends the connection.
pub async fn serve(door: Rc<Door>, stream: Stream, peer: SocketAddr) {
    let front = door.front();
    let _open = OpenClient::new(front.tally.clone());
    if front.entry.is_plain() {
        drop(front);
        return l7::serve(door, stream, peer.into()).await;
    }
    // Boxed: large beside what an idle connection needs.
    let Some((stream, caller)) = Box::pin(entry::identify(&door, &front, stream, peer)).await
    else {
        return;
    };
    let is_tls = front.entry.streams.as_ref().map(|streams| streams.names.is_some());
    drop(front);
    match is_tls {
        None => l7::serve(door, stream, caller).await,
        Some(false) => Box::pin(tcp::serve(door, stream, caller, 0)).await,
        Some(true) => Box::pin(tls::serve(door, stream, caller)).await,
    }
}
