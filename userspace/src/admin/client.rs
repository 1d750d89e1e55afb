//! Asking the daemon over its admin socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::order::{Action, Reloaded, Remaining, Terms};
use crate::config::plan::Change;
use crate::stats::status::Status;

/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a reload may take: new backends are probed, and workers have their time.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket, or we may not open it.
    #[error("admin socket {}: {source}; {}", path.display(), remedy(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation failed.
    #[error("admin socket {}: the daemon broke off: {source}", path.display())]
    Http {
        /// The socket.
        path: PathBuf,
        /// What failed.
        source: hyper::Error,
    },
    /// The daemon took too long.
    #[error("admin socket {}: no answer in time; the supervisor hangs", path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon refused.
    #[error("the daemon answered {status}: {text}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// The name can't be asked for.
    #[error("{0:?} cannot be asked for: the service's name has characters that no URL takes")]
    Target(String),
    /// The answer is not what this version understands.
    #[error("the daemon's answer is not understood: {0}; are daemon and command of one version?")]
    Answer(#[from] serde_json::Error),
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "is the daemon running? Give its configuration with -c, or its socket with --admin"
        }
        io::ErrorKind::PermissionDenied => "only root may ask: use sudo",
        _ => "check the path",
    }
}

/// Asks for the status.
///
/// # Errors
/// If the daemon is not there, refuses, or is not understood.
pub async fn status(path: &Path) -> Result<Status, Error> {
    Ok(serde_json::from_slice(&ask(path, Method::GET, "/v1/status", Bytes::new()).await?)?)
}

/// Gives an order about a backend.
///
/// # Errors
/// If the daemon is not there, or refuses.
pub async fn order(
    path: &Path,
    service: &str,
    backend: SocketAddr,
    action: Action,
    terms: Terms,
) -> Result<(), Error> {
    let body = serde_json::to_vec(&terms)?;
    let target = backend_target(service, backend, action.name());
    ask(path, Method::POST, &target, body.into()).await.map(drop)
}

/// Asks what a backend still has in hand.
///
/// # Errors
/// If the daemon is not there, refuses, or is not understood.
pub async fn remaining(
    path: &Path,
    service: &str,
    backend: SocketAddr,
) -> Result<Remaining, Error> {
    let target = backend_target(service, backend, "remaining");
    Ok(serde_json::from_slice(&ask(path, Method::GET, &target, Bytes::new()).await?)?)
}

/// Takes the configuration file anew.
///
/// # Errors
/// If the daemon is not there, is not understood, or does not take the file.
pub async fn reload(path: &Path) -> Result<Reloaded, Error> {
    let exchange = exchange(path, Method::POST, "/v1/config/reload", Bytes::new());
    let answer = tokio::time::timeout(RELOAD_TIMEOUT, exchange).await;
    let answer = answer.unwrap_or(Err(Error::Timeout { path: path.to_owned() }))?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Asks what a reload would change.
///
/// # Errors
/// If the daemon is not there, is not understood, or would not take the file.
pub async fn diff(path: &Path) -> Result<Vec<Change>, Error> {
    Ok(serde_json::from_slice(&ask(path, Method::GET, "/v1/config/diff", Bytes::new()).await?)?)
}

/// Asks for the configuration in force.
///
/// # Errors
/// If the daemon is not there, refuses, or is not understood.
pub async fn config(path: &Path) -> Result<serde_json::Value, Error> {
    Ok(serde_json::from_slice(&ask(path, Method::GET, "/v1/config", Bytes::new()).await?)?)
}

fn backend_target(service: &str, backend: SocketAddr, what: &str) -> String {
    format!("/v1/services/{service}/backends/{backend}/{what}")
}

async fn ask(path: &Path, method: Method, target: &str, body: Bytes) -> Result<Bytes, Error> {
    let exchange = tokio::time::timeout(ANSWER_TIMEOUT, exchange(path, method, target, body));
    exchange.await.unwrap_or(Err(Error::Timeout { path: path.to_owned() }))
}

async fn exchange(path: &Path, method: Method, target: &str, body: Bytes) -> Result<Bytes, Error> {
    let http = |source| Error::Http { path: path.to_owned(), source };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the exchange; its errors are the exchange's.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "steerage")
        .body(Full::new(body))
        .map_err(|_| Error::Target(target.to_owned()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(http)?.to_bytes();
    connection.abort();
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(Error::Refused { status, text });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::order::{Daemon, Later, Refusal};
    use super::super::server::{bind_admin, serve_admin};
    use super::*;
    use crate::stats::table::tests::sample;

    struct Fake;

    impl Daemon for Fake {
        fn status(&self) -> Status {
            sample()
        }

        fn order(
            &self,
            service: &str,
            backend: SocketAddr,
            action: Action,
            terms: Terms,
        ) -> Result<(), Refusal> {
            if backend.ip().to_string() != "10.0.0.1" {
                return Err(Refusal::Unknown { service: service.to_owned(), backend });
            }
            assert_eq!((service, action, terms.deadline_ms), ("api", Action::Drain, Some(5)));
            Ok(())
        }

        fn remaining(&self, _: &str, _: SocketAddr) -> Result<Remaining, Refusal> {
            let state = "draining".into();
            Ok(Remaining { state, requests: 4, tunnels: 3, connections: 5, flows: None })
        }

        fn reload(&self) -> Later<'_, Result<Reloaded, Refusal>> {
            Box::pin(async { Err(Refusal::Config("steerage.toml:3:1: no".into())) })
        }

        fn diff(&self) -> Later<'_, Result<Vec<Change>, Refusal>> {
            let (from, to) = (Some("1".into()), Some("2".into()));
            let change = Change { what: "a".into(), from, to, needs_restart: true };
            Box::pin(async { Ok(vec![change]) })
        }

        fn config(&self) -> serde_json::Value {
            serde_json::json!({ "services": [] })
        }
    }

    #[tokio::test]
    async fn the_daemon_tells_its_status_to_root_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("steerage-admin-{}", std::process::id()));
        let path = dir.join("admin.sock");
        let error = status(&path).await.unwrap_err().to_string();
        assert!(error.contains("is the daemon running?"), "{error}");
        let listener = bind_admin(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind_admin(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let server = tokio::spawn(serve_admin(listener, Arc::new(Fake)));
        assert_eq!(status(&path).await.unwrap(), sample());
        let nothing = ask(&path, Method::GET, "/nothing", Bytes::new()).await;
        assert!(matches!(nothing, Err(Error::Refused { .. })));
        let (known, unknown) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let terms = Terms { deadline_ms: Some(5) };
        order(&path, "api", known, Action::Drain, terms).await.unwrap();
        let error = order(&path, "api", unknown, Action::Undrain, Terms::default()).await;
        assert!(error.unwrap_err().to_string().contains("has no backend 10.0.0.2:80"));
        assert_eq!(remaining(&path, "api", known).await.unwrap().tunnels, 3);
        let error = reload(&path).await.unwrap_err().to_string();
        assert!(error.contains("422") && error.contains("steerage.toml:3:1"), "{error}");
        assert_eq!(diff(&path).await.unwrap()[0].to_string(), "~ a: 1 -> 2 (needs a restart)");
        assert!(config(&path).await.unwrap()["services"].is_array());
        server.abort();
        let _ = server.await;
        drop(bind_admin(&path).unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
