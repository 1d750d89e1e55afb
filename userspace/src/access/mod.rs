//! The access log, as far as a worker makes it: a line for every request, and its way to the supervisor.
//!
//! A worker opens no file. Whoever has served something tells the [`Log`] its [`Facts`]; the line is
//! written into a batch ([`line`]), and batches go to the supervisor, which has the file, over a socket
//! that never holds the worker up: what finds no room is dropped and counted ([`sink`]).
//!
//! What a request's facts are is told by who serves it (`l7::access`); a connection's that is no HTTP
//! leaves out what it has not.

pub mod line;
mod moment;
mod sink;

pub use line::{Facts, Tls};
pub use moment::MONTHS;
pub use sink::{Counts, Log};

/// Bytes of a batch: what goes to the supervisor, and from there to the file, in one piece.
pub const BATCH_BYTES: usize = 32 * 1024;

/// Bytes that wait in a worker when the supervisor takes none.
pub const HELD_BYTES_MAX: usize = 256 * 1024;

/// Bytes that may be under way in the socket.
pub const SOCKET_BYTES: usize = 1024 * 1024;
