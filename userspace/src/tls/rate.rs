//! How many handshakes one address may begin: a token bucket each, in this worker.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use steerage_common::abi;
use steerage_common::guard;

use crate::addresses::{Addresses, share};
use crate::config::model::Rate;

/// Addresses that one worker has buckets of. A full bucket says the same as none; while none is full,
/// addresses without one may not begin.
const ADDRESSES_MAX: usize = 16_384;

/// The buckets of all addresses.
#[derive(Debug, Default)]
pub struct Buckets {
    /// This worker's share; `None` for any number, and then none is counted.
    rate: Cell<Option<abi::Rate>>,
    /// As [`guard::take`] has them.
    buckets: RefCell<Addresses<u64, ADDRESSES_MAX>>,
}

impl Buckets {
    /// Counts by this rate from now on; it is that of all `workers`, split evenly.
    pub fn set(&self, rate: Option<Rate>, workers: usize) {
        let share = |number| share(number, workers);
        self.rate.set(rate.map(|rate| abi::Rate::per_second(share(rate.rate), share(rate.burst))));
    }

    /// Takes a handshake from the address's bucket, if there is one in it.
    pub fn take(&self, address: IpAddr, now_ms: u64) -> bool {
        let Some(rate) = self.rate.get() else { return true };
        let now_ns = now_ms * 1_000_000;
        let mut buckets = self.buckets.borrow_mut();
        let is_full = |full_at: &u64| *full_at <= now_ns;
        let Some(bucket) = buckets.of(address, 0, is_full) else { return false };
        let taken = guard::take(*bucket, now_ns, &rate);
        if let Some(then) = taken {
            *bucket = then;
        }
        taken.is_some()
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
        assert!(buckets.buckets.borrow().len() <= 2);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let buckets = Buckets::default();
        assert!((0..1000).all(|_| buckets.take(ONE, 0)));
        assert!(buckets.buckets.borrow().len() == 0);
    }
}
