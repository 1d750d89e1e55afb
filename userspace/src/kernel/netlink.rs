//! The two things that are asked of rtnetlink: what is attached to a link, and a neighbour's address.
//!
//! A message is a header, a fixed part and attributes, all in host byte order and padded to four bytes.

use std::io::{self, Read as _};

use socket2::{Domain, Protocol, Socket, Type};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNEIGH: u16 = 28;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;

const NDA_DST: u16 = 1;
const NTF_USE: u8 = 1;

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Attribute types carry flags in their two highest bits.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// Bytes of a message's header, and of the fixed parts that follow it.
const HEADER: usize = 16;
const LINK: usize = 16;

/// The XDP program of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// `XDP_ATTACHED_NONE`, `_DRV` (1), `_SKB` (2), `_HW` (3), `_MULTI` (4).
    pub mode: u8,
    /// The program's id.
    pub program: u32,
}

/// What is attached to the link `ifindex` of this network namespace.
pub fn attached(ifindex: u32) -> io::Result<Attached> {
    let mut body = vec![0; LINK];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let reply = request(RTM_GETLINK, NLM_F_REQUEST, &body)?;
    let mut found = Attached::default();
    let Some(attributes) = reply.get(HEADER + LINK..) else { return Ok(found) };
    for (_, xdp) in Attributes(attributes).filter(|(kind, _)| *kind == IFLA_XDP) {
        for (kind, value) in Attributes(xdp) {
            match (kind, value) {
                (IFLA_XDP_ATTACHED, [mode, ..]) => found.mode = *mode,
                (IFLA_XDP_PROG_ID, [a, b, c, d, ..]) => {
                    found.program = u32::from_ne_bytes([*a, *b, *c, *d]);
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Makes the kernel find out a neighbour's link address, as if a packet waited for it.
pub fn use_neighbor(ifindex: u32, family: u8, address: &[u8]) -> io::Result<()> {
    // struct ndmsg: family, padding, ifindex, state, flags, type.
    let mut body = vec![family, 0, 0, 0];
    body.extend(ifindex.to_ne_bytes());
    body.extend([0, 0, NTF_USE, 0]);
    body.extend((4 + address.len() as u16).to_ne_bytes());
    body.extend(NDA_DST.to_ne_bytes());
    body.extend(address);
    request(RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK, &body).map(drop)
}

/// Sends one message to the kernel and gives its one answer.
fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let domain = Domain::from(libc::AF_NETLINK);
    let mut socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: one exchange a socket needs neither.
    message.extend([0; 8]);
    message.extend(body);
    socket.send(&message)?;
    let mut reply = vec![0; 1 << 15];
    let bytes = socket.read(&mut reply)?;
    reply.truncate(bytes);
    let kind = reply.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(NLMSG_ERROR) => {
            let code = reply.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
            match code.map(i32::from_ne_bytes) {
                Some(0) => Ok(reply),
                Some(code) => Err(io::Error::from_raw_os_error(-code)),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Some(RTM_NEWLINK) => Ok(reply),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Walks over attributes: length, type, value, padding.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_at_checked(4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & ATTRIBUTE_TYPE;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_their_bytes_do() {
        let bytes = [5, 0, 2, 0, 7, 0, 0, 0, 8, 0, 4, 0x80, 1, 2, 3, 4, 200, 0, 1, 0];
        let found: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(found, [(2, &[7][..]), (4, &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn the_loopback_has_no_program() {
        assert_eq!(attached(1).unwrap(), Attached::default());
    }

    #[test]
    fn an_unknown_link_is_an_error() {
        assert!(attached(u32::MAX >> 1).is_err());
    }
}
