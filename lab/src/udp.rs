//! A UDP backend: answers each datagram with its name and what came.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// Room for a datagram of any length.
const DATAGRAM: usize = 1 << 16;

/// How often the server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A running echo server; dropping it closes its socket.
#[derive(Debug)]
pub struct Echo {
    stopped: Arc<AtomicBool>,
    datagrams: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    /// Answers on `address` inside `netns`.
    ///
    /// # Errors
    /// If it can't bind there.
    pub fn start(name: &str, netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = netns
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("{name}: cannot bind {address}/udp"))?;
        socket.set_read_timeout(Some(LOOK))?;
        let (stopped, datagrams) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count, name) = (Arc::clone(&stopped), Arc::clone(&datagrams), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; DATAGRAM];
            while !stop.load(Ordering::SeqCst) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let mut reply = format!("{name} ").into_bytes();
                reply.extend_from_slice(&buffer[..length]);
                let _ = socket.send_to(&reply, peer);
            }
        });
        Ok(Self { stopped, datagrams, thread: Some(thread) })
    }

    /// Datagrams that it received.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket inside a namespace, connected to `to`.
///
/// # Errors
/// If it can't be made.
pub fn client(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<UdpSocket> {
    let make = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        Ok::<_, std::io::Error>(socket)
    };
    Ok(netns.enter(make)??)
}

/// Sends a datagram, up to `attempts` times, until an [`Echo`] answers it; gives the echo's name and what
/// it heard.
///
/// # Errors
/// If there was no answer, or none of an echo's.
pub fn ask(socket: &UdpSocket, datagram: &[u8], attempts: u32) -> Result<(String, Vec<u8>)> {
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..attempts {
        socket.send(datagram)?;
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let reply = &buffer[..length];
        let end = reply.iter().position(|byte| *byte == b' ').context("a name")?;
        let name = String::from_utf8_lossy(&reply[..end]).into_owned();
        return Ok((name, reply[end + 1..].to_vec()));
    }
    anyhow::bail!("no answer to any of {attempts} datagrams")
}
