//! How many handshakes one address may begin: a token bucket each, in this worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::model::Rate;

/// Addresses that one worker has buckets of. When so many have one, full ones are forgotten, which says the
/// same as none; while none is full, addresses without one may not begin.
const ADDRESSES_MAX: usize = 16_384;

/// A thousandth of a handshake.
const UNIT: u64 = 1000;

/// The buckets of all addresses.
#[derive(Debug, Default)]
pub struct Buckets {
    /// This worker's share; `None` for any number, and then none is counted.
    rate: Cell<Option<Rate>>,
    levels: RefCell<HashMap<IpAddr, Level>>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    units: u64,
    at_ms: u64,
}

impl Level {
    /// What has run in since, up to the brim.
    fn filled(self, rate: Rate, now_ms: u64) -> Self {
        let since = now_ms.saturating_sub(self.at_ms);
        // A rate a second is as many thousandths a millisecond.
        let came = since.saturating_mul(u64::from(rate.rate));
        let brim = u64::from(rate.burst) * UNIT;
        Self { units: self.units.saturating_add(came).min(brim), at_ms: now_ms }
    }
}

impl Buckets {
    /// Counts by this rate from now on; it is that of all `workers`, split evenly.
    pub fn set(&self, rate: Option<Rate>, workers: usize) {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        self.rate.set(rate.map(|rate| Rate {
            rate: rate.rate.div_ceil(workers),
            burst: rate.burst.div_ceil(workers),
        }));
    }

    /// Takes a handshake from the address's bucket, if there is one in it.
    pub fn take(&self, address: IpAddr, now_ms: u64) -> bool {
        let Some(rate) = self.rate.get() else { return true };
        let brim = u64::from(rate.burst) * UNIT;
        let mut levels = self.levels.borrow_mut();
        if levels.len() >= ADDRESSES_MAX && !levels.contains_key(&address) {
            levels.retain(|_, level| level.filled(rate, now_ms).units < brim);
            if levels.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let full = Level { units: brim, at_ms: now_ms };
        let level = levels.entry(address).or_insert(full);
        *level = level.filled(rate, now_ms);
        let has_one = level.units >= UNIT;
        if has_one {
            level.units -= UNIT;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn buckets(rate: u32, burst: u32, workers: usize) -> Buckets {
        let buckets = Buckets::default();
        buckets.set(Some(Rate { rate, burst }), workers);
        buckets
    }

    #[test]
    fn an_address_may_begin_a_burst_and_then_its_rate() {
        let buckets = buckets(20, 6, 2);
        let taken = |address, now_ms| (0..100).filter(|_| buckets.take(address, now_ms)).count();
        assert_eq!(taken(ONE, 0), 3, "half of the burst: there are two workers");
        assert_eq!(taken(OTHER, 0), 3, "each has its own");
        assert_eq!(taken(ONE, 99), 0);
        assert_eq!(taken(ONE, 100), 1, "ten a second");
        assert_eq!(taken(ONE, 299), 1);
        assert_eq!(taken(ONE, 300), 1, "nothing is lost between");
        assert_eq!(taken(ONE, 100_000), 3, "and no more than a burst");
        assert_eq!(taken(ONE, 5), 0, "a clock that went back gives nothing");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let buckets = buckets(1, 2, 1);
        let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        for n in 0..ADDRESSES_MAX as u32 {
            assert!(buckets.take(address(n), 0));
        }
        assert!(!buckets.take(ONE, 0), "there is no room");
        assert!(buckets.take(address(0), 0), "who is known goes on");
        assert!(buckets.take(ONE, 1000), "full buckets are forgotten");
        assert!(buckets.levels.borrow().len() <= 2);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let buckets = Buckets::default();
        assert!((0..1000).all(|_| buckets.take(ONE, 0)));
        assert!(buckets.levels.borrow().is_empty());
    }
}
