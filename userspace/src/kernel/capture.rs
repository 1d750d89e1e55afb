//! Packets that the programs copy for whoever captures: one process at a time, on the pinned tables, with
//! or without a daemon.

pub mod pcapng;

use std::fmt;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use steerage_common::abi::Reason;
use steerage_common::capture::{Captured, Filter, REASON_NONE};
use zerocopy::FromBytes as _;

use super::{Error, loader};
use crate::region::capture::CaptureLine;
use crate::sys::monotonic;

/// So long after the last [`Capture::extend`] packets are copied.
const HELD: Duration = Duration::from_secs(3);

/// A capture that runs. Dropping it ends it.
pub struct Capture {
    line: CaptureLine,
    packets: RingBuf<MapData>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Capture {
    /// Begins: one of `sample` packets that suit the filter, at random.
    ///
    /// # Errors
    /// If the instance has no programs, or another process captures.
    pub fn begin(instance_dir: &Path, sample: u32, filter: &Filter) -> Result<Self, Error> {
        let pin = loader::map_directory(instance_dir).join("CAPTURE");
        let map = MapData::from_pin(pin).map_err(Error::map("CAPTURE"))?;
        let line =
            CaptureLine::map(&map.fd().as_fd()).map_err(Error::io("mapping the map CAPTURE"))?;
        if let Some(pid) = line.owner(now_ns()) {
            return Err(Error::Capturing { pid });
        }
        let mut packets: RingBuf<MapData> = loader::open(instance_dir, "CAPTURED", Map::RingBuf)?;
        // What another capture left.
        while packets.next().is_some() {}
        line.begin(sample, filter, std::process::id(), until());
        Ok(Self { line, packets })
    }

    /// Keeps it going for a few seconds more.
    pub fn extend(&self) {
        self.line.extend(until());
    }

    /// Packets that were lost because nobody took the others in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.line.lost()
    }
}

impl Iterator for Capture {
    type Item = Captured;

    /// The next packet, if there is one now.
    fn next(&mut self) -> Option<Captured> {
        loop {
            // A record of another length is not one of ours.
            if let Ok(packet) = Captured::read_from_bytes(&self.packets.next()?) {
                return Some(packet);
            }
        }
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.packets.as_raw_fd()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.line.end();
    }
}

/// What became of a packet, in a few words.
#[must_use]
pub fn outcome(packet: &Captured) -> String {
    let action = match packet.action {
        0 => "aborted",
        1 => "dropped",
        2 => "passed",
        3 => "sent back on its link",
        4 => "sent on",
        _ => "unknown",
    };
    let reason = Reason::ALL.get(packet.reason as usize).filter(|_| packet.reason != REASON_NONE);
    reason.map_or_else(|| action.into(), |reason| format!("{action}: {}", reason.name()))
}

fn now_ns() -> u64 {
    monotonic().as_nanos() as u64
}

fn until() -> u64 {
    (monotonic() + HELD).as_nanos() as u64
}
