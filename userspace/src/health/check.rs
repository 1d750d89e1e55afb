//! One check of one address.
//!
//! Always on a fresh connection: a backend whose accept queue is full, or that listens no more, is
//! found out however well its old connections go on. It ends with a reset, so that neither end has to
//! remember thousands of them.

mod grpc;
mod http;
mod message;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::model::{Check, CheckKind};

/// What the prober calls itself.
const USER_AGENT: &str = concat!("steerage/", env!("CARGO_PKG_VERSION"), " probe");

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// No answer within the probe's timeout.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer was not HTTP, or broke off.
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    /// The answer's status is none of the expected ones.
    #[error("status {0}")]
    Status(u16),
    /// The beginning of the body does not hold what is expected.
    #[error("body without {0:?}")]
    Body(String),
    /// The answer was no gRPC, or not `SERVING`.
    #[error("grpc: {0}")]
    Grpc(#[from] grpc::Failure),
}

/// Asks `target` once, within the check's timeout.
pub async fn check(target: SocketAddr, check: &Check) -> Result<(), Failure> {
    timeout(check.timeout, run(target, &check.kind))
        .await
        .unwrap_or(Err(Failure::Timeout(check.timeout)))
}

async fn run(target: SocketAddr, kind: &CheckKind) -> Result<(), Failure> {
    let stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
    // For want of it the kernel remembers the connection a minute longer: no reason to fail.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    match kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http(check) => http::exchange(stream, target, check).await,
        CheckKind::Grpc(check) => Ok(grpc::exchange(stream, target, check).await?),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn tcp(timeout: Duration) -> Check {
        Check { kind: CheckKind::Tcp, address: None, port: None, interval: timeout, timeout }
    }

    #[tokio::test]
    async fn a_refused_connection_fails_and_an_accepted_one_passes_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let tcp = tcp(Duration::from_secs(60));
        check(target, &tcp).await.unwrap();
        drop(listener);
        assert!(matches!(check(target, &tcp).await, Err(Failure::Connect(_))));
    }

    #[tokio::test]
    async fn silence_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let kind = CheckKind::Grpc(crate::config::model::GrpcCheck {
            service: String::new(),
            host: None,
            headers: Vec::new(),
        });
        let silent = Check { kind, ..tcp(Duration::from_millis(20)) };
        assert!(matches!(check(target, &silent).await, Err(Failure::Timeout(_))));
    }
}
