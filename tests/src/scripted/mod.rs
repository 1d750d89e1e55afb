//! A backend whose behaviour is a script: bytes and ends of connections as a test wants them, and an
//! account of what it executed.
//!
//! It is no HTTP server. What it sends is what the script says, however wrong; only requests are read
//! as HTTP, because what counts is how often each of them was executed. A connection is closed by
//! `close(2)` of its only descriptor, as servers do: what arrives afterwards is answered by a reset.

mod steps;
mod talk;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use steerage_lab::netns::Netns;

pub use self::steps::{Step, play};
pub use self::talk::{Request, Talk, Waited};

/// A scripted backend; dropping it closes its listener. Its connections end with their peers.
#[derive(Debug)]
pub struct Scripted {
    ledger: Arc<Ledger>,
    listener: Arc<TcpListener>,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

/// What a backend did.
#[derive(Debug, Default)]
pub struct Ledger {
    executed: Mutex<HashMap<String, u32>>,
    connections: AtomicU64,
    /// How many gates were opened, and passed.
    gates: Mutex<(u64, u64)>,
    opened: Condvar,
}

impl Scripted {
    /// Listens on `address` in `netns` and plays `script` on every connection, which gets its number.
    ///
    /// # Errors
    /// If it can't listen there.
    pub fn start<S>(netns: &Netns, address: SocketAddr, script: S) -> Result<Self>
    where
        S: Fn(&mut Talk, u64) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = netns.enter(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        let (listener, ledger) = (Arc::new(listener), Arc::new(Ledger::default()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (accepting, account) = (Arc::clone(&listener), Arc::clone(&ledger));
        let (ends, script) = (Arc::clone(&stopped), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let number = account.connections.fetch_add(1, Ordering::SeqCst);
                let (account, script) = (Arc::clone(&account), Arc::clone(&script));
                std::thread::spawn(move || {
                    // That the peer has gone is no error of the script.
                    let _ =
                        Talk::new(stream, account).and_then(|mut talk| script(&mut talk, number));
                });
            }
        });
        Ok(Self { ledger, listener, address, stopped })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.ledger.connections.load(Ordering::SeqCst)
    }

    /// How often each request was executed, by its `X-Id`.
    #[must_use]
    pub fn executed(&self) -> HashMap<String, u32> {
        lock(&self.ledger.executed).clone()
    }

    /// Lets one connection pass its [`Step::Gate`].
    pub fn open_gate(&self) {
        lock(&self.ledger.gates).0 += 1;
        self.ledger.opened.notify_all();
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Ends the accept call under way, and refuses connections from now on.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

impl Ledger {
    fn note(&self, id: &str) {
        *lock(&self.executed).entry(id.to_owned()).or_default() += 1;
    }

    fn pass_gate(&self) {
        let gates = lock(&self.gates);
        let closed = |(opened, passed): &mut (u64, u64)| opened == passed;
        let open = self.opened.wait_while(gates, closed);
        open.unwrap_or_else(PoisonError::into_inner).1 += 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
