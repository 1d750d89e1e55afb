//! What comes before the first request where a listener speaks TLS.
//!
//! An address that begins more handshakes than it may is closed at once: to begin one is what costs. Each
//! handshake has its time, and ends with the worker's drain; how it ended is counted by name, and a
//! connection that it ended by the cause.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use steerage_common::handshake::Handshake;

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
    address: IpAddr,
) -> Option<(Stream, Box<Session>)> {
    let (proxy, front_index) = door.inside();
    let front = proxy.fronts[front_index].clone();
    let tls = front.tls.as_ref()?;
    if !front.handshakes.take(address, clock::now_ms()) {
        door.count_handshake(Handshake::RateLimited);
        proxy.note_offence(front_index, address);
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
            Some((stream, Box::new(session)))
        }
        Some(Err(failed)) => {
            door.count_handshake(failed.end);
            if let Some(mut stream) = failed.stream {
                // Closed with bytes unread, the connection is reset, and the alert may be lost with it.
                let _ = within(ALERT_LINGER, linger(&mut stream)).await;
            }
            None
        }
        None => {
            door.count_handshake(Handshake::Drained);
            None
        }
    }
}
