//! Version 2: binary.
//!
//! ```text
//! signature (12)  version, command (1)  family, transport (1)  length (2)  addresses  notes
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Header, Malformed, Notes, begins, notes};

/// The longest header that is taken. Addresses take 36 bytes of it; notes of a certificate's name, a cipher
/// and the like some hundred.
pub(super) const BYTES_MAX: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Where the addresses begin.
const HEAD_BYTES: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// A stream over a local socket: its "addresses" are file names.
const UNIX: u8 = 0x31;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let (is_one, is_whole) = begins(bytes, SIGNATURE);
    if !is_one {
        return Err(Malformed::None);
    }
    if !is_whole || bytes.len() < HEAD_BYTES {
        return Ok(None);
    }
    let (command, family) = (bytes[12], bytes[13]);
    if !matches!(command, LOCAL | PROXY) {
        return Err(Malformed::Command(command));
    }
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let whole = HEAD_BYTES + length;
    if whole > BYTES_MAX {
        return Err(Malformed::Length(length));
    }
    let Some(header) = bytes.get(..whole) else { return Ok(None) };
    if command == LOCAL {
        // What it carries is to be skipped (section 2.2), whatever it is.
        return Ok(Some((Header::default(), whole)));
    }
    let rest = &header[HEAD_BYTES..];
    let too_short = Malformed::Length(length);
    let (addresses, rest) = match family {
        UNSPECIFIED => (None, rest),
        TCP4 => {
            let (ends, rest) = rest.split_first_chunk::<12>().ok_or(too_short)?;
            let [s0, s1, s2, s3, d0, d1, d2, d3, ports @ ..] = *ends;
            let (source, destination) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
            (Some(ends_of(source.into(), destination.into(), ports)), rest)
        }
        TCP6 => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(too_short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(too_short)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(too_short)?;
            (Some(ends_of((*source).into(), (*destination).into(), *ports)), rest)
        }
        UNIX => (None, rest.get(216..).ok_or(too_short)?),
        family => return Err(Malformed::Family(family)),
    };
    let notes = Notes::parse(rest, header)?;
    Ok(Some((Header { addresses, notes }, whole)))
}

fn ends_of(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> Addresses {
    let [s0, s1, d0, d1] = ports;
    Addresses {
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    }
}

/// The header as bytes. One without addresses or notes is `LOCAL`: it speaks for ourselves.
pub(super) fn header(header: &Header) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let mut rest = Vec::new();
    let (command, family) = match header.addresses.map(Addresses::in_one_family) {
        None if header.notes.is_empty() => (LOCAL, UNSPECIFIED),
        None => (PROXY, UNSPECIFIED),
        Some(Addresses { source, destination }) => {
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => rest.extend_from_slice(&Ipv4Addr::octets(&ip)),
                    IpAddr::V6(ip) => rest.extend_from_slice(&Ipv6Addr::octets(&ip)),
                }
            }
            rest.extend_from_slice(&source.port().to_be_bytes());
            rest.extend_from_slice(&destination.port().to_be_bytes());
            (PROXY, if source.is_ipv4() { TCP4 } else { TCP6 })
        }
    };
    let room = BYTES_MAX - HEAD_BYTES - rest.len();
    notes::write(&header.notes, room, &mut rest);
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&rest);
    bytes
}
