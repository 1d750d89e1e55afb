//! An HTTP backend that does what its request says: names itself, hashes, streams, delays, fails.
//!
//! | path | answer |
//! |---|---|
//! | `/health` | the status set by [`Backend::set_health`], 200 at first |
//! | `/status/N` | status N |
//! | `/bytes/N`, `/chunked/N` | a body of N bytes ([`Pattern`]), with its length or in chunks |
//! | `/hash` | SHA-256 and length of the request's body |
//! | `/delay/MS` | its name, that much later |
//! | `/head` | the request's head, as it came |
//! | `/reset`, `/close` | a reset, or an end, in place of an answer |
//! | anything else | its name |

use std::io::{self, BufReader, Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::http::{self, BLOCK, Framing, Head};
use crate::netns::Netns;
use crate::pattern::{Pattern, Sum};

/// A running backend; dropping it closes its listener and all its connections.
#[derive(Debug)]
pub struct Backend {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    name: String,
    health: AtomicU16,
    stopped: AtomicBool,
    requests: AtomicU64,
    connections: AtomicU64,
    /// Every connection that is open, to be closed with the backend.
    open: Mutex<Vec<TcpStream>>,
}

impl Backend {
    /// Serves on `address`, inside `netns` or else where the caller is.
    ///
    /// # Errors
    /// If it can't listen there.
    pub fn start(name: &str, netns: Option<&Netns>, address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            health: AtomicU16::new(200),
            stopped: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let bind = || TcpListener::bind(address);
        let listener = match netns {
            Some(netns) => netns.enter(bind)?,
            None => bind(),
        };
        let listener = listener.with_context(|| format!("{name}: cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let listener = Arc::new(listener);
        let (accepting, state) = (Arc::clone(&listener), Arc::clone(&shared));
        std::thread::spawn(move || accept(&accepting, &state));
        Ok(Self { shared, listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that it has read, those to `/health` aside.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Connections that it has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The status of `/health` from now on.
    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::SeqCst);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Ends the accept call under way, and refuses connections from now on.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        for connection in self.shared.open().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, peer: SocketAddr) {
        self.open().retain(|open| open.peer_addr().is_ok_and(|other| other != peer));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, peer)) = listener.accept() {
        let Ok(copy) = stream.try_clone() else { continue };
        shared.open().push(copy);
        if shared.stopped.load(Ordering::SeqCst) {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let outcome = serve(&stream, &shared);
            if !outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            shared.forget(peer);
        });
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(BLOCK, stream);
    while let Some(head) = http::read_head(&mut reader)? {
        if head.word(1) != "/health" {
            shared.requests.fetch_add(1, Ordering::SeqCst);
        }
        if head.header("expect").is_some() {
            (&mut &*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let (mut sum, hashing) = (Sum::default(), head.word(1) == "/hash");
        let framing = head.framing(Framing::Length(0))?;
        let length = http::read_body(&mut reader, framing, |part| {
            if hashing {
                sum.add(part);
            }
        })?;
        if !answer(&head, sum, length, stream, shared)? || head.closes() {
            // What the peer still sends is read first: closing on unread bytes would reset.
            stream.shutdown(Shutdown::Write)?;
            let _ = io::copy(&mut reader.by_ref().take(BLOCK as u64), &mut io::sink());
            return Ok(());
        }
    }
    Ok(())
}

/// Answers one request; false if the connection is to end.
fn answer(
    head: &Head,
    sum: Sum,
    length: u64,
    stream: &TcpStream,
    shared: &Shared,
) -> io::Result<bool> {
    let path = head.word(1).split('?').next().unwrap_or("");
    let mut words = path.trim_start_matches('/').splitn(2, '/');
    let (action, argument) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let number = || argument.parse::<u64>().map_err(|_| http::invalid("path"));
    let name = format!("{}\n", shared.name);
    let (status, body) = match action {
        "health" => (shared.health.load(Ordering::SeqCst), name),
        "status" => (u16::try_from(number()?).unwrap_or(500), name),
        "hash" => (200, format!("{} {length}\n", sum.hex())),
        "head" => (200, echo(head)),
        "delay" => {
            std::thread::sleep(Duration::from_millis(number()?));
            (200, name)
        }
        "bytes" => return stream_bytes(stream, shared, number()?).map(|()| true),
        "chunked" => return stream_chunks(stream, shared, number()?).map(|()| true),
        "close" => return Ok(false),
        "reset" => {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            // Closing the last descriptor without a shutdown before it sends the reset.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        _ => (200, name),
    };
    let mut message = start(shared, status, &format!("Content-Length: {}", body.len()));
    if head.word(0) != "HEAD" {
        message.push_str(&body);
    }
    (&mut &*stream).write_all(message.as_bytes())?;
    Ok(true)
}

fn echo(head: &Head) -> String {
    let headers = head.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    std::iter::once(format!("{}\n", head.start)).chain(headers).collect()
}

fn start(shared: &Shared, status: u16, framing: &str) -> String {
    format!("HTTP/1.1 {status} Test\r\nX-Backend: {}\r\n{framing}\r\n\r\n", shared.name)
}

fn stream_bytes(mut stream: &TcpStream, shared: &Shared, length: u64) -> io::Result<()> {
    stream.write_all(start(shared, 200, &format!("Content-Length: {length}")).as_bytes())?;
    let mut pattern = Pattern::new(length);
    while let Some(piece) = pattern.next_piece() {
        stream.write_all(piece)?;
    }
    Ok(())
}

fn stream_chunks(stream: &TcpStream, shared: &Shared, length: u64) -> io::Result<()> {
    let mut stream = io::BufWriter::with_capacity(BLOCK, stream);
    stream.write_all(start(shared, 200, "Transfer-Encoding: chunked").as_bytes())?;
    let mut pattern = Pattern::new(length);
    while let Some(piece) = pattern.next_piece() {
        http::write_chunk(&mut stream, piece)?;
    }
    http::write_chunk(&mut stream, b"")?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Connection;

    fn backend() -> Backend {
        Backend::start("one", None, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
    }

    #[test]
    fn one_connection_carries_many_requests() {
        let backend = backend();
        let mut client = Connection::open(None, backend.address()).unwrap();
        assert_eq!(client.get("/").unwrap().text(), "one\n");
        assert_eq!(client.get("/status/503").unwrap().status, 503);
        let body = client.get("/chunked/200000").unwrap();
        assert_eq!(body.digest, Pattern::digest(200_000));
        assert_eq!(client.get("/bytes/100").unwrap().digest, Pattern::digest(100));
        let hash = client.post("/hash", Pattern::new(150_000)).unwrap();
        assert_eq!(hash.text(), format!("{} 150000\n", Pattern::digest(150_000)));
        assert_eq!((backend.connections(), backend.requests()), (1, 5));
    }

    #[test]
    fn a_dead_backend_ends_its_connections_and_refuses_new_ones() {
        let backend = backend();
        let address = backend.address();
        let mut client = Connection::open(None, address).unwrap();
        client.get("/").unwrap();
        drop(backend);
        assert!(client.get("/").is_err());
        assert!(TcpStream::connect(address).is_err());
        // And its address is free for the next.
        Backend::start("two", None, address).unwrap();
    }

    #[test]
    fn a_reset_is_a_reset() {
        let backend = backend();
        let mut client = Connection::open(None, backend.address()).unwrap();
        let error = client.get("/reset").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
}
