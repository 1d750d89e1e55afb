//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng): one section, an interface for each link and
//! side of the program, and a block for each packet.
//!
//! A packet that was sent on stands there twice, as it came and as it left, with one packet id. What became
//! of it is its comment and, as XDP's return value, its verdict.

use std::collections::HashMap;
use std::io::{self, Write};

use steerage_common::capture::{CAPTURE_BYTES, Captured};

use super::outcome;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPTION_COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION: u16 = 3;
const INTERFACE_TIME: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_ID: u16 = 5;
const PACKET_VERDICT: u16 = 7;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// A verdict's type: XDP's return value, in eight bytes.
const VERDICT_XDP: u8 = 2;

/// A side of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
enum Side {
    /// Also the packet's direction, inbound.
    Before = 1,
    /// Outbound.
    After = 2,
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    interfaces: HashMap<(u32, Side), u32>,
    packets: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        // The section's length is not known.
        body.extend(u64::MAX.to_ne_bytes());
        let name = concat!("steerage ", env!("CARGO_PKG_VERSION"));
        option(&mut body, SECTION_APPLICATION, name.as_bytes());
        end_options(&mut body);
        block(&mut out, SECTION_HEADER, &body)?;
        out.flush()?;
        Ok(Self { out, interfaces: HashMap::new(), packets: 0 })
    }

    /// Writes a packet; `link_name` names its link, `clock_ns` is the time since 1970 less the monotonic
    /// time.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&mut self, packet: &Captured, link_name: &str, clock_ns: u64) -> io::Result<()> {
        self.packets += 1;
        let comment = outcome(packet);
        let sides = [
            (Side::Before, packet.before_bytes, &packet.before),
            (Side::After, packet.after_bytes, &packet.after),
        ];
        for (side, bytes, data) in sides.into_iter().filter(|(_, bytes, _)| *bytes > 0) {
            let interface = self.interface(packet.ifindex, side, link_name)?;
            let time = clock_ns.wrapping_add(packet.time_ns);
            let data = data.get(..bytes as usize).unwrap_or(data);
            let mut body = Vec::with_capacity(128 + CAPTURE_BYTES);
            for word in [interface, (time >> 32) as u32, time as u32, data.len() as u32, bytes] {
                body.extend(word.to_ne_bytes());
            }
            padded(&mut body, data);
            option(&mut body, OPTION_COMMENT, comment.as_bytes());
            option(&mut body, PACKET_FLAGS, &(side as u32).to_ne_bytes());
            option(&mut body, PACKET_ID, &self.packets.to_ne_bytes());
            let mut verdict = vec![VERDICT_XDP];
            verdict.extend(u64::from(packet.action).to_ne_bytes());
            option(&mut body, PACKET_VERDICT, &verdict);
            end_options(&mut body);
            block(&mut self.out, ENHANCED_PACKET, &body)?;
        }
        Ok(())
    }

    /// Lets readers see what was written.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of an interface, which is described when it is first needed.
    fn interface(&mut self, ifindex: u32, side: Side, link_name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&(ifindex, side)) {
            return Ok(*number);
        }
        let number = self.interfaces.len() as u32;
        let (name, description) = match side {
            Side::Before => (link_name.to_owned(), "packets as they came"),
            Side::After => (format!("{link_name}@after"), "those packets as they left"),
        };
        let mut body = Vec::new();
        body.extend(ETHERNET.to_ne_bytes());
        body.extend((CAPTURE_BYTES as u32).to_ne_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        option(&mut body, INTERFACE_DESCRIPTION, description.as_bytes());
        // Times are in units of 10⁻⁹ s.
        option(&mut body, INTERFACE_TIME, &[9]);
        end_options(&mut body);
        block(&mut self.out, INTERFACE, &body)?;
        self.interfaces.insert((ifindex, side), number);
        Ok(number)
    }
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_ne_bytes();
    out.write_all(&kind.to_ne_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    padded(body, value);
}

fn end_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use steerage_common::capture::REASON_NONE;

    #[test]
    fn blocks_are_whole_words_and_say_their_length_twice() {
        let packet = Captured {
            time_ns: 5,
            ifindex: 3,
            action: 4,
            reason: REASON_NONE,
            before_bytes: 61,
            after_bytes: 1500,
            reserved: 0,
            before: [1; CAPTURE_BYTES],
            after: [2; CAPTURE_BYTES],
        };
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        writer.write(&packet, "eth0", 1_000_000_000).unwrap();
        writer.write(&Captured { action: 1, after_bytes: 0, ..packet }, "eth0", 0).unwrap();
        let mut kinds = Vec::new();
        let mut rest = &file[..];
        while !rest.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(4) as usize;
            assert_eq!((length % 4, word(length - 4)), (0, length as u32));
            kinds.push((word(0), if word(0) == ENHANCED_PACKET { word(20) } else { 0 }));
            rest = &rest[length..];
        }
        let packet = |bytes| (ENHANCED_PACKET, bytes);
        let expected = [
            (SECTION_HEADER, 0),
            (INTERFACE, 0),
            packet(61),
            (INTERFACE, 0),
            packet(CAPTURE_BYTES as u32),
            packet(61),
        ];
        assert_eq!(kinds, expected);
    }
}
