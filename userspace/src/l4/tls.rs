//! TLS that is not ended here: the client's first message decides who gets the connection, which gets
//! every byte as the client sent it.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use tokio::io::AsyncReadExt as _;

use super::client_hello::{Alert, ClientHello, Malformed, Reader};
use super::proxy_protocol::Kind;
use super::{Caller, tcp};
use crate::config::model::StreamEnd;
use crate::l7::{self, Door, Unheard, now_us, part};
use crate::net::{Elapsed, Stream, within};

/// What is read at a time: a hello with a key for a post-quantum exchange, mostly.
const READ_BYTES: usize = 2048;

/// What a client began with.
enum Beginning {
    Hello(ClientHello),
    Malformed(Malformed),
    /// Nothing: somebody looked whether the port is open.
    End,
}

/// Passes a client's connection on, or tells it why not.
pub(super) async fn serve(door: Rc<Door>, mut stream: Stream, mut caller: Caller) {
    let began_us = now_us();
    let mut reader = Reader::default();
    let limit = door.front().timeouts.header_read;
    let unheard = |cause, error, sni| {
        door.count_end(cause);
        let (proxy, front) = door.inside();
        let unheard = Unheard { began_us, protocol: Some("tls"), error, sni };
        proxy.log_unheard(front, caller.address, &unheard, cause);
    };
    let hello = match within(limit, read(&mut stream, &mut reader)).await {
        Ok(Ok(Beginning::Hello(hello))) => hello,
        Ok(Ok(Beginning::End)) => return door.count_end(Cause::Eof),
        Ok(Ok(Beginning::Malformed(malformed))) => {
            tracing::debug!(client = %caller.address, %malformed, "no ClientHello");
            unheard(Cause::ClientHello, None, None);
            return part(stream, &malformed.alert().record()).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(client = %caller.address, %error, "no ClientHello");
            let cause = stream.progress().end().unwrap_or(Cause::ClientHello);
            return unheard(cause, None, None);
        }
        Err(Elapsed) => return unheard(Cause::PreambleTimeout, None, None),
    };
    match route(&door, &hello) {
        Ok(route) => {
            if let Some(name) = &hello.server_name {
                caller.notes.set(Kind::Authority, name.as_bytes());
            }
            stream.unread(Bytes::from(reader.into_bytes()));
            match ending_at(&door, route) {
                // What was read is read again, by the handshake.
                Some(other) => l7::serve(other, stream, caller).await,
                None => tcp::serve(door, stream, caller, route).await,
            }
        }
        Err(alert) => {
            let name = hello.server_name.as_deref();
            tracing::debug!(client = %caller.address, name, ?alert, "no route for a TLS client");
            door.count_error(ErrorClass::NoRoute);
            unheard(Cause::NoRoute, Some(ErrorClass::NoRoute.name()), name);
            part(stream, &alert.record()).await;
        }
    }
}

/// Where the client goes, by the rules that hold now.
fn route(door: &Door, hello: &ClientHello) -> Result<usize, Alert> {
    let front = door.front();
    let names = front.entry.streams.as_ref().and_then(|streams| streams.names.as_ref());
    names.map_or(Err(Alert::InternalError), |names| names.find(hello))
}

/// The listener that a route ends at, if it is one.
fn ending_at(door: &Door, route: usize) -> Option<Rc<Door>> {
    let front = door.front();
    match &front.entry.streams.as_ref()?.routes.get(route)?.end {
        StreamEnd::Listener(name) => door.other(name),
        StreamEnd::Service(_) => None,
    }
}

async fn read(stream: &mut Stream, reader: &mut Reader) -> io::Result<Beginning> {
    let mut is_empty = true;
    // Ends: the reader takes no more than `BYTES_MAX`.
    loop {
        let mut piece = [0; READ_BYTES];
        let came = stream.read(&mut piece).await?;
        if came == 0 {
            let eof = io::ErrorKind::UnexpectedEof.into();
            return if is_empty { Ok(Beginning::End) } else { Err(eof) };
        }
        is_empty = false;
        match reader.feed(&piece[..came]) {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(Beginning::Hello(hello)),
            Err(malformed) => return Ok(Beginning::Malformed(malformed)),
        }
    }
}
