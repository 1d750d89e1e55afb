//! The guard: what is not HTTP/1 to the letter is refused before hyper, and so a backend or a client,
//! sees it.
//!
//! hyper parses and frames, and it is lenient, as most parsers are: it takes a bare LF for a line's
//! end, drops a `Content-Length` that stands beside a `Transfer-Encoding`, and answers what it cannot
//! parse by itself. Every leniency is a chance that the next parser behind it sees other messages than
//! it did, and that is request smuggling. So a guard stands before hyper on each connection, and looks
//! at the bytes of one direction:
//!
//! - It is a pure state machine: bytes in, a verdict out. However the bytes are cut into pieces, the
//!   outcome is the same.
//! - It passes bytes on at once and keeps none. A message's head is refused, at the latest, with the
//!   byte that would end it; so hyper never has a whole head that breaks a rule.
//! - It follows the framing through bodies to the next message: a `Content-Length` body is skipped by
//!   count, chunks are followed to the last trailer.
//! - Nothing is repaired. What is ambiguous is refused, even where RFC 9112 allows to mend it.
//!
//! | file | what |
//! |---|---|
//! | `request` | requests of a client: refusals are an [`ErrorClass`] |
//! | `response` | responses of a backend: malformed ones, and bytes that nobody asked for |
//! | `fields` | header and trailer lines, and what they say about the body's length |
//! | `chunked` | a chunked body |
//! | `scan` | classes of bytes |
//!
//! Not here: what concerns a request's meaning and is the same for every version of HTTP (the host,
//! the target's form, routing) is decided where requests are prepared.

mod chunked;
mod fields;
mod request;
mod response;
mod scan;

pub use request::{Place, RequestGuard, Verdict};
pub use response::{Asked, Measured, Opinion, ResponseGuard};

use steerage_common::error::ErrorClass;

use crate::config::model::ListenerLimits;

/// What one message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// First line and headers together, in bytes.
    pub head_bytes: u32,
    /// Header lines.
    pub fields: u16,
    /// Request target, in bytes.
    pub uri_bytes: u32,
}

impl Limits {
    /// The default of each.
    pub const DEFAULT: Self = Self { head_bytes: 32 * 1024, fields: 128, uri_bytes: 8 * 1024 };
}

impl From<ListenerLimits> for Limits {
    fn from(limits: ListenerLimits) -> Self {
        let ListenerLimits { head_bytes, fields, uri_bytes, .. } = limits;
        Self { head_bytes, fields, uri_bytes }
    }
}

/// How far a part of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All bytes belong to it, and it is not over.
    More,
    /// It is over after so many.
    Done(usize),
}

type Outcome = Result<Step, ErrorClass>;

#[cfg(test)]
mod tests;
