//! A client that posts one request after the other and never sends one twice.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steerage::service::Random;
use steerage_lab::client::Connection;

use super::{PAUSE_MS_MAX, Plan};

/// No response takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client heard of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A whole response.
    Answer {
        status: u16,
        /// `X-Steerage-Error`.
        class: Option<String>,
    },
    /// The end of the connection, and not a byte.
    Closed,
    /// Part of a response.
    Broken,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { status, class: Some(class) } => write!(f, "{status} {class}"),
            Self::Answer { status, class: None } => write!(f, "{status}"),
            Self::Closed => f.write_str("closed"),
            Self::Broken => f.write_str("broken"),
        }
    }
}

/// Posts requests until `next` has reached their number; gives what was heard of each.
pub(super) fn post(
    proxy: SocketAddr,
    plan: Plan,
    next: &AtomicU64,
    random: &Random,
) -> Result<Vec<(String, Heard)>> {
    let body = "x".repeat(plan.body_bytes);
    let mut all = Vec::new();
    let mut kept: Option<Connection> = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.requests {
            return Ok(all);
        }
        let id = format!("request-{number}");
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open_here(proxy, PATIENCE).context("a client cannot connect")?,
        };
        let request = format!(
            "POST /orders HTTP/1.1\r\nHost: shop.example\r\nX-Id: {id}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        let (heard, lasts) = exchange(&mut connection, request.as_bytes());
        all.push((id, heard));
        kept = lasts.then_some(connection);
        std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX) as u64));
    }
}

/// Sends a request; gives what was heard, and whether the connection lasts.
fn exchange(connection: &mut Connection, request: &[u8]) -> (Heard, bool) {
    let sent = connection.send(request);
    match connection.response() {
        Ok(response) => {
            let class = response.head.header("x-steerage-error").map(str::to_owned);
            let lasts = sent.is_ok() && !response.head.closes();
            (Heard::Answer { status: response.status, class }, lasts)
        }
        Err(_) if connection.has_heard() => (Heard::Broken, false),
        Err(_) => (Heard::Closed, false),
    }
}
