//! How a change of state reaches the bitmap, from any process, without a lock.
//!
//! [`apply`] swaps the state word in by compare-and-swap; the winner then makes the slot's bits in
//! the bitmap agree with the word. Two winners may publish at the same time in either order, so
//! whoever wrote a bit looks at the word again afterwards and, if it has moved on, publishes anew.
//!
//! Why that suffices: the writes to one bitmap word are ordered. Whoever wrote last has synchronised
//! with all writers before it, and each of those had swapped its word in before it wrote; so the last
//! writer's second look sees the last word, and it stops only if that is what it published. The loom
//! test below tries all interleavings. A process that dies between swap and write leaves a bit
//! behind its word; the prober's tick publishes every slot, which mends it ([`publish`] is
//! idempotent).
#![cfg(not(target_arch = "bpf"))]

pub mod eject;

use crate::health::{EPOCH_MASK, Event, Policy, Ticks, Word, transition};

/// The operations on a shared word; `loom` has its own atomics, and only them.
pub trait Atomic {
    /// Acquire load.
    fn load(&self) -> u64;
    /// Acquire-release compare-and-swap; the value found on failure.
    ///
    /// # Errors
    /// The value that was there instead of `current`.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Acquire-release or.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Acquire-release and.
    fn fetch_and(&self, bits: u64) -> u64;
}

impl Atomic for core::sync::atomic::AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Acquire)
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        use core::sync::atomic::Ordering::{AcqRel, Acquire};
        self.compare_exchange(current, new, AcqRel, Acquire)
    }

    #[inline]
    fn fetch_or(&self, bits: u64) -> u64 {
        self.fetch_or(bits, core::sync::atomic::Ordering::AcqRel)
    }

    #[inline]
    fn fetch_and(&self, bits: u64) -> u64 {
        self.fetch_and(bits, core::sync::atomic::Ordering::AcqRel)
    }
}

/// The shared words of one slot.
#[derive(Debug)]
pub struct Cells<'a, A> {
    /// The slot's packed state.
    pub state: &'a A,
    /// The bitmap word with the slot's "takes new work" bit.
    pub accepts_new: &'a A,
    /// The bitmap word with the slot's "keeps flows" bit.
    pub keeps_flows: &'a A,
    /// The bitmap word with the slot's "has strays" bit: set too while the slot warms up, so that packets
    /// look closer ([`crate::steer`]).
    pub strays: &'a A,
    /// The slot's bit in both.
    pub mask: u64,
}

// Not derived: a derive would ask that the atomics themselves be `Copy`.
impl<A> Clone for Cells<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Cells<'_, A> {}

/// A swap that was won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The word before.
    pub from: Word,
    /// The word after; equal to `from` if the event changed nothing.
    pub to: Word,
}

impl Change {
    /// Whether the event changed the state, not only a streak.
    #[must_use]
    pub fn is_of_state(&self) -> bool {
        self.from.state() != self.to.state()
    }
}

/// Applies `event` to the slot and publishes the outcome.
///
/// `epoch` is the tenancy that the event is about: `None` if the slot has passed to another backend
/// since, and nothing is changed then.
pub fn apply<A: Atomic>(
    cells: Cells<'_, A>,
    epoch: u32,
    event: Event,
    now: Ticks,
    policy: &Policy,
) -> Option<Change> {
    let mut raw = cells.state.load();
    loop {
        let from = Word::from_raw(raw);
        if from.epoch() != epoch & EPOCH_MASK {
            return None;
        }
        let to = transition(from, event, now, policy);
        if to == from {
            return Some(Change { from, to });
        }
        match cells.state.compare_exchange(raw, to.to_raw()) {
            Ok(_) => {
                if (from.accepts_new(), from.keeps_flows()) != (to.accepts_new(), to.keeps_flows())
                {
                    publish(cells);
                }
                return Some(Change { from, to });
            }
            Err(found) => raw = found,
        }
    }
}

/// Makes the slot's bits agree with its word.
pub fn publish<A: Atomic>(cells: Cells<'_, A>) {
    let mut raw = cells.state.load();
    loop {
        let word = Word::from_raw(raw);
        if word.is_warming() {
            // Before anybody sees that it takes work.
            cells.strays.fetch_or(cells.mask);
        }
        write_bit(cells.keeps_flows, cells.mask, word.keeps_flows());
        write_bit(cells.accepts_new, cells.mask, word.accepts_new());
        let again = cells.state.load();
        if again == raw {
            return;
        }
        raw = again;
    }
}

/// Always a read-modify-write, also when the bit is right already: it is what orders this writer
/// after the one before it.
fn write_bit<A: Atomic>(word: &A, mask: u64, set: bool) {
    if set {
        word.fetch_or(mask);
    } else {
        word.fetch_and(!mask);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;
    use crate::health::State;

    #[test]
    fn bits_follow_the_word_and_spare_their_neighbours() {
        let (state, accepts, keeps) = (AtomicU64::new(0), AtomicU64::new(1), AtomicU64::new(1));
        let strays = AtomicU64::new(0);
        let cells = Cells {
            state: &state,
            accepts_new: &accepts,
            keeps_flows: &keeps,
            strays: &strays,
            mask: 1 << 5,
        };
        let now = Ticks::from_ms(0);
        let apply = |event| apply(cells, 0, event, now, &Policy::DEFAULT);
        assert!(apply(Event::Assigned).unwrap().is_of_state());
        assert_eq!((Atomic::load(&accepts), Atomic::load(&keeps)), (1, 1 | 1 << 5));
        assert_eq!(apply(Event::ProbeOk).unwrap().to.state(), State::Up);
        assert_eq!(Atomic::load(&accepts), 1 | 1 << 5);
        apply(Event::Drain);
        assert_eq!((Atomic::load(&accepts), Atomic::load(&keeps)), (1, 1 | 1 << 5));
        apply(Event::Removed);
        assert_eq!((Atomic::load(&accepts), Atomic::load(&keeps)), (1, 1));
        assert_eq!(apply(Event::ProbeOk), None, "news of the former tenant change nothing");
        assert_eq!(Atomic::load(&strays), 0, "nobody has recovered");
    }

    #[test]
    fn who_warms_up_is_looked_at_closer() {
        let words = [0; 4].map(AtomicU64::new);
        let [state, accepts_new, keeps_flows, strays] = &words;
        let cells = Cells { state, accepts_new, keeps_flows, strays, mask: 2 };
        let apply = |event| apply(cells, 0, event, Ticks::from_ms(0), &Policy::DEFAULT);
        for event in [Event::Assigned, Event::ProbeOk] {
            apply(event);
        }
        for _ in 0..3 {
            apply(Event::ProbeFailed);
        }
        assert_eq!((Atomic::load(accepts_new), Atomic::load(strays)), (0, 0));
        apply(Event::ProbeOk);
        assert!(apply(Event::ProbeOk).unwrap().to.is_warming());
        assert_eq!((Atomic::load(accepts_new), Atomic::load(strays)), (2, 2));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p steerage-common --release publish`
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::sync::atomic::Ordering::{AcqRel, Acquire};

    use super::*;
    use crate::health::{Cause, State};

    impl Atomic for AtomicU64 {
        fn load(&self) -> u64 {
            self.load(Acquire)
        }
        fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
            self.compare_exchange(current, new, AcqRel, Acquire)
        }
        fn fetch_or(&self, bits: u64) -> u64 {
            self.fetch_or(bits, AcqRel)
        }
        fn fetch_and(&self, bits: u64) -> u64 {
            self.fetch_and(bits, AcqRel)
        }
    }

    #[derive(Default)]
    struct Shared {
        state: AtomicU64,
        accepts_new: AtomicU64,
        keeps_flows: AtomicU64,
        strays: AtomicU64,
    }

    impl Shared {
        fn cells(&self) -> Cells<'_, AtomicU64> {
            Cells {
                state: &self.state,
                accepts_new: &self.accepts_new,
                keeps_flows: &self.keeps_flows,
                strays: &self.strays,
                mask: 1,
            }
        }

        fn assert_agrees(&self) {
            let word = Word::from_raw(self.state.load(Acquire));
            assert_eq!(self.accepts_new.load(Acquire) & 1 != 0, word.accepts_new(), "{word:?}");
            assert_eq!(self.keeps_flows.load(Acquire) & 1 != 0, word.keeps_flows(), "{word:?}");
            assert!(!word.is_warming() || self.strays.load(Acquire) & 1 != 0, "{word:?}");
        }
    }

    const POLICY: Policy = Policy { fall: 1, rise: 1, consecutive: 1, ..Policy::DEFAULT };

    const EJECT: Event = Event::Eject { cause: Cause::Share, jitter: 0 };

    /// Runs two scripts of events at the same time, from `Up`, over all interleavings.
    fn race(left: &'static [Event], right: &'static [Event]) {
        loom::model(move || {
            let shared = Arc::new(Shared::default());
            let now = Ticks::from_ms(0);
            apply(shared.cells(), 0, Event::Assigned, now, &POLICY);
            apply(shared.cells(), 0, Event::ProbeOk, now, &POLICY);
            let other = shared.clone();
            let thread = loom::thread::spawn(move || {
                for event in left {
                    apply(other.cells(), 0, *event, now, &POLICY);
                }
            });
            for event in right {
                apply(shared.cells(), 0, *event, now, &POLICY);
            }
            thread.join().unwrap();
            shared.assert_agrees();
        });
    }

    #[test]
    fn bit_and_word_agree_after_a_breaker_races_a_prober() {
        race(&[EJECT], &[Event::ProbeFailed, Event::ProbeOk]);
    }

    #[test]
    fn bit_and_word_agree_after_a_failing_prober_races_an_operator() {
        race(&[Event::ProbeFailed, Event::ProbeOk], &[Event::Drain, Event::Enable]);
    }

    #[test]
    fn bit_and_word_agree_after_a_recovery_races_a_removal() {
        race(&[Event::ProbeFailed, Event::ProbeOk], &[Event::Removed, Event::Assigned]);
    }

    #[test]
    fn two_workers_claim_one_trial() {
        loom::model(|| {
            let shared = Arc::new(Shared::default());
            let now = Ticks::from_ms(0);
            for event in [Event::Assigned, Event::ProbeOk, EJECT] {
                apply(shared.cells(), 0, event, now, &POLICY);
            }
            let end = Word::from_raw(shared.state.load(Acquire)).deadline();
            let change = apply(shared.cells(), 0, Event::Tick, end, &POLICY).unwrap();
            assert_eq!(change.to.state(), State::Probation);
            let other = shared.clone();
            let claim = move |shared: &Shared| {
                let change = apply(shared.cells(), 0, Event::TrialStarted, end, &POLICY).unwrap();
                u32::from(change.from != change.to)
            };
            let thread = loom::thread::spawn(move || claim(&other));
            let claims = claim(&shared) + thread.join().unwrap();
            assert_eq!(claims, 1);
        });
    }
}
