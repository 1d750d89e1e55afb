//! A worker's sockets, tasks and time, behind one door so that the engine under it can change.
//!
//! One thread per process, whose tasks tokio runs. Sends are deferred: what a task writes is copied
//! into the stream's buffer, and goes to the kernel when the loop turn ends: when no task is runnable,
//! just before the thread waits for events ([`turn`]). A turn of many requests then does its sends one
//! after another, each with everything there is to send.
//!
//! Two engines move the bytes ([`Io`]): io_uring ([`reactor`]), where one system call submits the turn's
//! operations and waits for the next, and tokio's epoll where that is missing or forbidden. Without
//! tokio's drivers its sockets and timers do not work in a worker: everything comes from here.
//!
//! - [`Stream`]: the one type of connection, to clients and to backends.
//! - [`turn`]: the list of streams with bytes to send, and when it is worked off.
//! - [`clock`]: the time of the current loop turn.
//! - [`Deadline`]: coarse timers that cost nothing per request.
//! - [`Listener`], [`connect`], [`Control`], [`run`], [`spawn`], [`sleep()`], [`Timer`].

pub mod clock;
mod deadline;
pub mod pass;
mod pipe;
mod reactor;
mod runtime;
mod slab;
mod socket;
mod stream;
mod tcp;
mod timer;
pub mod turn;

pub use deadline::{Deadline, Elapsed, TICK, wake_all, within};
pub use pipe::Pipe;
pub use runtime::{Io, run, spawn};
pub use slab::Slab;
pub use socket::{Control, Listener, connect, is_local_shortage, is_passing_shortage};
pub use stream::{Broken, Hello, Stream};
pub use tcp::Progress;
pub use timer::{Timer, sleep};
pub use turn::watch as watch_turns;

#[cfg(test)]
pub(crate) mod tests {
    use super::{Io, run};
    use crate::sys::ring::Ring;

    /// The engines that this host has.
    pub(crate) fn each() -> Vec<Io> {
        match Ring::new() {
            Ok(_) => vec![Io::Epoll, Io::IoUring],
            Err(error) => {
                eprintln!("no io_uring here, so none is tested: {error}");
                vec![Io::Epoll]
            }
        }
    }

    /// Runs a test on each engine.
    pub(crate) fn on_each<F: Future<Output = ()> + 'static>(test: impl Fn() -> F) {
        for io in each() {
            run(io, test()).unwrap();
        }
    }
}
