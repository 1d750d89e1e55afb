//! Tunnels: a server that echoes after an upgrade, and a client that checks it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Result;
use steerage_lab::netns::Netns;

use super::{PATIENCE, PAUSE, Task};

/// A server that switches protocols and echoes; dropping it stops it.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Listens at `address` inside `netns`.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = netns.enter(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || serve(stream))),
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
        Ok(Self { address, stopped, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut writer = stream;
    writer.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    )?;
    let mut word = [0; 8];
    loop {
        reader.read_exact(&mut word)?;
        writer.write_all(&word)?;
    }
}

/// Opens tunnels and checks that words come back.
pub(super) fn ask(task: &Task) {
    while !task.is_stopped() {
        let since = Instant::now();
        let Err(error) = hold(task) else { return };
        task.lost(since, error);
    }
}

/// Holds one tunnel until it breaks or the task is stopped.
fn hold(task: &Task) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&task.address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    )?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.contains(" 101 ") {
        return Err(io::Error::other(format!("no tunnel: {line:?}")));
    }
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let mut number = 0_u64;
    while !task.is_stopped() {
        number += 1;
        stream.write_all(&number.to_be_bytes())?;
        let mut back = [0; 8];
        reader.read_exact(&mut back)?;
        if u64::from_be_bytes(back) != number {
            return Err(io::Error::other("another word came back"));
        }
        task.done();
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
