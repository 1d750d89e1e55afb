//! What workers tell the supervisor of their clients: who is to be held back.
//!
//! A worker has no privilege to write the packet programs' tables, and no business to wait for anybody. It
//! writes its reports into a short ring of its own; the supervisor looks there now and then. Of a worker that
//! has more to say than the ring holds between two looks the latest are read.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use steerage_common::abi::{self, REPORTS_KEPT, Report};

use super::segment::Shareable;

/// Words of a report.
const WORDS: usize = size_of::<Report>() / size_of::<u64>();

/// [`abi::ReportLine`].
#[derive(Debug)]
#[repr(C)]
pub struct Line {
    written: AtomicU64,
    reserved: [AtomicU64; 7],
    reports: [[AtomicU64; WORDS]; REPORTS_KEPT],
}

// SAFETY: atomics only; any bits are valid.
unsafe impl Shareable for Line {}

const _: () = assert!(size_of::<Line>() == size_of::<abi::ReportLine>());

impl Line {
    /// Adds a report. Only the line's worker may.
    pub fn write(&self, report: &Report) {
        let number = self.written.load(Ordering::Relaxed);
        let words: [u64; WORDS] = zerocopy::transmute!(*report);
        // A reader that sees one of the words sees that the place is being written, too.
        self.written.store(number | BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.reports[number as usize % REPORTS_KEPT].iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.written.store(number.wrapping_add(1) & !BUSY, Ordering::Release);
    }

    /// How many reports there were.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire) & !BUSY
    }

    /// The reports since the one of this number, of which those that are overwritten are gone.
    #[must_use]
    pub fn since(&self, number: u64) -> Vec<Report> {
        let written = self.written();
        let oldest = number.max(written.saturating_sub(REPORTS_KEPT as u64));
        (oldest..written).filter_map(|number| self.read(number)).collect()
    }

    /// A report, unless it is being overwritten.
    fn read(&self, number: u64) -> Option<Report> {
        let place = &self.reports[number as usize % REPORTS_KEPT];
        let words: [u64; WORDS] = std::array::from_fn(|word| place[word].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let now = self.written.load(Ordering::Relaxed);
        let next = now & !BUSY;
        // The place is overwritten by the report that comes a whole ring later, from its beginning on.
        let is_whole = if now & BUSY == 0 {
            next <= number + REPORTS_KEPT as u64
        } else {
            next < number + REPORTS_KEPT as u64
        };
        is_whole.then(|| zerocopy::transmute!(words))
    }
}

/// In `written`: the next report is being written.
const BUSY: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    fn report(number: u64) -> Report {
        Report { address: [number as u8; 16], family: 4, packets: 0, hold_ms: number }
    }

    #[test]
    fn every_report_is_read_once_and_of_too_many_the_latest() {
        let region = Region::in_memory(1).unwrap();
        let line = region.reports(3);
        assert_eq!(line.since(0), []);
        (0..5).for_each(|number| line.write(&report(number)));
        assert_eq!(line.since(3), [report(3), report(4)]);
        assert_eq!(line.since(line.written()), []);
        (5..50).for_each(|number| line.write(&report(number)));
        let kept: Vec<Report> = (50 - REPORTS_KEPT as u64..50).map(report).collect();
        assert_eq!(line.since(5), kept);
        assert_eq!(region.reports(2).written(), 0);
    }

    #[test]
    fn a_reader_never_sees_half_of_a_report() {
        let region = Region::in_memory(1).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| (0..200_000).for_each(|number| region.reports(0).write(&report(number))));
            let mut read = 0;
            while read < 200_000 {
                for report in region.reports(0).since(read) {
                    assert!(report.address.iter().all(|byte| *byte == report.hold_ms as u8));
                }
                read = region.reports(0).written();
            }
        });
    }
}
