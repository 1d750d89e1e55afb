//! The two HTTP servers of the supervisor.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::answer::{Reply, admin, reply};
use super::order::Daemon;
use crate::stats::metrics;
use crate::sys;

/// Clients that are served at the same time, on each of the two servers.
const CLIENTS_MAX: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken for.
pub type Subject = Arc<dyn Daemon>;

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

/// Serves the admin socket for ever. Whoever is neither root nor who the daemon runs as is refused, even
/// if the socket's mode has been opened.
pub async fn serve_admin(listener: UnixListener, daemon: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    let face = |stream: &UnixStream| match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == sys::user() => Face::Admin,
        peer => {
            warn!(uid = ?peer.map(|peer| peer.uid()), "refused on the admin socket");
            Face::Stranger
        }
    };
    accept_all("admin", accept, &daemon, face).await;
}

/// Serves the metrics address for ever.
pub async fn serve_metrics(listener: TcpListener, daemon: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    accept_all("metrics", accept, &daemon, |_| Face::Metrics).await;
}

async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: &str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    daemon: &Subject,
    face: impl Fn(&S) -> Face,
) {
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match poll_fn(&mut accept).await {
            Ok(stream) => {
                let (daemon, face) = (daemon.clone(), face(&stream));
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

/// What a client gets to see.
#[derive(Clone, Copy)]
enum Face {
    Admin,
    Metrics,
    /// Nothing.
    Stranger,
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, daemon: Subject, face: Face) {
    let service = service_fn(move |request| {
        let daemon = daemon.clone();
        async move {
            Ok::<_, Infallible>(match face {
                Face::Admin => admin(request, daemon).await,
                Face::Metrics => scrape(&request, &daemon),
                Face::Stranger => reply(StatusCode::FORBIDDEN, "text/plain", "only root may ask\n"),
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

fn scrape(request: &Request<Incoming>, daemon: &Subject) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            reply(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(&daemon.status()))
        }
        (_, "/metrics") => reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n"),
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "there is: GET /metrics\n"),
    }
}
