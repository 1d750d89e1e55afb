//! Who a client is: the connection's other end, or whom a proxy there names by a PROXY header.
//!
//! A peer of `proxy_protocol.accept_from` must send a header first: without one it could not be told who
//! its client is, so the connection is closed. Of everybody else none is believed, nor looked for: bytes
//! that look like one are the client's own.

use std::io;
use std::net::SocketAddr;

use steerage_common::cause::Cause;
use tokio::io::AsyncReadExt as _;

use super::Caller;
use super::proxy_protocol::{self, Header};
use crate::l7::{Door, Front, Unheard, now_us};
use crate::net::{Elapsed, Stream, within};

/// What is read at a time.
const READ_BYTES: usize = 512;

/// The stream, without its header, and who its client is; `None` if the connection is to end.
pub(super) async fn identify(
    door: &Door,
    front: &Front,
    mut stream: Stream,
    peer: SocketAddr,
) -> Option<(Stream, Caller)> {
    let ip = peer.ip().to_canonical();
    let is_proxy = |nets: &Vec<ipnet::IpNet>| nets.iter().any(|net| net.contains(&ip));
    if !front.entry.accept_from.as_ref().is_some_and(is_proxy) {
        return Some((stream, peer.into()));
    }
    let began_us = now_us();
    let cause = match within(front.timeouts.header_read, read(&mut stream)).await {
        Ok(Ok(Some(header))) => {
            return Some((stream, Caller::told(peer, header)));
        }
        // Somebody who looked whether the port is open.
        Ok(Ok(None)) => Cause::Eof,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no PROXY header");
            Cause::ProxyHeader
        }
        Err(Elapsed) => Cause::PreambleTimeout,
    };
    door.count_end(cause);
    if cause != Cause::Eof {
        let (proxy, front) = door.inside();
        let unheard = Unheard { began_us, ..Unheard::default() };
        proxy.log_unheard(front, peer, &unheard, cause);
    }
    // It has said things that nobody has read; what it gets is a reset.
    stream.progress().withdraw();
    None
}

/// Reads the header; `None` if nothing came before the end.
async fn read(stream: &mut Stream) -> io::Result<Option<Header>> {
    let mut bytes = Vec::new();
    // Ends: a header that is not whole after `BYTES_MAX` is none.
    loop {
        let mut piece = [0; READ_BYTES];
        let came = stream.read(&mut piece).await?;
        if came == 0 {
            let is_nothing = bytes.is_empty();
            return if is_nothing { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        bytes.extend_from_slice(&piece[..came]);
        match proxy_protocol::parse(&bytes).map_err(io::Error::other)? {
            Some((header, length)) => {
                let rest = bytes.split_off(length);
                if !rest.is_empty() {
                    stream.unread(rest.into());
                }
                return Ok(Some(header));
            }
            None => debug_assert!(bytes.len() < proxy_protocol::BYTES_MAX),
        }
    }
}
