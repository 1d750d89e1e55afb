//! What comes before the first request where a listener speaks TLS.
//!
//! An address that begins more handshakes than it may is closed at once: to begin one is what costs. Each
//! handshake has its time, and ends with the worker's drain; how it ended is counted by name, and a
//! connection that it ended by the cause; that one has a line in the access log.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use steerage_common::handshake::Handshake;

use super::access::{Unheard, now_us};
use super::connection::linger;
use super::house::Door;
use crate::net::{Stream, clock, within};
use crate::tls::Session;

/// How long a client whose handshake failed may take to read why.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// Makes a connection one of TLS; `None` if that came to nothing.
pub(super) async fn handshake(
    door: &Door,
    stream: Stream,
    client: SocketAddr,
) -> Option<(Stream, Box<Session>)> {
    let began_us = now_us();
    let (proxy, front_index) = door.inside();
    let front = proxy.fronts[front_index].clone();
    let tls = front.tls.as_ref()?;
    let address = client.ip().to_canonical();
    if !front.handshakes.take(address, clock::now_ms()) {
        proxy.note_offence(front_index, address);
        drop(proxy);
        failed(door, client, began_us, Handshake::RateLimited, None);
        return None;
    }
    // Whoever takes long to begin holds no former configuration.
    drop(proxy);
    let mut shaking = pin!(tls.handshake(stream));
    let shaken = poll_fn(|cx| match shaking.as_mut().poll(cx) {
        Poll::Pending if door.is_over() => Poll::Ready(None),
        polled => polled.map(Some),
    });
    match shaken.await {
        Some(Ok((stream, end, session))) => {
            door.count_handshake(end);
            return Some((stream, Box::new(session)));
        }
        Some(Err(broken)) => {
            failed(door, client, began_us, broken.end, broken.server_name.as_deref());
            if let Some(mut stream) = broken.stream {
                // Closed with bytes unread, the connection is reset, and the alert may be lost with it.
                let _ = within(ALERT_LINGER, linger(&mut stream)).await;
            }
        }
        None => failed(door, client, began_us, Handshake::Drained, None),
    }
    None
}

/// Counts a handshake that came to nothing, and writes its line in the access log.
#[cold]
fn failed(door: &Door, client: SocketAddr, began_us: u64, end: Handshake, sni: Option<&str>) {
    door.count_handshake(end);
    let (proxy, front) = door.inside();
    let Some(cause) = end.cause() else { return };
    let unheard = Unheard { began_us, protocol: Some("tls"), error: Some(end.name()), sni };
    proxy.log_unheard(front, client, &unheard, cause);
}
