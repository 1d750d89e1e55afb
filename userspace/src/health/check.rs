//! One check of one address.
//!
//! Always on a fresh connection: a backend whose accept queue is full, or that listens no more, is
//! found out however well its old connections go on. It ends with a reset, so that neither end has to
//! remember thousands of them.

mod grpc;
mod http;
mod message;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::model::{Check, CheckKind};
use crate::l4::proxy_protocol::Header;
use crate::tls::alert::cause_of;
use crate::tls::upstream::{self, Keyring};

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
    /// TLS has something against it.
    #[error("tls: {0}")]
    Tls(upstream::Failure),
    /// The answer was not HTTP, or broke off.
    #[error("http: {0}")]
    Http(hyper::Error),
    /// The answer's status is none of the expected ones.
    #[error("status {0}")]
    Status(u16),
    /// The beginning of the body does not hold what is expected.
    #[error("body without {0:?}")]
    Body(String),
    /// The answer was no gRPC, or not `SERVING`.
    #[error("grpc: {0}")]
    Grpc(grpc::Failure),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        match cause_of(&error) {
            Some(cause) => Self::Tls(upstream::Failure::from_cause(cause)),
            None => Self::Http(error),
        }
    }
}

impl From<grpc::Failure> for Failure {
    fn from(failure: grpc::Failure) -> Self {
        let grpc::Failure::Connection(error) = &failure else { return Self::Grpc(failure) };
        match error.get_io().and_then(|error| cause_of(error)) {
            Some(cause) => Self::Tls(upstream::Failure::from_cause(cause)),
            None => Self::Grpc(failure),
        }
    }
}

/// A check, with what all its questions have in common.
#[derive(Debug)]
pub struct Prepared {
    /// What is asked.
    pub check: Arc<Check>,
    /// `Err` if no client can be made of the configured files.
    tls: Option<Result<tls::Client, rustls::Error>>,
}

impl Prepared {
    /// Makes ready to ask.
    pub fn new(check: Arc<Check>, ring: &Keyring) -> Self {
        let protocol = match check.kind {
            CheckKind::Grpc(_) => upstream::HTTP2,
            CheckKind::Http(_) | CheckKind::Tcp => upstream::HTTP1,
        };
        let tls = check.kind.tls().map(|tls| tls::Client::new(tls, ring, protocol));
        Self { check, tls }
    }

    /// Asks `target` once, within the check's timeout.
    pub async fn ask(&self, target: SocketAddr) -> Result<(), Failure> {
        let limit = self.check.timeout;
        timeout(limit, self.run(target)).await.unwrap_or(Err(Failure::Timeout(limit)))
    }

    async fn run(&self, target: SocketAddr) -> Result<(), Failure> {
        let mut stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
        // For want of it the kernel remembers the connection a minute longer: no reason to fail.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        if let Some(version) = self.check.proxy_protocol {
            let ours = Header::default().to_bytes(version);
            stream.write_all(&ours).await.map_err(Failure::Connect)?;
        }
        match &self.tls {
            None => self.exchange(stream, target).await,
            Some(Err(error)) => Err(Failure::Tls(upstream::Failure::Other(error.clone()))),
            Some(Ok(tls)) => {
                let stream = tls.handshake(stream, target).await.map_err(Failure::Tls)?;
                self.exchange(stream, target).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, target: SocketAddr) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &self.check.kind {
            CheckKind::Tcp => Ok(()),
            CheckKind::Http(check) => http::exchange(stream, target, check).await,
            CheckKind::Grpc(check) => Ok(grpc::exchange(stream, target, check).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn ask(target: SocketAddr, check: &Check) -> Result<(), Failure> {
        Prepared::new(Arc::new(check.clone()), &Keyring::default()).ask(target).await
    }

    fn tcp(timeout: Duration) -> Check {
        Check {
            kind: CheckKind::Tcp,
            address: None,
            port: None,
            proxy_protocol: None,
            interval: timeout,
            timeout,
        }
    }

    #[tokio::test]
    async fn a_refused_connection_fails_and_an_accepted_one_passes_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let tcp = tcp(Duration::from_secs(60));
        ask(target, &tcp).await.unwrap();
        drop(listener);
        assert!(matches!(ask(target, &tcp).await, Err(Failure::Connect(_))));
    }

    #[tokio::test]
    async fn silence_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let kind = CheckKind::Grpc(crate::config::model::GrpcCheck {
            service: String::new(),
            host: None,
            headers: Vec::new(),
            tls: None,
        });
        let silent = Check { kind, ..tcp(Duration::from_millis(20)) };
        assert!(matches!(ask(target, &silent).await, Err(Failure::Timeout(_))));
    }
}
