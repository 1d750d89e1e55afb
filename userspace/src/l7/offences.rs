//! Which client addresses break a listener's limits again and again: those the packet programs are told of.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use crate::addresses::{Addresses, share};
use crate::config::model::Offenders;

/// Addresses that one worker remembers the strikes of.
const ADDRESSES_MAX: usize = 4096;

/// The strikes of all addresses, in this worker.
#[derive(Debug, Default)]
pub(super) struct Offences {
    rule: Cell<Option<Rule>>,
    strikes: RefCell<Addresses<Strikes, ADDRESSES_MAX>>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    strikes: u32,
    within_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Strikes {
    since_ms: u64,
    count: u32,
}

impl Offences {
    /// Counts by this rule from now on; its strikes are those of all `workers`, split evenly.
    pub(super) fn set(&self, rule: Option<&Offenders>, workers: usize) {
        self.rule.set(rule.map(|rule| Rule {
            strikes: share(rule.strikes, workers),
            within_ms: rule.within.as_millis() as u64,
        }));
    }

    /// Counts a strike; gives whether it is one too many, and then counts from the beginning.
    pub(super) fn strike(&self, address: IpAddr, now_ms: u64) -> bool {
        let Some(rule) = self.rule.get() else { return false };
        let is_over = |strikes: &Strikes| now_ms.saturating_sub(strikes.since_ms) > rule.within_ms;
        let mut all = self.strikes.borrow_mut();
        let none = Strikes { since_ms: now_ms, count: 0 };
        let Some(strikes) = all.of(address, none, is_over) else { return false };
        if is_over(strikes) {
            *strikes = none;
        }
        strikes.count += 1;
        let is_too_many = strikes.count >= rule.strikes;
        if is_too_many {
            all.forget(address);
        }
        is_too_many
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn offences(strikes: u32, workers: usize) -> Offences {
        let offences = Offences::default();
        let rule = Offenders {
            strikes,
            within: Duration::from_secs(10),
            hold: Duration::from_secs(30),
            packet_rate: 0,
        };
        offences.set(Some(&rule), workers);
        offences
    }

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn an_address_is_told_of_after_its_strikes_within_the_time() {
        let offences = offences(6, 2);
        assert!(![0, 1].map(|now| offences.strike(ONE, now)).contains(&true));
        assert!(!offences.strike(OTHER, 1));
        assert!(offences.strike(ONE, 10_000), "the third of this worker's share");
        assert!(!offences.strike(ONE, 10_000), "and again from the beginning");
        assert!(!offences.strike(OTHER, 10_002), "that strike is too old");
        assert!(!offences.strike(OTHER, 10_003));
        assert!(offences.strike(OTHER, 10_004));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let offences = offences(2, 1);
        for n in 0..2 * ADDRESSES_MAX as u32 {
            offences.strike(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 0);
        }
        assert_eq!(offences.strikes.borrow().len(), ADDRESSES_MAX);
        assert!(!offences.strike(ONE, 5), "there is no room");
        assert!(!offences.strike(ONE, 20_000));
        assert!(offences.strike(ONE, 20_000), "there is again");
        assert_eq!(offences.strikes.borrow().len(), 0);
    }

    #[test]
    fn without_a_rule_nothing_is_counted() {
        let offences = Offences::default();
        assert!(!(0..1000).any(|now| offences.strike(ONE, now)));
        assert_eq!(offences.strikes.borrow().len(), 0);
    }
}
