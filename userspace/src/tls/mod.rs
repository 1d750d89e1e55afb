//! TLS with clients: certificates, sessions, and who a client is; and with backends ([`upstream`]).
//!
//! ```text
//! supervisor:  files ─► pair (read, checked) ─► shelf ─► the plan of every worker
//!              random ─► ticket keys in the region
//! worker:      shelf ─► rack (which certificate for which name) ─► terminator ─► a stream of TLS
//! ```
//!
//! A worker has no right to read a key's file, and no need to: it is handed what the supervisor has read and
//! checked. What serves is replaced as a whole, with the rules of its listener ([`crate::l7`]); connections
//! that are open keep what they began with. rustls does the protocol, aws-lc-rs the arithmetic.
//!
//! Sessions are resumed by tickets alone, and no worker remembers any: so a client resumes on whichever
//! worker it comes to, after a reload, a crash and an upgrade ([`ticket`]).

pub mod alert;
pub mod identity;
pub mod names;
pub mod pair;
pub mod rack;
pub mod rate;
pub mod shelf;
pub mod terminator;
pub mod ticket;
pub mod upstream;

pub use shelf::Shelf;
pub use terminator::{Session, Terminator};
