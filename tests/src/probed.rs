//! Backends to be probed, by the thousand: one thread answers on one port of every address of 127/8
//! that anybody asks, and counts what was asked of each.
//!
//! What it answers is prepared, and the answers of the gRPC server are its frames byte by byte: so a
//! probe costs the thread little beside the connection, and what is measured is the prober.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use steerage_lab::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// What the backends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// They accept.
    Tcp,
    /// They answer a request with 200.
    Http,
    /// They answer a health check with what they were told to.
    Grpc,
}

/// The backends; dropping it ends them.
#[derive(Debug)]
pub struct Probed {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    kind: Kind,
    serves: AtomicBool,
    asked: Mutex<HashMap<SocketAddr, u64>>,
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, HashMap<SocketAddr, u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, own: Option<SocketAddr>) {
        if let Some(own) = own {
            *self.asked().entry(own).or_default() += 1;
        }
    }
}

impl Probed {
    /// Listens on a free port, inside `netns` or else where the caller is.
    ///
    /// # Errors
    /// If it can't listen.
    pub fn start(netns: Option<&Netns>, kind: Kind) -> Result<Self> {
        let bind = || -> Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            // Longer than what a standard listener has: probes begin many at a time.
            rustix::net::listen(&listener, 4096)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = match netns {
            Some(netns) => netns.enter(bind)?,
            None => bind(),
        }
        .context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { kind, serves: AtomicBool::new(true), asked: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("probed".into()).spawn(move || {
            // As if it were other hosts, which this one's load does not delay. Without the right to
            // it they answer later.
            let _ = steerage::sys::prefer_thread();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, state) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { port, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The backend of this number, from 0.
    #[must_use]
    pub fn address(&self, number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([127, 77, high, low], self.port))
    }

    /// How often each was asked: by connections for [`Kind::Tcp`], else by requests.
    #[must_use]
    pub fn asked(&self) -> HashMap<SocketAddr, u64> {
        self.shared.asked().clone()
    }

    /// What gRPC backends say from now on: whether they serve.
    pub fn set_serving(&self, serves: bool) {
        self.shared.serves.store(serves, Ordering::Relaxed);
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        // One that was reset in the queue.
        let Ok((stream, _)) = listener.accept().await else { continue };
        // The address is unknown once the prober has reset the connection, which a TCP check does
        // at once.
        let own = stream.local_addr().ok();
        let shared = Arc::clone(&shared);
        if shared.kind == Kind::Tcp {
            shared.count(own);
        } else {
            tokio::spawn(async move {
                // What goes wrong, the prober counts.
                let _ = serve(stream, own, &shared).await;
            });
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    own: Option<SocketAddr>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut asked = Vec::with_capacity(1024);
    let is_whole = match shared.kind {
        Kind::Grpc => grpc_is_whole,
        Kind::Http | Kind::Tcp => http_is_whole,
    };
    while !is_whole(&asked) {
        if stream.read_buf(&mut asked).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    shared.count(own);
    match shared.kind {
        Kind::Grpc => {
            let answer = grpc_answer(shared.serves.load(Ordering::Relaxed));
            stream.write_all(&answer).await?;
            // Until the prober closes: it may still have a SETTINGS frame to acknowledge.
            while stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {}
        }
        Kind::Http | Kind::Tcp => {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
            stream.write_all(answer).await?;
        }
    }
    Ok(())
}

fn http_is_whole(asked: &[u8]) -> bool {
    asked.ends_with(b"\r\n\r\n")
}

/// Frame types and flags (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Whether there is the preface and, among the frames after it, the request's last.
fn grpc_is_whole(asked: &[u8]) -> bool {
    const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
    let mut rest = asked.get(PREFACE..).unwrap_or_default();
    while let Some(([high, middle, low, kind, flags, ..], _)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        let Some(next) = rest.get(9 + length..) else { return false };
        if *kind == DATA && flags & END_STREAM != 0 {
            return true;
        }
        rest = next;
    }
    false
}

/// The whole answer to the one request on a connection.
fn grpc_answer(serves: bool) -> Vec<u8> {
    let mut answer = Vec::with_capacity(128);
    let mut frame = |kind, flags, stream: u8, payload: &[u8]| {
        answer.extend_from_slice(&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream]);
        answer.extend_from_slice(payload);
    };
    frame(SETTINGS, 0, 0, b"");
    frame(SETTINGS, ACK, 0, b"");
    // Names 8 (":status: 200") and 31 ("content-type") of HPACK's static table, and literals.
    frame(HEADERS, END_HEADERS, 1, b"\x88\x0f\x10\x10application/grpc");
    frame(DATA, 0, 1, if serves { b"\0\0\0\0\x02\x08\x01" } else { b"\0\0\0\0\x02\x08\x02" });
    frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\0\x0bgrpc-status\x010");
    answer
}
