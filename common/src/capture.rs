//! What `steerage capture` asks the programs for, and what they hand over.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::{FAMILY_IPV4, FAMILY_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// Bytes that are copied of a packet: all headers, and the beginning of what they carry.
pub const CAPTURE_BYTES: usize = 512;

/// `reason` of a packet that no counter of reasons tells of.
pub const REASON_NONE: u32 = u32::MAX;

/// `CAPTURE[0]`: what is to be copied. Written by whoever captures; `lost` by the programs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Capture {
    /// One of so many packets, at random; 0 for none.
    pub sample: u32,
    /// Process id of whoever captures, for people.
    pub pid: u32,
    /// Nothing is copied after this monotonic time.
    pub until_ns: u64,
    /// Packets that the buffer had no room for.
    pub lost: u64,
    /// Which packets.
    pub filter: Filter,
    /// Zero.
    pub reserved: u32,
}

/// Packets to a service address and from it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Filter {
    /// The address, as the tables hold it.
    pub address: [u8; 16],
    /// The port; 0 for every port.
    pub port_be: u16,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`]; what is neither is of every vip of the address.
    pub protocol: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`]; 0 for whatever the programs did not pass untouched.
    pub family: u8,
}

/// A record of `CAPTURED`: one packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Captured {
    /// Coarse monotonic time.
    pub time_ns: u64,
    /// The link that it came in on.
    pub ifindex: u32,
    /// What became of it: the program's return value.
    pub action: u32,
    /// Index of the [`crate::abi::Reason`] that was counted meanwhile, or [`REASON_NONE`].
    pub reason: u32,
    /// Its length when it came.
    pub before_bytes: u32,
    /// Its length when it left; 0 if it went no further.
    pub after_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// Its beginning when it came.
    pub before: [u8; CAPTURE_BYTES],
    /// Its beginning when it left.
    pub after: [u8; CAPTURE_BYTES],
}

const _: () = {
    assert!(size_of::<Capture>() == 48);
    assert!(size_of::<Captured>() == 32 + 2 * CAPTURE_BYTES);
    assert!(CAPTURE_BYTES.is_multiple_of(8));
};

/// Where the end of a packet is whose address and port are looked at.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl Filter {
    /// Whether a frame that begins so goes to the address.
    #[inline(always)]
    #[must_use]
    pub fn is_to(&self, frame: &[u8; CAPTURE_BYTES]) -> bool {
        self.matches(frame, End::Destination)
    }

    /// Whether it comes from there.
    #[inline(always)]
    #[must_use]
    pub fn is_from(&self, frame: &[u8; CAPTURE_BYTES]) -> bool {
        self.matches(frame, End::Source)
    }

    #[inline(always)]
    fn matches(&self, frame: &[u8; CAPTURE_BYTES], end: End) -> bool {
        let is_source = matches!(end, End::Source);
        let kind = [frame[12], frame[13]];
        let (family, protocol, ports, is_address) = if kind == [0x08, 0x00] {
            let at = if is_source { 26 } else { 30 };
            let is_address = (0..4).all(|i| frame[at + i] == self.address[i]);
            // Ports behind options are not looked for: such packets pass anyway.
            let ports = if frame[14] == 0x45 { Some(34) } else { None };
            (FAMILY_IPV4, frame[23], ports, is_address)
        } else if kind == [0x86, 0xdd] {
            let at = if is_source { 22 } else { 38 };
            let is_address = (0..16).all(|i| frame[at + i] == self.address[i]);
            (FAMILY_IPV6, frame[20], Some(54), is_address)
        } else {
            return false;
        };
        if family != self.family || !is_address {
            return false;
        }
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return true;
        }
        let is_port = match ports {
            Some(at) => {
                let at = if is_source { at } else { at + 2 };
                u16::from_ne_bytes([frame[at], frame[at + 1]]) == self.port_be
            }
            None => true,
        };
        protocol == self.protocol && (self.port_be == 0 || is_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: [u8; 2], fields: &[(usize, &[u8])]) -> [u8; CAPTURE_BYTES] {
        let mut frame = [0; CAPTURE_BYTES];
        frame[12..14].copy_from_slice(&kind);
        for (at, bytes) in fields {
            frame[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        frame
    }

    fn address(bytes: &[u8]) -> [u8; 16] {
        let mut address = [0; 16];
        address[..bytes.len()].copy_from_slice(bytes);
        address
    }

    #[test]
    fn packets_of_the_vip_are_told_by_address_protocol_and_port() {
        let filter = Filter {
            address: address(&[192, 0, 2, 10]),
            port_be: 80u16.to_be(),
            protocol: PROTOCOL_TCP,
            family: FAMILY_IPV4,
        };
        let to = |protocol: u8, port: u16| {
            let port = port.to_be_bytes();
            let fields: [(usize, &[u8]); 4] =
                [(14, &[0x45]), (23, &[protocol]), (30, &[192, 0, 2, 10]), (36, &port)];
            frame([8, 0], &fields)
        };
        assert!(filter.is_to(&to(PROTOCOL_TCP, 80)));
        assert!(!filter.is_from(&to(PROTOCOL_TCP, 80)));
        assert!(!filter.is_to(&to(PROTOCOL_TCP, 81)));
        assert!(!filter.is_to(&to(PROTOCOL_UDP, 80)));
        assert!(filter.is_to(&to(1, 0)), "ICMP has no port");
        assert!(Filter { port_be: 0, ..filter }.is_to(&to(PROTOCOL_TCP, 81)));
        assert!(!filter.is_to(&frame([8, 6], &[(30, &[192, 0, 2, 10])])), "not IP");
        let from: [(usize, &[u8]); 4] =
            [(14, &[0x45]), (23, &[PROTOCOL_TCP]), (26, &[192, 0, 2, 10]), (34, &[0, 80])];
        assert!(filter.is_from(&frame([8, 0], &from)));
    }

    #[test]
    fn ipv6_is_told_as_well() {
        let bytes: [u8; 16] = core::array::from_fn(|i| i as u8 + 1);
        let filter = Filter {
            address: bytes,
            port_be: 53u16.to_be(),
            protocol: PROTOCOL_UDP,
            family: FAMILY_IPV6,
        };
        let fields: [(usize, &[u8]); 3] = [(20, &[PROTOCOL_UDP]), (38, &bytes), (56, &[0, 53])];
        let packet = frame([0x86, 0xdd], &fields);
        assert!(filter.is_to(&packet) && !filter.is_from(&packet));
        assert!(!Filter { family: FAMILY_IPV4, ..filter }.is_to(&packet));
    }
}
