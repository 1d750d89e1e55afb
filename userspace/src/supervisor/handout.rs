//! What the supervisor gives its workers: a configuration, and the sockets that go with it.
//!
//! The configuration is written once, into sealed memory that all workers read; a worker that starts
//! later gets the latest one with its setup.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::listeners::Listening;
use crate::net::pass;
use crate::worker::{PLAN, Plan, SOCKETS};

/// A configuration for the workers.
#[derive(Debug)]
pub struct Handout {
    /// Rises with each.
    pub number: u64,
    /// The configuration.
    pub plan: Plan,
    /// The sockets.
    pub listening: Listening,
    memory: OwnedFd,
}

impl Handout {
    /// Writes the plan down.
    ///
    /// # Errors
    /// If there is no memory or no descriptor left.
    pub fn new(number: u64, plan: Plan, listening: Listening) -> io::Result<Self> {
        // It holds keys.
        let json = Zeroizing::new(serde_json::to_vec(&plan)?);
        let memory = crate::sys::sealed_memory("steerage-plan", &json)?;
        Ok(Self { number, plan, listening, memory })
    }
}

/// What one worker process has been given.
#[derive(Debug)]
pub struct Given {
    worker: usize,
    sockets: BTreeSet<u32>,
    /// Numbers of handouts that it has not answered yet.
    unanswered: VecDeque<u64>,
}

impl Given {
    /// A process that starts with this handout.
    pub fn at_start(worker: usize, handout: &Handout) -> Self {
        let sockets = handout.listening.sockets().iter().map(|socket| socket.number).collect();
        Self { worker, sockets, unanswered: VecDeque::from([handout.number]) }
    }

    /// The handout that the process has just answered.
    pub fn answered(&mut self) -> Option<u64> {
        self.unanswered.pop_front()
    }

    /// Gives the process another handout, with the sockets that it has not.
    ///
    /// # Errors
    /// If the process is gone, or this host has no descriptors left.
    pub async fn give(&mut self, control: &UnixStream, handout: &Handout) -> io::Result<()> {
        let fresh = handout.listening.of_worker(self.worker, |n| !self.sockets.contains(&n))?;
        for some in fresh.chunks(pass::FDS_MAX) {
            let fds: Vec<BorrowedFd<'_>> = some.iter().map(|socket| socket.as_fd()).collect();
            send(control, SOCKETS, &fds).await?;
        }
        send(control, PLAN, &[handout.memory.as_fd()]).await?;
        self.sockets = handout.listening.sockets().iter().map(|socket| socket.number).collect();
        self.unanswered.push_back(handout.number);
        Ok(())
    }
}

async fn send(control: &UnixStream, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.async_io(Interest::WRITABLE, || pass::send(control.as_fd(), byte, fds)).await
}
