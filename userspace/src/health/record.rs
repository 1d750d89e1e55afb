//! What the checks of a target said, for status and metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::check::Failure;

/// The figures of one target: written by its watch alone.
#[derive(Debug, Default)]
pub struct Record {
    ok: AtomicU64,
    failed: AtomicU64,
    took_us: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// A copy of the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Checks that succeeded.
    pub ok: u64,
    /// Checks that failed.
    pub failed: u64,
    /// How long the latest one took.
    pub took: Duration,
    /// Why the latest one failed; `None` for a success.
    pub failure: Option<String>,
}

impl Record {
    /// A check ended.
    pub fn add(&self, took: Duration, outcome: &Result<(), Failure>) {
        self.took_us.store(took.as_micros() as u64, Ordering::Relaxed);
        let failure = outcome.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        let total = if outcome.is_ok() { &self.ok } else { &self.failed };
        total.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures; `None` before the first check's end.
    pub fn report(&self) -> Option<Report> {
        let (ok, failed) = (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        (ok + failed > 0).then(|| Report {
            ok,
            failed,
            took: Duration::from_micros(self.took_us.load(Ordering::Relaxed)),
            failure: self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_keeps_the_latest() {
        let record = Record::default();
        assert_eq!(record.report(), None);
        record.add(Duration::from_millis(3), &Err(Failure::Status(503)));
        record.add(Duration::from_millis(2), &Err(Failure::Status(500)));
        let report = record.report().unwrap();
        assert_eq!((report.ok, report.failed), (0, 2));
        assert_eq!(report.failure.as_deref(), Some("status 500"));
        record.add(Duration::from_millis(1), &Ok(()));
        let report = record.report().unwrap();
        assert_eq!((report.ok, report.failed, report.failure), (1, 2, None));
        assert_eq!(report.took, Duration::from_millis(1));
    }
}
