//! The line by which a capture is asked for, mapped.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use steerage_common::capture::{Capture, Filter};

use super::segment::{Segment, Shareable};

/// [`Capture`].
#[derive(Debug)]
#[repr(C)]
struct Line {
    sample: AtomicU32,
    pid: AtomicU32,
    until_ns: AtomicU64,
    lost: AtomicU64,
    address: [AtomicU64; 2],
    rest: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: atomics only; any bits are valid.
unsafe impl Shareable for Line {}

const _: () = assert!(size_of::<Line>() == size_of::<Capture>());

/// `CAPTURE`, mapped.
#[derive(Debug)]
pub struct CaptureLine(Segment<Line>);

impl CaptureLine {
    /// Maps the table.
    ///
    /// # Errors
    /// If it is no mmapable map.
    pub fn map(fd: &impl AsFd) -> io::Result<Self> {
        Segment::map(fd, 1).map(Self)
    }

    /// The process that captures at this monotonic time, if one does.
    #[must_use]
    pub fn owner(&self, now_ns: u64) -> Option<u32> {
        let line = self.0.get(0);
        let is_on = line.sample.load(Ordering::Acquire) != 0;
        let is_alive = line.until_ns.load(Ordering::Relaxed) > now_ns;
        (is_on && is_alive).then(|| line.pid.load(Ordering::Relaxed))
    }

    /// Has one of `sample` packets copied, until a monotonic time.
    pub fn begin(&self, sample: u32, filter: &Filter, pid: u32, until_ns: u64) {
        let line = self.0.get(0);
        line.sample.store(0, Ordering::Release);
        let address: [u64; 2] = zerocopy::transmute!(filter.address);
        for (word, half) in line.address.iter().zip(address) {
            word.store(half, Ordering::Relaxed);
        }
        let [low, high] = filter.port_be.to_ne_bytes();
        let rest = u32::from_ne_bytes([low, high, filter.protocol, filter.family]);
        line.rest.store(rest, Ordering::Relaxed);
        line.pid.store(pid, Ordering::Relaxed);
        line.lost.store(0, Ordering::Relaxed);
        line.until_ns.store(until_ns, Ordering::Relaxed);
        line.sample.store(sample, Ordering::Release);
    }

    /// Lets the copying go on until another time.
    pub fn extend(&self, until_ns: u64) {
        self.0.get(0).until_ns.store(until_ns, Ordering::Relaxed);
    }

    /// Ends the copying.
    pub fn end(&self) {
        self.0.get(0).sample.store(0, Ordering::Release);
    }

    /// Packets that the buffer had no room for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.get(0).lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes as _;

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_the_programs_read() {
        let memory = crate::sys::shared_memory("capture", 4096).unwrap();
        let line = CaptureLine::map(&memory).unwrap();
        assert_eq!(line.owner(0), None);
        let address = std::array::from_fn(|i| i as u8);
        let filter = Filter { address, port_be: 80u16.to_be(), protocol: 6, family: 4 };
        line.begin(3, &filter, 42, 1000);
        assert_eq!((line.owner(999), line.owner(1001)), (Some(42), None));
        let mut bytes = [0; size_of::<Capture>()];
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(memory), &mut bytes, 0)
            .unwrap();
        let read = Capture::read_from_bytes(&bytes).unwrap();
        assert_eq!((read.sample, read.pid, read.until_ns), (3, 42, 1000));
        assert_eq!(read.filter, filter);
        line.end();
        assert_eq!(line.owner(0), None);
    }
}
