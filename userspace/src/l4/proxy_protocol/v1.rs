//! Version 1: a line of text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Header, Malformed, Notes, begins};

/// The longest line, its end included (section 2.1).
pub(super) const BYTES_MAX: usize = 107;

const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    if !begins(bytes, PREFIX).0 {
        return Err(Malformed::None);
    }
    let seen = &bytes[..bytes.len().min(BYTES_MAX)];
    let Some(at) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if seen.len() == BYTES_MAX { Err(Malformed::Endless) } else { Ok(None) };
    };
    match (seen[at], seen.get(at + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if seen.len() < BYTES_MAX => return Ok(None),
        (b'\r', None) => return Err(Malformed::Endless),
        _ => return Err(Malformed::Line),
    }
    let words = seen[..at].strip_prefix(PREFIX).ok_or(Malformed::Line)?;
    let words = std::str::from_utf8(words).map_err(|_| Malformed::Line)?;
    let addresses = addresses(words).ok_or(Malformed::Line)?;
    Ok(Some((Header { addresses, notes: Notes::default() }, at + 2)))
}

/// `None` for words that are none, `Some(None)` for a client that is not known.
fn addresses(words: &str) -> Option<Option<Addresses>> {
    let mut words = words.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is not to be read.
        return Some(None);
    }
    let mut next = || words.next();
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if next().is_some() {
        return None;
    }
    let end = |address: &str, port| match family {
        "TCP4" => Some(SocketAddr::from((address.parse::<Ipv4Addr>().ok()?, port))),
        "TCP6" => Some(SocketAddr::from((address.parse::<Ipv6Addr>().ok()?, port))),
        _ => None,
    };
    let (source, destination) = (end(source, source_port)?, end(destination, destination_port)?);
    Some(Some(Addresses { source, destination }))
}

/// Decimal digits, without a sign or a leading zero.
fn port(digits: &str) -> Option<u16> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let has_zero = digits.len() > 1 && digits.starts_with('0');
    if is_plain && !has_zero { digits.parse().ok() } else { None }
}

/// The line that names these ends.
pub(super) fn line(addresses: Option<&Addresses>) -> Vec<u8> {
    let Some(addresses) = addresses else { return b"PROXY UNKNOWN\r\n".into() };
    let Addresses { source, destination } = addresses.in_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}
