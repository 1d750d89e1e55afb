//! A backend whose mood the test changes while it is at work.
//!
//! It serves HTTP as long as its mood lets it, and asks nobody: what a load balancer makes of it must
//! come from what it does. A mood holds for requests that begin after it; a connection that is open
//! meets it with its next request.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_linger;
use steerage_lab::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// What a backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// It answers.
    Well = 0,
    /// It answers everything late.
    Slow = 1,
    /// It resets the connection in place of an answer.
    Resetting = 2,
    /// It answers everything with 503.
    Failing = 3,
    /// It answers 503 to requests and 200 to probes.
    FailingRequests = 4,
    /// It answers 200 to requests and 503 to probes.
    FailingProbes = 5,
    /// It takes no connection and ends those it has.
    Dead = 6,
    /// It hears nothing: no answer to a SYN, nor to anything else.
    Blackholed = 7,
}

impl Mood {
    const ALL: [Self; 8] = [
        Self::Well,
        Self::Slow,
        Self::Resetting,
        Self::Failing,
        Self::FailingRequests,
        Self::FailingProbes,
        Self::Dead,
        Self::Blackholed,
    ];
}

/// How late a slow one answers: longer than the scenarios' probes wait.
pub const SLOWNESS: Duration = Duration::from_millis(400);

/// A backend at work; dropping it ends it.
#[derive(Debug)]
pub struct Moody {
    name: String,
    netns: String,
    peer: Ipv4Addr,
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    is_deaf: AtomicBool,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Moody {
    /// Serves on `address` in `netns`; `peer` is the balancer's address on its link.
    ///
    /// # Errors
    /// If it can't listen.
    pub fn start(name: &str, netns: &Netns, address: SocketAddr, peer: Ipv4Addr) -> Result<Self> {
        let mut moody = Self {
            name: name.to_owned(),
            netns: netns.name().to_owned(),
            peer,
            address,
            mood: Arc::default(),
            is_deaf: AtomicBool::new(false),
            server: None,
        };
        moody.serve(netns)?;
        Ok(moody)
    }

    /// Its name, which it answers with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes its mood; it has changed when this returns.
    ///
    /// # Errors
    /// If it can't listen again, or the routes of its host can't be changed.
    pub fn set(&mut self, netns: &Netns, mood: Mood) -> Result<()> {
        let hears = mood != Mood::Blackholed;
        if hears == self.is_deaf.load(Ordering::SeqCst) {
            // Answers find no way: to the balancer it is as if its packets were dropped.
            let order = if hears { "del" } else { "add" };
            netns.ip(&format!("route {order} blackhole {}/32", self.peer))?;
            self.is_deaf.store(!hears, Ordering::SeqCst);
        }
        self.mood.store(mood as u8, Ordering::SeqCst);
        if mood == Mood::Dead {
            self.die();
        } else if self.server.is_none() {
            self.serve(netns)?;
        }
        Ok(())
    }

    fn serve(&mut self, netns: &Netns) -> Result<()> {
        let bind = || {
            let listener = TcpListener::bind(self.address)?;
            rustix::net::listen(&listener, 4096)?;
            listener.set_nonblocking(true)?;
            anyhow::Ok(listener)
        };
        let listener = netns.enter(bind)?;
        let listener =
            listener.with_context(|| format!("{} cannot listen in {}", self.name, self.netns))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (name, mood) = (Arc::from(format!("{}\n", self.name)), Arc::clone(&self.mood));
        let thread = std::thread::spawn(move || {
            // The runtime's end closes all connections.
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, name, mood) => {}
                    _ = stopped => {}
                }
            });
        });
        self.server = Some(Server { stop, thread });
        Ok(())
    }

    fn die(&mut self) {
        if let Some(Server { stop, thread }) = self.server.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.die();
    }
}

async fn accept(listener: TcpListener, name: Arc<str>, mood: Arc<AtomicU8>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (name, mood) = (Arc::clone(&name), Arc::clone(&mood));
        // That the peer has gone is no error of the backend.
        tokio::spawn(async move { serve(stream, &name, &mood).await });
    }
}

async fn serve(mut stream: TcpStream, name: &str, mood: &AtomicU8) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut asked = Vec::with_capacity(1024);
    loop {
        // Requests have no bodies here.
        while !asked.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut asked).await? == 0 {
                return Ok(());
            }
        }
        let is_probe = asked.starts_with(b"GET /health ");
        let status = match Mood::ALL[usize::from(mood.load(Ordering::SeqCst))] {
            Mood::Resetting => {
                set_socket_linger(&stream, Some(Duration::ZERO))?;
                return Ok(());
            }
            Mood::Slow => {
                tokio::time::sleep(SLOWNESS).await;
                200
            }
            Mood::Failing => 503,
            Mood::FailingRequests if !is_probe => 503,
            Mood::FailingProbes if is_probe => 503,
            _ => 200,
        };
        let length = name.len();
        let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n{name}");
        stream.write_all(answer.as_bytes()).await?;
        asked.clear();
    }
}
