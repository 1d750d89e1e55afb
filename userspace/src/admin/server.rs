//! The two HTTP servers of the supervisor.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::order::{Action, Daemon, Refusal, Terms};
use crate::stats::metrics;

/// Clients that are served at the same time, on each of the two servers.
const CLIENTS_MAX: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken for.
pub type Subject = Arc<dyn Daemon>;

/// An order's body.
const BODY_BYTES_MAX: usize = 64 * 1024;

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
pub async fn serve_admin(listener: UnixListener, daemon: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    accept_all("admin", accept, &daemon, Face::Admin).await;
}

/// Serves the metrics address for ever.
pub async fn serve_metrics(listener: TcpListener, daemon: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    accept_all("metrics", accept, &daemon, Face::Metrics).await;
}

async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: &str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    daemon: &Subject,
    face: Face,
) {
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match poll_fn(&mut accept).await {
            Ok(stream) => {
                let daemon = daemon.clone();
                tokio::spawn(async move {
                    serve(stream, daemon, face).await;
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

/// Which of the two servers.
#[derive(Clone, Copy)]
enum Face {
    Admin,
    Metrics,
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, daemon: Subject, face: Face) {
    let service = service_fn(move |request| {
        let daemon = daemon.clone();
        async move {
            Ok::<_, Infallible>(match face {
                Face::Admin => admin(request, daemon).await,
                Face::Metrics => scrape(&request, &daemon),
            })
        }
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

const ADMIN_ROUTES: &str = "there are:\n  GET /v1/status\n  GET /v1/config\n  GET /v1/config/diff\n  \
    POST /v1/config/reload\n  \
    GET /v1/services/SERVICE/backends/ADDRESS/remaining\n  \
    POST /v1/services/SERVICE/backends/ADDRESS/{drain,maintenance,undrain}\n";

async fn admin(request: Request<Incoming>, daemon: Subject) -> Reply {
    let path = request.uri().path().to_owned();
    if path == "/v1/status" {
        return match *request.method() {
            Method::GET => json(&daemon.status()),
            _ => reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        };
    }
    if let Some(what) = path.strip_prefix("/v1/config") {
        return config(request.method(), what, &daemon).await;
    }
    let Some((service, backend, what)) = backend_path(&path) else {
        return reply(StatusCode::NOT_FOUND, "text/plain", ADMIN_ROUTES);
    };
    let action = Action::ALL.into_iter().find(|action| action.name() == what);
    match (request.method(), what, action) {
        (&Method::GET, "remaining", _) => {
            let service = service.to_owned();
            // It walks the flow table.
            let walk = tokio::task::spawn_blocking(move || daemon.remaining(&service, backend));
            match walk.await {
                Ok(Ok(remaining)) => json(&remaining),
                Ok(Err(refusal)) => refused(&refusal),
                Err(error) => {
                    reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string())
                }
            }
        }
        (&Method::POST, _, Some(action)) => match terms(request).await {
            Ok(terms) => match daemon.order(service, backend, action, terms) {
                Ok(()) => reply(StatusCode::NO_CONTENT, "text/plain", ""),
                Err(refusal) => refused(&refusal),
            },
            Err(why) => reply(StatusCode::BAD_REQUEST, "text/plain", why),
        },
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", ADMIN_ROUTES),
    }
}

/// What is asked of the configuration.
async fn config(method: &Method, what: &str, daemon: &Subject) -> Reply {
    match (method, what) {
        (&Method::GET, "") => json(&daemon.config()),
        (&Method::GET, "/diff") => match daemon.diff().await {
            Ok(changes) => json(&changes),
            Err(refusal) => refused(&refusal),
        },
        (&Method::POST, "/reload") => match daemon.reload().await {
            Ok(reloaded) => json(&reloaded),
            Err(refusal) => refused(&refusal),
        },
        (_, "" | "/diff" | "/reload") => {
            reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", ADMIN_ROUTES)
        }
        _ => reply(StatusCode::NOT_FOUND, "text/plain", ADMIN_ROUTES),
    }
}

/// The parts of `/v1/services/SERVICE/backends/ADDRESS/WHAT`.
fn backend_path(path: &str) -> Option<(&str, SocketAddr, &str)> {
    let rest = path.strip_prefix("/v1/services/")?;
    let (service, rest) = rest.split_once("/backends/")?;
    let (address, what) = rest.split_once('/')?;
    Some((service, address.parse().ok()?, what))
}

/// An order's body: JSON, or nothing.
async fn terms(request: Request<Incoming>) -> Result<Terms, String> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("the body cannot be read: {error}\n"))?.to_bytes();
    if body.is_empty() {
        return Ok(Terms::default());
    }
    serde_json::from_slice(&body).map_err(|error| format!("the body is no valid order: {error}\n"))
}

fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(json) => reply(StatusCode::OK, "application/json", json),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

fn refused(refusal: &Refusal) -> Reply {
    let status = match refusal {
        Refusal::Unknown { .. } => StatusCode::NOT_FOUND,
        Refusal::Config(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::Flows(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    reply(status, "text/plain", format!("{refusal}\n"))
}

fn scrape(request: &Request<Incoming>, daemon: &Subject) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            reply(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&daemon.status()))
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
