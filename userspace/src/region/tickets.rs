//! The keys that tickets of TLS sessions are sealed with: made and changed by the supervisor, read by every
//! worker at each ticket.
//!
//! The newest seals; it and the two before it open, so a ticket is good for two rotations at least. In the
//! region they outlive workers, reloads, the supervisor and an upgrade. A change is a short one of 24 words
//! (a sequence lock): a reader that meets one waits it out.
#![allow(unsafe_code)]

use std::hint::spin_loop;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use steerage_common::abi::{self, TICKET_KEYS, TicketKey};
use zeroize::Zeroize as _;

use super::segment::{Segment, Shareable};

/// Words of all keys.
const WORDS: usize = TICKET_KEYS * size_of::<TicketKey>() / size_of::<u64>();

/// How often a reader looks again while keys are being changed. One that a killed supervisor left behind in
/// the middle of a change lasts until the next supervisor's start.
const LOOKS_MAX: u32 = 10_000;

/// [`abi::TicketKeys`].
#[derive(Debug)]
#[repr(C)]
struct Line {
    version: AtomicU64,
    reserved: [AtomicU64; 7],
    keys: [AtomicU64; WORDS],
}

// SAFETY: atomics only; any bits are valid.
unsafe impl Shareable for Line {}

const _: () = assert!(size_of::<Line>() == size_of::<abi::TicketKeys>());

/// The keys in the region.
#[derive(Debug)]
pub struct Tickets(Segment<Line>);

/// The keys at one moment. Its memory is cleared when it is dropped.
#[derive(Default)]
pub struct Keys {
    /// The newest first; fewer than [`TICKET_KEYS`] at first.
    pub keys: Vec<TicketKey>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never what they are.
        f.debug_struct("Keys").field("count", &self.keys.len()).finish()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        for key in &mut self.keys {
            key.secret.zeroize();
        }
    }
}

impl Tickets {
    pub(super) fn map(fd: &impl AsFd) -> io::Result<Self> {
        Ok(Self(Segment::map(fd, 1)?))
    }

    /// Rises with each change.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.get(0).version.load(Ordering::Acquire)
    }

    /// The keys, and the version that they are of; none if they can't be read.
    #[must_use]
    pub fn read(&self) -> (u64, Keys) {
        let line = self.0.get(0);
        for _ in 0..LOOKS_MAX {
            let version = line.version.load(Ordering::Acquire);
            if version.is_multiple_of(2) {
                let mut words: [u64; WORDS] =
                    std::array::from_fn(|at| line.keys[at].load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                let keys: [TicketKey; TICKET_KEYS] = zerocopy::transmute!(words);
                words.zeroize();
                if line.version.load(Ordering::Relaxed) == version {
                    let known = keys.into_iter().filter(|key| key.name != [0; 2]);
                    return (version, Keys { keys: known.collect() });
                }
            }
            spin_loop();
        }
        (0, Keys::default())
    }

    /// Makes `key` the one that seals, and the two before it the ones that open too. Supervisor only.
    pub fn rotate(&self, key: TicketKey) {
        let (_, mut former) = self.read();
        let mut keys = [TicketKey::default(); TICKET_KEYS];
        keys[0] = key;
        for (place, known) in keys[1..].iter_mut().zip(former.keys.drain(..)) {
            *place = known;
        }
        let mut words: [u64; WORDS] = zerocopy::transmute!(keys);
        let line = self.0.get(0);
        // Whatever a killed supervisor left behind: odd, and then even and another one than before.
        let version = line.version.load(Ordering::Relaxed) | 1;
        line.version.store(version, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in line.keys.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        line.version.store(version.wrapping_add(1), Ordering::Release);
        words.zeroize();
    }

    /// How long until the next rotation is due, if there is to be one every `interval`; zero if it is now.
    /// `now` is the time since 1970.
    #[must_use]
    pub fn due_in(&self, interval: Duration, now: Duration) -> Duration {
        match self.read().1.keys.first() {
            None => Duration::ZERO,
            // A clock that was set back makes no key live longer.
            Some(newest) => {
                let age = now.saturating_sub(Duration::from_secs(newest.since));
                if newest.since > now.as_secs() {
                    Duration::ZERO
                } else {
                    interval.saturating_sub(age)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Region;
    use super::*;

    fn key(n: u64) -> TicketKey {
        TicketKey { name: [n, n], secret: [n; 4], since: 100 * n, reserved: 0 }
    }

    #[test]
    fn the_newest_stands_first_and_two_former_ones_are_kept() {
        let region = Region::in_memory(1).unwrap();
        let tickets = region.tickets();
        let names = || tickets.read().1.keys.iter().map(|key| key.name[0]).collect::<Vec<_>>();
        assert_eq!(names(), Vec::<u64>::new());
        for (n, expected) in [(1, vec![1]), (2, vec![2, 1]), (3, vec![3, 2, 1]), (4, vec![4, 3, 2])]
        {
            let before = tickets.version();
            tickets.rotate(key(n));
            assert_eq!(names(), expected);
            assert_eq!(tickets.version(), before + 2);
        }
        assert_eq!(tickets.read().1.keys[0].secret, [4; 4]);
    }

    #[test]
    fn what_a_killed_supervisor_left_in_the_middle_of_a_change_is_mended_by_the_next() {
        let region = Region::in_memory(1).unwrap();
        let tickets = region.tickets();
        tickets.rotate(key(1));
        tickets.0.get(0).version.store(3, Ordering::Relaxed);
        assert_eq!(tickets.read().1.keys.len(), 0, "nobody waits for it for ever");
        tickets.rotate(key(2));
        assert_eq!(tickets.version(), 4);
        assert_eq!(tickets.read().1.keys[0].name, [2, 2]);
    }

    #[test]
    fn a_key_is_due_by_its_age_and_when_there_is_none() {
        let region = Region::in_memory(1).unwrap();
        let tickets = region.tickets();
        let (hour, at) = (Duration::from_secs(3600), Duration::from_secs);
        assert_eq!(tickets.due_in(hour, at(5000)), Duration::ZERO);
        tickets.rotate(key(50));
        assert_eq!(tickets.due_in(hour, at(5000)), hour);
        assert_eq!(tickets.due_in(hour, at(8000)), at(600));
        assert_eq!(tickets.due_in(hour, at(8600)), Duration::ZERO);
        assert_eq!(tickets.due_in(hour, at(4999)), Duration::ZERO, "the clock was set back");
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let region = Region::in_memory(1).unwrap();
        let tickets = region.tickets();
        tickets.rotate(key(1));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut newest = 0;
                while newest < 20_000 {
                    let (_, read) = tickets.read();
                    for key in &read.keys {
                        assert!(key.secret.iter().all(|word| *word == key.name[0]));
                    }
                    // A reader that is outrun sees none.
                    newest = read.keys.first().map_or(newest, |key| key.name[0]);
                }
            });
            for n in 2..=20_000 {
                tickets.rotate(key(n));
            }
            reader.join().unwrap();
        });
    }
}
