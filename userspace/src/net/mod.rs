//! A worker's sockets, tasks and time, behind one door so that the engine under it can change.
//!
//! The engine is tokio on epoll, one thread per process, with one twist: sends are deferred. What a
//! task writes is copied into the stream's buffer, and goes to the kernel when the loop turn ends:
//! when no task is runnable, just before the thread waits for events ([`turn`]). A turn of many
//! requests then does its sends one after another, each with everything there is to send.
//!
//! - [`Stream`]: the one type of connection, to clients and to backends.
//! - [`turn`]: the list of streams with bytes to send, and when it is worked off.
//! - [`clock`]: the time of the current loop turn.
//! - [`Deadline`]: coarse timers that cost nothing per request.
//! - [`Listener`], [`connect`], [`run`], [`spawn`].

pub mod clock;
mod deadline;
mod runtime;
mod slab;
mod socket;
mod stream;
pub mod turn;

pub use deadline::{Deadline, Elapsed, TICK, wake_all, within};
pub use runtime::{run, sleep, spawn};
pub use slab::Slab;
pub use socket::{Listener, connect, is_local_shortage};
pub use stream::{Progress, Stream};
