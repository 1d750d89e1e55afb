//! Asking the daemon over its admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::stats::status::Status;

/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("admin socket {}: no answer within {ANSWER_TIMEOUT:?}; the supervisor hangs", path.display())]
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
    let timeout = tokio::time::timeout(ANSWER_TIMEOUT, get(path, "/v1/status"));
    let json = timeout.await.unwrap_or(Err(Error::Timeout { path: path.to_owned() }))?;
    Ok(serde_json::from_slice(&json)?)
}

async fn get(path: &Path, target: &str) -> Result<Bytes, Error> {
    let http = |source| Error::Http { path: path.to_owned(), source };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the exchange; its errors are the exchange's.
    let connection = tokio::spawn(connection);
    let request = Request::get(target)
        .header(header::HOST, "steerage")
        .body(Empty::<Bytes>::new())
        .expect("the target is ours");
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(http)?.to_bytes();
    connection.abort();
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(Error::Refused { status, text });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::server::{bind_admin, serve_admin};
    use super::*;
    use crate::stats::table::tests::sample;

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
        let server = tokio::spawn(serve_admin(listener, Arc::new(sample)));
        assert_eq!(status(&path).await.unwrap(), sample());
        assert!(matches!(get(&path, "/nothing").await, Err(Error::Refused { .. })));
        server.abort();
        let _ = server.await;
        drop(bind_admin(&path).unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
