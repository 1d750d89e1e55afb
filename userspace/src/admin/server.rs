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

use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::answer::{admin, reply};
use super::order::Daemon;
use super::page::{self, WATCHERS_MAX};
use super::show::Show;
use crate::sys;

/// Clients that are served at the same time, on each of the two servers.
const CLIENTS_MAX: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what is sent to it.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after an accept that failed, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken for.
#[derive(Clone)]
pub struct Subject {
    /// The daemon.
    pub daemon: Arc<dyn Daemon>,
    /// What moves in it.
    pub show: Arc<Show>,
}

impl Subject {
    /// A daemon that nobody watches yet.
    #[must_use]
    pub fn new(daemon: Arc<dyn Daemon>) -> Self {
        Self { show: Show::new(daemon.clone()), daemon }
    }
}

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
pub async fn serve_admin(listener: UnixListener, subject: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    let face = |stream: &UnixStream| match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == sys::user() => Face::Admin,
        peer => {
            warn!(uid = ?peer.map(|peer| peer.uid()), "refused on the admin socket");
            Face::Stranger
        }
    };
    accept_all("admin", accept, &subject, face).await;
}

/// Serves metrics and the page on the metrics address for ever.
pub async fn serve_metrics(listener: TcpListener, subject: Subject) {
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    let places = Arc::new(Semaphore::new(WATCHERS_MAX));
    let face = |stream: &TcpStream| match stream.peer_addr() {
        Ok(peer) => {
            // Whoever watches the page and takes nothing more is not waited for.
            let patience = SockRef::from(stream).set_tcp_user_timeout(Some(TAKE_TIMEOUT));
            if let Err(error) = patience {
                debug!(%error, "a client of the metrics may hang");
            }
            Face::Public(peer, places.clone())
        }
        Err(_) => Face::Stranger,
    };
    accept_all("metrics", accept, &subject, face).await;
}

async fn accept_all<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: &str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    subject: &Subject,
    face: impl Fn(&S) -> Face,
) {
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match poll_fn(&mut accept).await {
            Ok(stream) => {
                let (subject, face) = (subject.clone(), face(&stream));
                tokio::spawn(async move {
                    serve(stream, subject, face).await;
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
#[derive(Clone)]
enum Face {
    Admin,
    /// Metrics and the page.
    Public(SocketAddr, Arc<Semaphore>),
    /// Nothing.
    Stranger,
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, subject: Subject, face: Face) {
    let service = service_fn(move |request| {
        let (subject, face) = (subject.clone(), face.clone());
        async move {
            Ok::<_, Infallible>(match face {
                Face::Admin => admin(request, subject).await,
                Face::Public(peer, places) => page::answer(request, peer, subject, places).await,
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
