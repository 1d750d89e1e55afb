//! Clients that never stop, each of another kind, and what each of them lost.

mod echo;
mod http2;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use steerage_lab::client::Connection;
use steerage_lab::netns::Netns;
use steerage_lab::pattern::Pattern;

pub use echo::EchoServer;

/// A client's patience, and a server's time to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions on what is kept open.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of an upload: more than is held for a replay.
const UPLOAD_BYTES: u64 = 150_000;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One TCP connection for the whole time, on which it asks again and again.
    Flow,
    /// Uploads on kept connections, never sent twice, and their digests.
    Upload,
    /// Requests side by side on HTTP/2 connections with prior knowledge.
    Http2,
    /// One upgraded connection, on which words are echoed.
    Tunnel,
}

/// Something that was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Since when the connection stood.
    pub since: Instant,
    /// When it was lost.
    pub at: Instant,
    /// How.
    pub why: String,
}

/// What a client did.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Questions that were answered.
    pub done: u64,
    /// Those that were not.
    pub losses: Vec<Loss>,
}

/// A client at work; dropping it stops it.
#[derive(Debug)]
pub struct Client {
    stopped: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts a client of this kind inside `netns`.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn start(netns: &Netns, kind: Kind, address: SocketAddr) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let record = Arc::new(Mutex::new(Record::default()));
        let task = Task { stopped: stopped.clone(), record: record.clone(), address };
        let work = move || match kind {
            Kind::Flow => task.ask_again_and_again(|connection| {
                std::thread::sleep(PAUSE);
                connection.get("/").map(drop)
            }),
            Kind::Upload => task.ask_again_and_again(upload),
            Kind::Http2 => http2::ask(&task),
            Kind::Tunnel => echo::ask(&task),
        };
        // A thread belongs to the namespace that it was begun in.
        let thread = netns.enter(move || std::thread::spawn(work))?;
        Ok(Self { stopped, record, thread: Some(thread) })
    }

    /// Stops it; gives what it did.
    #[must_use]
    pub fn stop(mut self) -> Record {
        self.join();
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn join(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.join();
    }
}

/// What a client's thread has.
struct Task {
    stopped: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    address: SocketAddr,
}

impl Task {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn done(&self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).done += 1;
    }

    fn lost(&self, since: Instant, why: impl ToString) {
        if !self.is_stopped() {
            let loss = Loss { since, at: Instant::now(), why: why.to_string() };
            self.record.lock().unwrap_or_else(PoisonError::into_inner).losses.push(loss);
        }
    }

    /// Asks on one connection for as long as it lasts, then on another one.
    fn ask_again_and_again(&self, ask: impl Fn(&mut Connection) -> std::io::Result<()>) {
        while !self.is_stopped() {
            let since = Instant::now();
            let mut connection = match Connection::open_here(self.address, PATIENCE) {
                Ok(connection) => connection,
                Err(error) => {
                    self.lost(since, error);
                    continue;
                }
            };
            while !self.is_stopped() {
                if let Err(error) = ask(&mut connection) {
                    // The server said that the former response was the last.
                    if error.kind() != std::io::ErrorKind::NotConnected {
                        self.lost(since, error);
                    }
                    break;
                }
                self.done();
            }
        }
    }
}

/// An upload whose digest is checked. `NotConnected` if there will be no other one.
fn upload(connection: &mut Connection) -> std::io::Result<()> {
    let response = connection.post("/hash", Pattern::new(UPLOAD_BYTES))?;
    if response.status != 200 || !response.text().contains(&Pattern::digest(UPLOAD_BYTES)) {
        return Err(std::io::Error::other(format!("{}: {}", response.status, response.text())));
    }
    if response.head.closes() { Err(std::io::ErrorKind::NotConnected.into()) } else { Ok(()) }
}
