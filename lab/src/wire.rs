//! A link with a delay: frames spend some time on their way, each way, and keep their order.
//!
//! The kernel's own means (`netem`) is a module that many kernels lack. Here the link leads through a
//! namespace of its own, which knows no addresses; a thread of this process passes each frame from one
//! device to the other when its time has come. The devices pass frames up one by one (receive offload
//! is off) and senders compute their checksums, so that a frame leaves as it came.
//!
//! The queue has no bound of its own: what TCP has in flight bounds it.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket as nixs;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::command;
use crate::netns::Netns;

/// The devices in the middle.
const DEVICES: [&str; 2] = ["left", "right"];

/// Room for the largest frame of a device without receive offload.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Frames that arrive while the thread has no CPU wait in the kernel.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// A link with a delay; dropping it cuts the link.
#[derive(Debug)]
pub struct Wire {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    _netns: Netns,
}

impl Wire {
    /// Lays it through a namespace called `name`, and makes its ends in two hosts: a device of the
    /// given name in each. A frame takes `delay` from one end to the other.
    ///
    /// # Errors
    /// If a device or socket can't be made.
    pub fn lay(name: String, ends: [(&Netns, &str); 2], delay: Duration) -> Result<Self> {
        let netns = Netns::create(name)?;
        // It must not say anything of its own on the link.
        netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        for (own, (host, device)) in DEVICES.into_iter().zip(ends) {
            netns.ip(&format!(
                "link add {own} type veth peer name {device} netns {}",
                host.name()
            ))?;
            netns.ip(&format!("link set {own} up"))?;
            command::output(netns.command("ethtool").args(["-K", own, "tx", "off", "gro", "off"]))?;
        }
        let sockets = netns.enter(|| anyhow::Ok([open(DEVICES[0])?, open(DEVICES[1])?]))??;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = std::thread::spawn(move || {
            if let Err(error) = carry(&sockets, &stopped, delay) {
                eprintln!("a delayed link is cut: {error}");
            }
        });
        Ok(Self { stop, thread: Some(thread), _netns: netns })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket for all frames of a device in this thread's namespace.
fn open(device: &str) -> Result<OwnedFd> {
    let flags = nixs::SockFlag::SOCK_CLOEXEC;
    let family = nixs::AddressFamily::Packet;
    let socket = nixs::socket(family, nixs::SockType::Raw, flags, nixs::SockProtocol::EthAll)?;
    let found = getifaddrs()?.find_map(|entry| {
        let address = entry.address.filter(|_| entry.interface_name == device)?;
        address.as_link_addr().copied()
    });
    let address = found.with_context(|| format!("there is no device {device}"))?;
    nixs::bind(socket.as_raw_fd(), &address)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    Ok(socket)
}

/// Frames under way in one direction, with the times at which they arrive.
type Queue = VecDeque<(Instant, Vec<u8>)>;

fn carry(sockets: &[OwnedFd; 2], stop: &OwnedFd, delay: Duration) -> rustix::io::Result<()> {
    let mut queues = [Queue::new(), Queue::new()];
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let now = Instant::now();
        for (queue, out) in queues.iter_mut().zip([&sockets[1], &sockets[0]]) {
            while let Some((_, frame)) = queue.pop_front_if(|(due, _)| *due <= now) {
                // A device that is down, or full, loses frames as any network does.
                let _ = send(out, &frame, SendFlags::empty());
            }
        }
        let next = queues.iter().filter_map(|queue| Some(queue.front()?.0)).min();
        let timeout = next.map(|due| {
            let left = due.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let mut watched = [stop, &sockets[0], &sockets[1]]
            .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if !watched[0].revents().is_empty() {
            return Ok(());
        }
        for (queue, socket) in queues.iter_mut().zip(sockets) {
            while let Ok((bytes, _)) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                queue.push_back((Instant::now() + delay, buffer[..bytes].to_vec()));
            }
        }
    }
}
