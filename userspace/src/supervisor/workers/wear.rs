//! When a worker is replaced though nothing is wrong with it.

use std::fmt;
use std::time::Duration;

use steerage_common::start::Start;

/// Why a worker has served long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wear {
    /// It has lived as long as it may.
    Age(Duration),
    /// It has more memory than it may, in bytes.
    Memory(u64),
}

impl Wear {
    /// Why its successor is started.
    #[must_use]
    pub const fn start(self) -> Start {
        match self {
            Self::Age(_) => Start::Age,
            Self::Memory(_) => Start::Memory,
        }
    }
}

impl fmt::Display for Wear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(age) => {
                write!(f, "{} old", humantime::format_duration(Duration::from_secs(age.as_secs())))
            }
            Self::Memory(bytes) => write!(f, "{} MiB of memory", bytes >> 20),
        }
    }
}

/// What workers may come to; `None` for anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `global.worker_lifetime`.
    pub lifetime: Option<Duration>,
    /// `global.worker_memory`, in bytes.
    pub memory: Option<u64>,
}

impl Limits {
    /// Whether worker `number` of `workers`, of this age and with so much memory, has served long
    /// enough. Workers that were started together do not end together: the lifetimes of all are spread over
    /// a tenth of one.
    #[must_use]
    pub fn exceeded(
        &self,
        (number, workers): (usize, usize),
        age: Duration,
        memory: u64,
    ) -> Option<Wear> {
        let earlier = |lifetime: Duration| lifetime / 10 * number as u32 / workers.max(1) as u32;
        match self {
            Self { lifetime: Some(lifetime), .. } if age >= *lifetime - earlier(*lifetime) => {
                Some(Wear::Age(age))
            }
            Self { memory: Some(limit), .. } if memory > *limit => Some(Wear::Memory(memory)),
            _ => None,
        }
    }
}

/// The memory that a process has in RAM, in bytes; `None` if it is no more.
#[must_use]
pub fn memory(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * crate::sys::page_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn without_limits_nobody_is_replaced() {
        assert_eq!(Limits::default().exceeded((0, 4), 1000 * HOUR, u64::MAX), None);
    }

    #[test]
    fn the_workers_ends_are_spread_over_a_tenth_of_their_lives() {
        let limits = Limits { lifetime: Some(HOUR), memory: None };
        let ends: Vec<u64> = (0..4)
            .map(|number| {
                let at = |s: &u64| limits.exceeded((number, 4), Duration::from_secs(*s), 0);
                (0..=3600).find(|s| at(s).is_some()).unwrap()
            })
            .collect();
        assert_eq!(ends, [3600, 3510, 3420, 3330]);
    }

    #[test]
    fn too_much_memory_ends_a_worker_of_any_age() {
        let limits = Limits { lifetime: None, memory: Some(64 << 20) };
        assert_eq!(limits.exceeded((0, 1), HOUR, 64 << 20), None);
        let wear = limits.exceeded((0, 1), Duration::ZERO, 65 << 20).unwrap();
        assert_eq!(wear.to_string(), "65 MiB of memory");
    }

    #[test]
    fn a_process_has_some_memory() {
        assert!(memory(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(memory(u32::MAX), None);
    }
}
