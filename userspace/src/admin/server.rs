//! The two HTTP servers of the supervisor.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::stats::metrics;
use crate::stats::status::Status;

/// Clients that are served at the same time, on each of the two servers.
const CLIENTS_MAX: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes the snapshot that a request asks for.
pub type Snapshot = Arc<dyn Fn() -> Status + Send + Sync>;

/// Makes the admin socket, for root alone. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// `AddrInUse` if somebody listens there, or what the system said.
pub fn bind_admin(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the admin socket for ever.
pub async fn serve_admin(listener: UnixListener, snapshot: Snapshot) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    accept_all("admin", accept, &snapshot, admin).await;
}

/// Serves the metrics address for ever.
pub async fn serve_metrics(listener: TcpListener, snapshot: Snapshot) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    accept_all("metrics", accept, &snapshot, scrape).await;
}

async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: &str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    snapshot: &Snapshot,
    answer: Answer,
) {
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match poll_fn(&mut accept).await {
            Ok(stream) => {
                let snapshot = snapshot.clone();
                tokio::spawn(async move {
                    serve(stream, snapshot, answer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(server, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Reply = Response<Full<Bytes>>;

type Answer = fn(&Request<Incoming>, &Snapshot) -> Reply;

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, snapshot: Snapshot, answer: Answer) {
    let service = service_fn(move |request| {
        let reply = answer(&request, &snapshot);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "admin or metrics client went away");
    }
}

fn admin(request: &Request<Incoming>, snapshot: &Snapshot) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => match serde_json::to_vec(&snapshot()) {
            Ok(json) => reply(StatusCode::OK, "application/json", json),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
        },
        (_, "/v1/status") => reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there is: GET /v1/status\n"),
    }
}

fn scrape(request: &Request<Incoming>, snapshot: &Snapshot) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            reply(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&snapshot()))
        }
        (_, "/metrics") => reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there is: GET /metrics\n"),
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}
