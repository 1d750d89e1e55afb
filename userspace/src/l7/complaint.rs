//! What operators are told of requests that Steerage could not have answered by a backend, and of what a
//! backend's TLS has wrong, whether or not another one answered.
//!
//! One line for a service, a backend and a class of error within [`PAUSE_MS`]; those that are kept back
//! meanwhile are counted, and told with the next line, or when the pause is over. The table is bounded:
//! of what has no place in it only the number is told.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;

use steerage_common::error::ErrorClass;
use tracing::warn;

/// Between two lines about the same, in milliseconds.
const PAUSE_MS: u64 = 10_000;

/// Services, backends and classes that are told apart.
const KINDS_MAX: usize = 256;

/// What lines are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) service: String,
    /// `None` if none could be asked.
    pub(super) backend: Option<SocketAddr>,
    pub(super) class: ErrorClass,
    /// What is wrong with the backend; `None` where a request has failed.
    pub(super) fault: Option<String>,
}

impl Kind {
    fn backend(&self) -> String {
        self.backend.map_or_else(|| "none".to_owned(), |backend| backend.to_string())
    }

    fn text(&self) -> &str {
        self.fault.as_deref().unwrap_or(self.class.text())
    }

    fn what(&self) -> &'static str {
        if self.fault.is_some() { "attempt" } else { "request" }
    }
}

/// What has been told lately.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told: RefCell<HashMap<Kind, Told>>,
}

#[derive(Debug)]
struct Told {
    at_ms: u64,
    suppressed: u64,
}

/// What is to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// A line, which stands for so many others.
    Line {
        suppressed: u64,
    },
    Nothing,
}

impl Complaints {
    /// Tells of one, or counts it.
    pub(super) fn note(&self, kind: Kind, listener: &str, client: &str, now_ms: u64) {
        if let Say::Line { suppressed } = self.decide(&kind, now_ms) {
            warn!(
                listener,
                service = kind.service,
                backend = kind.backend(),
                client,
                status = kind.class.status(),
                cause = kind.class.name(),
                suppressed,
                "{} failed: {}",
                kind.what(),
                kind.text()
            );
        }
    }

    fn decide(&self, kind: &Kind, now_ms: u64) -> Say {
        let mut told = self.told.borrow_mut();
        if let Some(last) = told.get_mut(kind) {
            if now_ms < last.at_ms + PAUSE_MS {
                last.suppressed += 1;
                return Say::Nothing;
            }
            last.at_ms = now_ms;
            return Say::Line { suppressed: std::mem::take(&mut last.suppressed) };
        }
        if told.len() < KINDS_MAX {
            told.insert(kind.clone(), Told { at_ms: now_ms, suppressed: 0 });
            return Say::Line { suppressed: 0 };
        }
        // The table is full of what failed within the last ten seconds: more lines tell nobody anything.
        Say::Nothing
    }

    /// Forgets what is over, and tells the number of those that were kept back.
    pub(super) fn sweep(&self, now_ms: u64) {
        for (kind, suppressed) in self.over(now_ms) {
            warn!(
                service = kind.service,
                backend = kind.backend(),
                cause = kind.class.name(),
                suppressed,
                "further {}s failed: {}",
                kind.what(),
                kind.text()
            );
        }
    }

    fn over(&self, now_ms: u64) -> Vec<(Kind, u64)> {
        let mut told = self.told.borrow_mut();
        if told.is_empty() {
            return Vec::new();
        }
        let over = told.extract_if(|_, last| last.at_ms + PAUSE_MS <= now_ms);
        over.filter(|(_, last)| last.suppressed != 0)
            .map(|(kind, last)| (kind, last.suppressed))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(port: u16) -> Kind {
        let backend = Some(SocketAddr::from(([10, 0, 0, 1], port)));
        Kind { service: "app".into(), backend, class: ErrorClass::Connect, fault: None }
    }

    #[test]
    fn one_line_stands_for_many() {
        let complaints = Complaints::default();
        assert_eq!(complaints.decide(&kind(1), 5), Say::Line { suppressed: 0 });
        for at in 0..7 {
            assert_eq!(complaints.decide(&kind(1), 6 + at), Say::Nothing);
        }
        assert_eq!(complaints.decide(&kind(2), 20), Say::Line { suppressed: 0 });
        assert_eq!(complaints.decide(&kind(1), 5 + PAUSE_MS), Say::Line { suppressed: 7 });
        assert_eq!(complaints.decide(&kind(1), 6 + PAUSE_MS), Say::Nothing);
    }

    #[test]
    fn what_was_kept_back_is_told_when_the_pause_is_over() {
        let complaints = Complaints::default();
        complaints.decide(&kind(1), 0);
        complaints.decide(&kind(1), 1);
        complaints.decide(&kind(2), 1);
        assert_eq!(complaints.over(PAUSE_MS - 1), []);
        assert_eq!(complaints.over(PAUSE_MS + 1), [(kind(1), 1)]);
        assert_eq!(complaints.decide(&kind(1), PAUSE_MS + 2), Say::Line { suppressed: 0 });
    }

    #[test]
    fn the_table_is_bounded() {
        let complaints = Complaints::default();
        for port in 0..=KINDS_MAX as u16 {
            complaints.decide(&kind(port), 0);
        }
        assert_eq!(complaints.told.borrow().len(), KINDS_MAX);
        assert_eq!(complaints.decide(&kind(KINDS_MAX as u16), 0), Say::Nothing);
    }
}
