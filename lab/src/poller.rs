//! A client that asks without pause and writes down when it heard what: how fast a change shows is
//! read off its record.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::{Connection, Response};
use crate::netns::Netns;

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(1);

/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether requests share a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// All requests on one connection, while it lasts.
    KeepAlive,
    /// A connection for each request.
    Never,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When the answer was there.
    pub at: Instant,
    /// The body, without its line end; or what went wrong.
    pub answer: Result<String, String>,
    /// Whether the connection had been closed before, so that the request was made again on a new
    /// one: what every client does, because a server may close an idle connection at any time.
    pub again: bool,
}

/// A client at work; dropping it stops it.
#[derive(Debug)]
pub struct Poller {
    stopped: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    /// Starts asking `address` for `/` from inside `netns`.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn start(netns: &Netns, address: SocketAddr, reuse: Reuse) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (stop, record) = (Arc::clone(&stopped), Arc::clone(&samples));
        let ask = move || {
            let mut connection = None;
            while !stop.load(Ordering::SeqCst) {
                let (answer, again) = ask(&mut connection, address);
                if reuse == Reuse::Never {
                    connection = None;
                }
                lock(&record).push(Sample { at: Instant::now(), answer, again });
                std::thread::sleep(PAUSE);
            }
        };
        // A thread belongs to the namespace that it was begun in.
        let thread = netns.enter(move || std::thread::spawn(ask))?;
        Ok(Self { stopped, samples, thread: Some(thread) })
    }

    /// What was heard so far.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        lock(&self.samples).clone()
    }

    /// What was heard since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Vec<Sample> {
        lock(&self.samples).iter().filter(|sample| sample.at >= moment).cloned().collect()
    }

    /// Whether somebody of this name answered since a moment.
    #[must_use]
    pub fn heard(&self, name: &str, since: Instant) -> bool {
        let samples = lock(&self.samples);
        let recent = samples.iter().rev().take_while(|sample| sample.at >= since);
        recent.into_iter().any(|sample| sample.answer.as_deref() == Ok(name))
    }

    /// Stops and gives the whole record.
    #[must_use]
    pub fn stop(mut self) -> Vec<Sample> {
        self.join();
        self.samples()
    }

    fn join(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.join();
    }
}

/// One request; also says whether it was made again.
fn ask(connection: &mut Option<Connection>, address: SocketAddr) -> (Result<String, String>, bool) {
    let mut again = false;
    if let Some(mut open) = connection.take() {
        match open.get("/") {
            Ok(response) => return (read(connection, open, &response), false),
            Err(error) if closed(&error) => again = true,
            Err(error) => return (Err(error.to_string()), false),
        }
    }
    let fresh = Connection::open_here(address, PATIENCE).and_then(|mut open| {
        let response = open.get("/")?;
        Ok((open, response))
    });
    match fresh {
        Ok((open, response)) => (read(connection, open, &response), again),
        Err(error) => (Err(error.to_string()), again),
    }
}

/// Whether the other side had closed the connection.
fn closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Reads the answer, and keeps the connection if it stays open.
fn read(
    connection: &mut Option<Connection>,
    open: Connection,
    response: &Response,
) -> Result<String, String> {
    if !response.head.closes() {
        *connection = Some(open);
    }
    match response.status {
        200 => Ok(response.text().trim_end().to_owned()),
        status => Err(format!("status {status}: {}", response.text().trim_end())),
    }
}

fn lock(samples: &Mutex<Vec<Sample>>) -> std::sync::MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}
