//! Asking the daemon over its admin socket.

mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use super::order::{
    Action, Assignment, Back, ConfigChange, Reloaded, Remaining, Revision, Terms, Upgrade,
    Upgraded, Weight,
};
use crate::config::edit::Edit;
use crate::config::plan::Change;
use crate::stats::status::Status;

pub use stream::{Event, Stream};

/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a reload may take: new backends are probed, and workers have their time.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an upgrade may take: the daemon keeps the time itself.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(3600);

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
    /// It sends an event without an end.
    #[error("the daemon sends an event without an end")]
    Endless,
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
    take(path, Method::POST, "/v1/config/reload", Bytes::new()).await
}

/// Makes a change of the configuration, in the file too if it is to persist.
///
/// # Errors
/// If the daemon is not there, is not understood, or does not take the change.
pub async fn change(path: &Path, change: &ConfigChange, persist: bool) -> Result<Reloaded, Error> {
    let (method, mut target, body) = match change {
        ConfigChange::Edit(Edit::AddBackend { service, backend }) => {
            let target = format!("/v1/services/{}/backends", part(service));
            (Method::POST, target, serde_json::to_vec(backend)?)
        }
        ConfigChange::Edit(Edit::RemoveBackend { service, backend }) => {
            let target = format!("/v1/services/{}/backends/{backend}", part(service));
            (Method::DELETE, target, Vec::new())
        }
        ConfigChange::Edit(Edit::SetWeight { service, backend, weight }) => {
            let body = serde_json::to_vec(&Weight { weight: *weight })?;
            (Method::PUT, backend_target(service, *backend, "weight"), body)
        }
        ConfigChange::Edit(Edit::Set { key, value }) => {
            let order = Assignment { key: key.clone(), value: value.clone() };
            (Method::PATCH, "/v1/config".to_owned(), serde_json::to_vec(&order)?)
        }
        ConfigChange::Apply(text) => (Method::PUT, "/v1/config".to_owned(), text.clone().into()),
        ConfigChange::Rollback(revision) => {
            let body = serde_json::to_vec(&Back { revision: *revision })?;
            (Method::POST, "/v1/config/rollback".to_owned(), body)
        }
    };
    if persist {
        target += "?persist=true";
    }
    take(path, method, &target, body.into()).await
}

/// Asks for former configurations and the one in force, which comes last.
///
/// # Errors
/// If the daemon is not there, refuses, or is not understood.
pub async fn revisions(path: &Path) -> Result<Vec<Revision>, Error> {
    let answer = ask(path, Method::GET, "/v1/config/revisions", Bytes::new()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Asks for the text of the configuration in force.
///
/// # Errors
/// If the daemon is not there, or refuses.
pub async fn config_text(path: &Path) -> Result<String, Error> {
    let answer = ask(path, Method::GET, "/v1/config/text", Bytes::new()).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Has tickets of TLS sessions sealed with another key.
///
/// # Errors
/// If the daemon is not there, or refuses.
pub async fn rotate_tickets(path: &Path) -> Result<(), Error> {
    ask(path, Method::POST, "/v1/tls/rotate-tickets", Bytes::new()).await.map(drop)
}

/// Has another binary take the daemon's place.
///
/// # Errors
/// If the daemon is not there, is not understood, or serves on because the other one does not get ready.
pub async fn upgrade(path: &Path, binary: Option<PathBuf>) -> Result<Upgraded, Error> {
    let body = serde_json::to_vec(&Upgrade { binary })?;
    let answer = within(UPGRADE_TIMEOUT, path, Method::POST, "/v1/upgrade", body.into()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

async fn take(path: &Path, method: Method, target: &str, body: Bytes) -> Result<Reloaded, Error> {
    let answer = within(RELOAD_TIMEOUT, path, method, target, body).await?;
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
    format!("/v1/services/{}/backends/{backend}/{what}", part(service))
}

/// A name as a part of a path.
fn part(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

async fn ask(path: &Path, method: Method, target: &str, body: Bytes) -> Result<Bytes, Error> {
    within(ANSWER_TIMEOUT, path, method, target, body).await
}

async fn within(
    time: Duration,
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Bytes, Error> {
    let exchange = tokio::time::timeout(time, exchange(path, method, target, body)).await;
    let (status, body) = exchange.unwrap_or(Err(Error::Timeout { path: path.to_owned() }))?;
    if !status.is_success() {
        return Err(refused(status, &body));
    }
    Ok(body)
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
    Error::Refused { status, text: String::from_utf8_lossy(body).trim().to_owned() }
}

pub(super) async fn exchange(
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Error> {
    let (response, connection) = begin(path, method, target, body).await?;
    let status = response.status();
    let http = |source| Error::Http { path: path.to_owned(), source };
    let body = response.into_body().collect().await.map_err(http)?.to_bytes();
    connection.abort();
    Ok((status, body))
}

/// Sends a request; gives the answer's beginning, and what carries the rest of it.
async fn begin(
    path: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<(Response<Incoming>, AbortHandle), Error> {
    let http = |source| Error::Http { path: path.to_owned(), source };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with the exchange; its errors are the exchange's.
    let connection = tokio::spawn(connection).abort_handle();
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "steerage")
        .body(Full::new(body))
        .map_err(|_| Error::Target(target.to_owned()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    Ok((response, connection))
}
