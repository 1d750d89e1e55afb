//! The PROXY protocol: who a client is, said by the proxy before us, or by us to the backend.
//!
//! HAProxy's specification ("The PROXY protocol, versions 1 & 2", 2020/03/05), sections 2.1 and 2.2. Pure:
//! bytes in, a [`Header`] and its length out, or what is wrong. Nothing is guessed: a header is whole and
//! right to the last byte, or the connection is not served.
//!
//! - Version 1 ([`v1`]) is a line of [`v1::BYTES_MAX`] bytes at most; version 2 ([`v2`]) is binary and
//!   here bounded by [`v2::BYTES_MAX`].
//! - A header that names no addresses (`LOCAL`, `UNKNOWN`, an unspecified or local family) says that those
//!   of the connection hold: health checks of the proxy before us look so.
//! - Notes (TLVs) are all looked at: their lengths must fit to the byte, those with a format of their own
//!   must have it, and a checksum must be right. Those that a backend has use for are kept
//!   ([`Notes`]).

mod crc32c;
mod notes;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use notes::{Kind, Notes, Tls};

/// The longest header that is read.
pub const BYTES_MAX: usize = v2::BYTES_MAX;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `None` if those of the connection hold.
    pub addresses: Option<Addresses>,
    /// What else is known of the client.
    pub notes: Notes,
}

/// The two ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first bytes are of neither version.
    #[error("no PROXY header where one must be")]
    None,
    /// Version 1: no end of the line within its length.
    #[error("a PROXY line has no end within {} bytes", v1::BYTES_MAX)]
    Endless,
    /// Version 1: a word that is not as it must be.
    #[error("a PROXY line is not as it must be")]
    Line,
    /// Version 2: a version or command that nobody has defined.
    #[error("a PROXY header has version and command {0:#04x}")]
    Command(u8),
    /// Version 2: a family and transport that no TCP connection has.
    #[error("a PROXY header has family and transport {0:#04x}")]
    Family(u8),
    /// Version 2: too short for its addresses, or longer than any is taken.
    #[error("a PROXY header's length is {0}")]
    Length(usize),
    /// Version 2: notes that do not fit their lengths or formats.
    #[error("a PROXY header's notes are not as they must be")]
    Notes,
    /// Version 2: the checksum is another one.
    #[error("a PROXY header's checksum is wrong")]
    Checksum,
}

/// Which version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text: addresses alone.
    V1,
    /// Binary, with notes.
    V2,
}

/// Reads the header that a connection begins with, and its length; `None` if more must come to say.
///
/// # Errors
/// As soon as it is certain that these bytes begin no proper header.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

impl Header {
    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => v1::line(self.addresses.as_ref()),
            Version::V2 => v2::header(self),
        }
    }
}

impl Addresses {
    /// Both ends in one family: IPv6 takes IPv4 in as mapped addresses.
    #[must_use]
    fn in_one_family(self) -> Self {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (source, destination) = (plain(self.source), plain(self.destination));
        let mapped = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        if source.is_ipv4() == destination.is_ipv4() {
            Self { source, destination }
        } else {
            Self { source: mapped(source), destination: mapped(destination) }
        }
    }
}

/// Whether `bytes` begin as `whole` does, as far as both go; and whether they have all of it.
fn begins(bytes: &[u8], whole: &[u8]) -> (bool, bool) {
    let known = bytes.len().min(whole.len());
    (bytes[..known] == whole[..known], known == whole.len())
}

#[cfg(test)]
mod tests;
