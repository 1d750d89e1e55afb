//! What the backends of one service come to together.
//!
//! One look over all state words of a service answers two questions that no single word can: whether so
//! few are healthy that health is ignored (panic), and whether one more may be ejected. Both planes and
//! all processes ask them here.
//!
//! Panic is about those who would serve: the lowest tier that has a healthy backend, or the lowest of all
//! if none has. A tier whose backends are all dead is not in a panic while the next one takes its place,
//! and is not turned to again when that one is: health is ignored within one tier.

use crate::health::{Ticks, Word};

/// A backend, as far as its service's decisions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its state.
    pub word: Word,
    /// Its weight; one without takes no part in what serves.
    pub weight: u16,
    /// Its tier.
    pub tier: u8,
}

impl Member {
    const fn is_healthy(&self) -> bool {
        self.weight > 0 && self.word.accepts_new()
    }

    const fn would_serve(&self) -> bool {
        self.weight > 0 && self.word.serves_in_panic()
    }
}

/// The counts of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Healthy backends, of all tiers.
    working: u32,
    /// Backends that an ejection keeps out.
    out: u32,
    /// Healthy backends of the tier that serves.
    serving: u32,
    /// Those and the unhealthy ones of that tier that no operator took out.
    in_service: u32,
    /// That tier.
    tier: Option<u8>,
}

impl Census {
    /// Counts the members of a service.
    #[must_use]
    pub fn take(members: impl Iterator<Item = Member> + Clone, now: Ticks) -> Self {
        let lowest =
            |is: fn(&Member) -> bool| members.clone().filter(is).map(|member| member.tier).min();
        let tier = lowest(Member::is_healthy).or_else(|| lowest(Member::would_serve));
        let mut census = Self { working: 0, out: 0, serving: 0, in_service: 0, tier };
        for member in members {
            let serves = tier == Some(member.tier);
            census.working += u32::from(member.is_healthy());
            census.out += u32::from(member.word.is_out_by_ejection(now));
            census.serving += u32::from(serves && member.is_healthy());
            census.in_service += u32::from(serves && member.would_serve());
        }
        census
    }

    /// The tier that serves, if so few of it are healthy that health is to be ignored: under `percent`.
    #[must_use]
    pub fn panicking(&self, percent: u8) -> Option<u8> {
        let is_panic = self.serving < self.in_service
            && u64::from(self.serving) * 100 < u64::from(self.in_service) * u64::from(percent);
        self.tier.filter(|_| is_panic)
    }

    /// Whether one more may be ejected, if `out_max` may be out at a time: never the last.
    #[must_use]
    pub const fn may_eject(&self, out_max: u32) -> bool {
        self.working > 1 && self.out < out_max
    }
}

/// How many of `backends` may be ejected at a time: one always, unless none may.
#[must_use]
pub const fn ejected_max(backends: usize, percent: u8) -> u32 {
    let share = backends * percent as usize / 100;
    if percent == 0 || share > 0 { share as u32 } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::health::State;

    const NOW: Ticks = Ticks::from_ms(0);

    fn census(members: &[(State, u16, u8)]) -> Census {
        let members: Vec<Member> = members
            .iter()
            .map(|(state, weight, tier)| Member {
                word: Word::from_raw(*state as u64),
                weight: *weight,
                tier: *tier,
            })
            .collect();
        Census::take(members.into_iter(), NOW)
    }

    fn is_panic(members: &[(State, u16, u8)], percent: u8) -> bool {
        census(members).panicking(percent).is_some()
    }

    #[test]
    fn half_is_enough_and_less_is_a_panic() {
        use State::{Down, Draining, Ejected, Maintenance, Up};
        let (up, down) = ((Up, 1, 0), (Down, 1, 0));
        assert!(!is_panic(&[up, down], 50));
        assert!(is_panic(&[up, down, (Ejected, 1, 0)], 50));
        assert!(!is_panic(&[up, down, down], 0), "turned off");
        assert!(is_panic(&[down, down], 1), "nobody left");
        assert!(!is_panic(&[up, (Draining, 1, 0), (Maintenance, 1, 0)], 50));
        assert!(!is_panic(&[up, (Down, 0, 0), (Down, 0, 0)], 50), "no weight, no part");
        assert!(!is_panic(&[], 100));
        assert!(!is_panic(&[up], 100), "all that there are");
    }

    #[test]
    fn a_dead_tier_is_no_panic_while_the_next_one_serves() {
        use State::{Down, Up};
        let dead = [(Down, 1, 0); 4];
        assert!(is_panic(&dead, 50));
        assert!(!is_panic(&[&dead[..], &[(Up, 1, 1)]].concat(), 50));
        let few = [&dead[..], &[(Up, 1, 0), (Up, 1, 1), (Up, 1, 1)]].concat();
        assert!(census(&few).panicking(50) == Some(0), "one of five has the work of all");
        let next = [&dead[..], &[(Up, 1, 1), (Down, 1, 1), (Down, 1, 1)]].concat();
        assert!(census(&next).panicking(50) == Some(1));
    }

    #[test]
    fn one_may_always_be_ejected_unless_none_may() {
        assert_eq!(ejected_max(10, 50), 5);
        assert_eq!(ejected_max(3, 50), 1);
        assert_eq!(ejected_max(3, 10), 1);
        assert_eq!(ejected_max(3, 0), 0);
        assert_eq!(ejected_max(1, 100), 1);
    }

    #[test]
    fn the_last_that_works_is_never_ejected() {
        use State::{Down, Ejected, Probation, Up};
        assert!(!census(&[(Up, 1, 0)]).may_eject(1));
        assert!(census(&[(Up, 1, 0), (Up, 1, 0)]).may_eject(1));
        assert!(!census(&[(Up, 1, 0), (Up, 0, 0)]).may_eject(1), "without weight it takes nothing");
        assert!(!census(&[(Up, 1, 0), (Up, 1, 0), (Ejected, 1, 0)]).may_eject(1));
        assert!(!census(&[(Up, 1, 0), (Up, 1, 0), (Probation, 1, 0)]).may_eject(1));
        assert!(census(&[(Up, 1, 0), (Up, 1, 0), (Down, 1, 0)]).may_eject(1));
    }

    proptest! {
        /// To lose one more never ends a panic, whoever it is.
        #[test]
        fn fewer_healthy_ones_never_end_a_panic(
            states in proptest::collection::vec(any::<bool>(), 1..12),
            gone in any::<proptest::sample::Index>(),
            percent in 0u8..=100,
        ) {
            let of = |up| (if up { State::Up } else { State::Down }, 1, 0);
            let mut members: Vec<_> = states.iter().map(|up| of(*up)).collect();
            let before = is_panic(&members, percent);
            let gone = gone.index(members.len());
            members[gone] = of(false);
            prop_assert!(!before || is_panic(&members, percent));
        }
    }
}
