//! One ejection at a time in a service, so that no limit is passed.
//!
//! How many backends may be out is a rule over all words of a service, and no single swap can keep it:
//! two workers that looked at the same moment would both see room for one more. So an ejection is
//! *claimed* first, in one word that all workers of the service share. The claim names the backend;
//! it is swapped in on the condition that no other claim came since the look, carried out, and taken
//! away. Whoever finds a claim carries it out instead of waiting for its owner: a process that dies or
//! stalls between the two swaps holds nobody up.
//!
//! Why nothing is done twice: the state word is read before the claim is seen to be still in place, and
//! swapped from what was read. Once somebody has carried the claim out the word is another one, and
//! stays so until its ejection is forgotten ([`Policy::ejection_ticks_max`]): a process that stalls for
//! that long between two instructions might eject once too often. The loom tests below try all
//! interleavings of the rest.

use super::{Atomic, Cells, Change, publish};
use crate::health::{Cause, EPOCH_MASK, Event, Policy, State, Ticks, Word, transition};
use crate::slot::Slot;

/// A backend that is to be ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its slot.
    pub slot: Slot,
    /// The tenancy that failed.
    pub epoch: u32,
    /// What it did.
    pub cause: Cause,
    /// As in [`Event::Eject`].
    pub jitter: u8,
}

/// The service's word.
///
/// ```text
/// bits  0..16  slot and 1; 0 for no claim
///      16..28  tenancy
///      28..30  cause
///      30..38  jitter
///      38..64  claims so far
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim(u64);

const FREE_MASK: u64 = !0 << 38;

impl Claim {
    const fn wanted(self) -> Option<Wanted> {
        let Some(slot) = (self.0 as u16).checked_sub(1) else { return None };
        let Some(slot) = Slot::new(slot) else { return None };
        Some(Wanted {
            slot,
            epoch: (self.0 >> 16) as u32 & EPOCH_MASK,
            cause: Cause::ALL[(self.0 >> 28 & 3) as usize],
            jitter: (self.0 >> 30) as u8,
        })
    }

    /// The next claim after this free word.
    const fn taken(self, wanted: &Wanted) -> Self {
        let Wanted { slot, epoch, cause, jitter } = *wanted;
        Self(
            self.0 & FREE_MASK
                | (slot.raw() as u64 + 1)
                | ((epoch & EPOCH_MASK) as u64) << 16
                | (cause as u64) << 28
                | (jitter as u64) << 30,
        )
    }

    /// The free word after this claim.
    const fn released(self) -> Self {
        Self((self.0 & FREE_MASK).wrapping_add(1 << 38))
    }
}

/// Ejects a backend if `may` says, of the states as they are, that the service allows it.
///
/// `claims` is the service's word, `cells` gives the words of a slot. `ejected` hears of each ejection
/// that this call carried out: its own or one that it found under way. All of a service's backends have
/// the same `policy`.
pub fn eject<'a, A: Atomic + 'a>(
    claims: &A,
    cells: impl Fn(Slot) -> Cells<'a, A>,
    wanted: &Wanted,
    may: impl Fn() -> bool,
    now: Ticks,
    policy: &Policy,
    mut ejected: impl FnMut(Slot, Change),
) {
    loop {
        let found = Claim(claims.load());
        let (claim, other) = match found.wanted() {
            Some(other) => (found, Some(other)),
            None if !may() => return,
            None => (found.taken(wanted), None),
        };
        if other.is_none() && claims.compare_exchange(found.0, claim.0).is_err() {
            // Somebody else was faster; what `may` said is stale.
            continue;
        }
        let named = other.as_ref().unwrap_or(wanted);
        if let Some(change) = carry_out(claims, claim, cells(named.slot), named, now, policy) {
            ejected(named.slot, change);
        }
        if other.is_none() {
            return;
        }
    }
}

/// Makes the claim true, or finds that it came to nothing, and takes it away. Gives the swap if it was
/// won here.
fn carry_out<A: Atomic>(
    claims: &A,
    claim: Claim,
    cells: Cells<'_, A>,
    wanted: &Wanted,
    now: Ticks,
    policy: &Policy,
) -> Option<Change> {
    let event = Event::Eject { cause: wanted.cause, jitter: wanted.jitter };
    let mut raw = cells.state.load();
    let change = loop {
        if claims.load() != claim.0 {
            return None;
        }
        let from = Word::from_raw(raw);
        let to = transition(from, event, now, policy);
        if from.epoch() != wanted.epoch & EPOCH_MASK || to == from {
            break None;
        }
        debug_assert!(matches!(to.state(), State::Ejected));
        match cells.state.compare_exchange(raw, to.to_raw()) {
            Ok(_) => {
                publish(cells);
                break Some(Change { from, to });
            }
            Err(found) => raw = found,
        }
    };
    // If it fails, somebody has taken it away already.
    let _ = claims.compare_exchange(claim.0, claim.released().0);
    change
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering::{AcqRel, Acquire};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::census::{Census, Member};

    const NOW: Ticks = Ticks::from_ms(0);
    const POLICY: Policy = Policy { probed: false, consecutive: 1, ..Policy::DEFAULT };

    #[derive(Default)]
    struct Service {
        claims: AtomicU64,
        states: [AtomicU64; 6],
        accepts_new: AtomicU64,
        keeps_flows: AtomicU64,
        strays: AtomicU64,
    }

    impl Service {
        fn new() -> Self {
            let service = Self::default();
            for slot in 0..service.states.len() as u16 {
                service.tell(slot, Event::Assigned);
            }
            service
        }

        fn cells(&self, slot: u16) -> Cells<'_, AtomicU64> {
            Cells {
                state: &self.states[usize::from(slot)],
                accepts_new: &self.accepts_new,
                keeps_flows: &self.keeps_flows,
                strays: &self.strays,
                mask: 1 << slot,
            }
        }

        fn tell(&self, slot: u16, event: Event) {
            super::super::apply(self.cells(slot), 0, event, NOW, &POLICY);
        }

        fn words(&self) -> impl Iterator<Item = Word> + Clone {
            self.states.iter().map(|state| Word::from_raw(Atomic::load(state)))
        }

        fn may_eject(&self, out_max: u32) -> bool {
            let members = self.words().map(|word| Member { word, weight: 1, tier: 0 });
            Census::take(members, NOW).may_eject(out_max)
        }

        /// Fails a request at the slot, and ejects it if it may be. Gives who was ejected.
        fn fail(&self, slot: u16, out_max: u32) -> Vec<u16> {
            self.tell(slot, Event::RequestFailed { jitter: 0 });
            let wanted = wanted(slot);
            let (may, mut done) = (|| self.may_eject(out_max), Vec::new());
            let note = |slot: Slot, _| done.push(slot.raw());
            eject(&self.claims, |slot| self.cells(slot.raw()), &wanted, may, NOW, &POLICY, note);
            done
        }
    }

    fn slot(index: u16) -> Slot {
        Slot::new(index).expect("a small number")
    }

    fn wanted(index: u16) -> Wanted {
        Wanted { slot: slot(index), epoch: 0, cause: Cause::InARow, jitter: 0 }
    }

    #[test]
    fn a_claim_keeps_what_it_is_about() {
        let free = Claim(7 << 38);
        let wanted = Wanted { slot: slot(4095), epoch: 0xabc, cause: Cause::Share, jitter: 0xfe };
        let claim = free.taken(&wanted);
        assert_eq!((free.wanted(), claim.wanted()), (None, Some(wanted)));
        assert!(claim.released() == Claim(8 << 38));
        assert!(Claim(!0).released() == Claim(0));
        assert_eq!(Claim(!0).wanted(), None, "there is no such slot");
    }

    #[test]
    fn the_limit_holds_and_the_next_failure_asks_again() {
        let service = Service::new();
        assert_eq!(service.fail(0, 1), [0]);
        assert_eq!(service.fail(1, 1), [0; 0], "one is out");
        let word = |slot: usize| Word::from_raw(Atomic::load(&service.states[slot]));
        assert_eq!((word(1).state(), word(1).request_failures()), (State::Up, 1));
        assert_eq!(service.fail(1, 2), [1]);
        assert_eq!(Atomic::load(&service.accepts_new), 0b11_1100);
    }

    #[test]
    fn a_claim_whose_owner_died_is_carried_out_by_the_next() {
        let service = Service::new();
        service.tell(3, Event::RequestFailed { jitter: 0 });
        let claim = Claim(Atomic::load(&service.claims)).taken(&wanted(3));
        service.claims.compare_exchange(0, claim.0, AcqRel, Acquire).unwrap();
        assert_eq!(service.fail(0, 1), [3], "and then there is no room for it");
        assert_eq!(service.fail(0, 2), [0]);
    }

    #[test]
    fn a_claim_about_a_former_tenant_or_a_recovered_backend_comes_to_nothing() {
        let service = Service::new();
        let cells = |slot: Slot| service.cells(slot.raw());
        let stale = Wanted { epoch: 5, cause: Cause::Share, ..wanted(2) };
        eject(&service.claims, cells, &stale, || true, NOW, &POLICY, |_, _| panic!("{stale:?}"));
        let fail = |_, _| panic!("a success came between");
        eject(&service.claims, cells, &wanted(2), || true, NOW, &POLICY, fail);
        assert!(Claim(Atomic::load(&service.claims)).wanted().is_none());
    }

    proptest! {
        #[test]
        fn no_order_of_failures_and_recoveries_passes_the_limit(
            steps in proptest::collection::vec((0u16..6, 0u8..4), 1..80),
            out_max in 0u32..7,
        ) {
            let service = Service::new();
            for (slot, step) in steps {
                match step {
                    0 => service.tell(slot, Event::Maintain),
                    1 => service.tell(slot, Event::Enable),
                    _ => drop(service.fail(slot, out_max)),
                }
                let out = service.words().filter(|word| word.is_out_by_ejection(NOW)).count();
                prop_assert!(out as u32 <= out_max);
                prop_assert!(out < 6, "the last is never ejected");
            }
        }
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p steerage-common --release publish`
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;

    use super::*;
    use crate::census::{Census, Member};
    use crate::publish::apply;

    const NOW: Ticks = Ticks::from_ms(0);
    const POLICY: Policy = Policy { probed: false, consecutive: 1, ..Policy::DEFAULT };
    const BACKENDS: u16 = 3;

    #[derive(Default)]
    struct Service {
        claims: AtomicU64,
        states: [AtomicU64; BACKENDS as usize],
        accepts_new: AtomicU64,
        keeps_flows: AtomicU64,
        strays: AtomicU64,
    }

    impl Service {
        fn cells(&self, slot: u16) -> Cells<'_, AtomicU64> {
            Cells {
                state: &self.states[usize::from(slot)],
                accepts_new: &self.accepts_new,
                keeps_flows: &self.keeps_flows,
                strays: &self.strays,
                mask: 1 << slot,
            }
        }

        fn words(&self) -> impl Iterator<Item = Word> + Clone + '_ {
            self.states.iter().map(|state| Word::from_raw(Atomic::load(state)))
        }

        fn out(&self) -> usize {
            self.words().filter(|word| word.is_out_by_ejection(NOW)).count()
        }

        /// Gives how many ejections this call carried out.
        fn eject(&self, slot: u16) -> usize {
            let members = self.words().map(|word| Member { word, weight: 1, tier: 0 });
            let may = || Census::take(members.clone(), NOW).may_eject(1);
            let slot = Slot::new(slot).unwrap();
            let wanted = Wanted { slot, epoch: 0, cause: Cause::Share, jitter: 0 };
            let mut done = 0;
            let note = |_, _| done += 1;
            eject(&self.claims, |slot| self.cells(slot.raw()), &wanted, may, NOW, &POLICY, note);
            assert!(self.out() <= 1, "the limit is passed");
            done
        }
    }

    fn service() -> Arc<Service> {
        let service = Arc::new(Service::default());
        for slot in 0..BACKENDS {
            apply(service.cells(slot), 0, Event::Assigned, NOW, &POLICY);
        }
        service
    }

    #[test]
    fn two_workers_that_eject_two_backends_at_once_do_not_pass_the_limit() {
        loom::model(|| {
            let service = service();
            let other = service.clone();
            let thread = loom::thread::spawn(move || other.eject(0));
            let done = service.eject(1) + thread.join().unwrap();
            assert_eq!((done, service.out()), (1, 1));
            let bits = Atomic::load(&service.accepts_new);
            let words = service.words().zip(0..);
            let expected = words.map(|(word, slot)| u64::from(word.accepts_new()) << slot).sum();
            assert_eq!(bits, expected);
        });
    }

    #[test]
    fn two_workers_that_eject_one_backend_do_it_once() {
        loom::model(|| {
            let service = service();
            let other = service.clone();
            let thread = loom::thread::spawn(move || other.eject(0));
            let done = service.eject(0) + thread.join().unwrap();
            assert_eq!((done, service.out()), (1, 1));
        });
    }
}
