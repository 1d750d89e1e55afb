//! Which worker a new connection goes to.
//!
//! The kernel asks once for each connection, when its SYN comes, and once more for each that is left
//! in the queue of a socket that closes. The least loaded of the live workers gets it; of more than
//! [`LOOKED_AT_MAX`], the less loaded of two that the connection's hash picks, which is nearly as even
//! (Mitzenmacher, "The power of two choices in randomized load balancing", 2001) and costs the same
//! however many there are.
//!
//! What a worker says of itself is not enough: one that hangs says nothing new and would look idle to
//! everybody. So the program counts the connections that it sent to a worker ([`Load::pending`]), and
//! the worker makes that zero when it has accepted all there are. A worker that does not come to that
//! is left alone after a few connections, long before its heartbeat is missed.

use crate::limits::WORKERS;

/// Workers of which the load of every single one is looked at.
pub const LOOKED_AT_MAX: u32 = 8;

/// Words of the bitmap of live workers.
pub const LIVE_WORDS: usize = WORKERS / 64;

/// No worker.
pub const NOBODY: u16 = u16::MAX;

/// What one request or connection is taken to cost its worker, in microseconds of CPU time: what makes
/// a queue comparable with the time for which a worker has been at one turn of its loop.
pub const REQUEST_US: u64 = 100;

/// What it counts that a worker may take no more connections: above all but the longest queue.
pub const FULL_US: u64 = 10_000_000;

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that it serves.
    pub active: u64,
    /// Connections sent to it that it has not accepted yet, as far as is known.
    pub pending: u32,
    /// Its open connections.
    pub connections: u32,
    /// Monotonic time in microseconds at which the loop turn began that it is at; 0 while it waits.
    pub busy_since_us: u64,
    /// It accepts nothing until a connection ends.
    pub is_full: bool,
}

impl Load {
    /// How long a new connection waits there, in microseconds, as far as can be guessed.
    ///
    /// A turn that has taken long is one that will take long: the age of a turn is the best guess at
    /// what is left of it.
    #[inline(always)]
    #[must_use]
    pub const fn wait_us(&self, now_us: u64) -> u64 {
        let queue = self.active.saturating_add(self.pending as u64);
        // Bounded, so that the product is: the BPF target has no multiplication that tells of overflow.
        let mut wait = if queue > QUEUE_MAX { QUEUE_MAX } else { queue } * REQUEST_US;
        if self.busy_since_us != 0 {
            wait = wait.saturating_add(now_us.saturating_sub(self.busy_since_us));
        }
        if self.is_full { wait.saturating_add(FULL_US) } else { wait }
    }

    /// The worker at `line` as a candidate.
    #[inline(always)]
    #[must_use]
    pub const fn candidate(&self, line: u16, now_us: u64) -> Candidate {
        let wait = self.wait_us(now_us);
        let wait = if wait > WAIT_MAX { WAIT_MAX } else { wait };
        let connections =
            if self.connections > CONNECTIONS_MAX { CONNECTIONS_MAX } else { self.connections };
        Candidate(wait << 32 | (connections as u64) << 16 | line as u64)
    }
}

const QUEUE_MAX: u64 = u32::MAX as u64;
const WAIT_MAX: u64 = u32::MAX as u64 - 1;
const CONNECTIONS_MAX: u32 = u16::MAX as u32;

/// A worker and how much is against it, in one word: by wait, then by connections, which will want
/// something sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(u64);

impl Candidate {
    /// No candidate; everyone is preferred to it.
    pub const NONE: Self = Self(u64::MAX);

    /// The word.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// The candidate of a word.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Whose line it is; [`NOBODY`] for none.
    #[inline(always)]
    #[must_use]
    pub const fn line(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    const fn is_preferred_to(self, other: Self) -> bool {
        self.0 >> 16 < other.0 >> 16
    }
}

/// Workers, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live(pub [u64; LIVE_WORDS]);

impl Live {
    /// How many there are.
    #[inline(always)]
    #[must_use]
    pub const fn count(&self) -> u32 {
        let (mut count, mut word) = (0, 0);
        while word < LIVE_WORDS {
            count += self.0[word].count_ones();
            word += 1;
        }
        count
    }

    /// Whether `line` is one of them.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, line: u16) -> bool {
        let (word, mask) = place(line);
        self.0[word] & mask != 0
    }

    /// The nth of them, from 0; [`NOBODY`] if there are not so many.
    #[inline(always)]
    #[must_use]
    pub const fn nth(&self, mut n: u32) -> u16 {
        let mut word = 0;
        while word < LIVE_WORDS {
            let here = self.0[word].count_ones();
            if n < here {
                return word as u16 * 64 + nth_bit(self.0[word], n);
            }
            n -= here;
            word += 1;
        }
        NOBODY
    }
}

/// The word and the bit of a worker; of one that can't be, those of another.
#[inline(always)]
#[must_use]
pub const fn place(line: u16) -> (usize, u64) {
    (line as usize / 64 % LIVE_WORDS, 1 << (line % 64))
}

/// The place of the nth set bit of a word that has more than n: by halves, so that the kernel has no
/// loop to follow.
#[inline(always)]
#[must_use]
pub const fn nth_bit(mut word: u64, mut n: u32) -> u16 {
    let mut place = 0;
    let mut step = u64::BITS / 2;
    while step > 0 {
        let low = (word & ((1 << step) - 1)).count_ones();
        if n >= low {
            n -= low;
            word >>= step;
            place += step;
        }
        step /= 2;
    }
    place as u16
}

/// Who a connection goes to, of `count` live workers.
///
/// `hash` is the connection's and decides between equals; `candidate` tells of the nth worker as it is
/// at this moment.
#[inline(always)]
pub fn choose(count: u32, hash: u32, candidate: impl Fn(u32) -> Candidate) -> Candidate {
    if count == 0 {
        return Candidate::NONE;
    }
    let first = hash % count;
    if count > LOOKED_AT_MAX {
        // Another one than the first: a step of 1 to count - 1 from it.
        let step = 1 + (hash >> 16 ^ hash.rotate_left(7)) % (count - 1);
        let (one, other) = (candidate(first), candidate((first + step) % count));
        return if other.is_preferred_to(one) { other } else { one };
    }
    let mut best = Candidate::NONE;
    for n in 0..LOOKED_AT_MAX {
        if n >= count {
            break;
        }
        // From a place that the hash gives, so that equals get equal shares.
        let at = first + n;
        let next = candidate(if at >= count { at - count } else { at });
        if next.is_preferred_to(best) {
            best = next;
        }
    }
    best
}

const _: () = assert!(WORKERS.is_multiple_of(64) && WORKERS <= NOBODY as usize);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn live(lines: impl IntoIterator<Item = u16>) -> Live {
        let mut live = Live::default();
        for line in lines {
            let (word, mask) = place(line);
            live.0[word] |= mask;
        }
        live
    }

    fn chosen(live: &Live, hash: u32, load: impl Fn(u16) -> Load) -> u16 {
        let candidate = |n| load(live.nth(n)).candidate(live.nth(n), NOW);
        choose(live.count(), hash, candidate).line()
    }

    /// Sends connections, each with the next hash, and counts them as the program does.
    fn send(live: &Live, loads: &mut [Load], connections: u32) {
        for n in 0..connections {
            let hash = n.wrapping_mul(0x9e37_79b9) ^ n >> 3;
            let line = chosen(live, hash, |line| loads[usize::from(line)]);
            loads[usize::from(line)].pending += 1;
        }
    }

    #[test]
    fn nobody_is_chosen_when_nobody_lives() {
        assert_eq!(chosen(&Live::default(), 7, |_| panic!("asked")), NOBODY);
    }

    #[test]
    fn idle_workers_get_equal_shares() {
        for workers in [2_u16, 4, 8] {
            let mut got = vec![0_u32; workers.into()];
            for n in 0_u32..8_000 {
                let hash = n.wrapping_mul(0x9e37_79b9);
                got[usize::from(chosen(&live(0..workers), hash, |_| Load::default()))] += 1;
            }
            let even = 8_000 / u32::from(workers);
            assert!(got.iter().all(|n| n.abs_diff(even) < even / 10), "{got:?}");
        }
    }

    #[test]
    fn a_worker_that_accepts_nothing_is_left_alone_after_its_share() {
        let mut loads = [Load::default(); 4];
        for _ in 0..100 {
            send(&live(0..4), &mut loads, 4);
            // The others accept and answer all.
            loads[1..].fill(Load::default());
        }
        assert!(loads[0].pending <= 2, "{loads:?}");
    }

    #[test]
    fn a_worker_at_a_long_turn_gets_none_while_others_have_short_queues() {
        let mut loads = [Load { busy_since_us: NOW - 5_000, ..Load::default() }; 4];
        loads[1..].fill(Load { active: 3, ..Load::default() });
        send(&live(0..4), &mut loads, 60);
        assert_eq!(loads[0].pending, 0, "{loads:?}");
    }

    #[test]
    fn a_full_worker_gets_none_unless_all_are() {
        let mut loads = [Load { is_full: true, ..Load::default() }; 3];
        loads[2] = Load { active: 500, ..Load::default() };
        send(&live(0..3), &mut loads, 100);
        assert_eq!((loads[0].pending, loads[1].pending), (0, 0));
        loads[2].is_full = true;
        send(&live(0..3), &mut loads, 1);
        assert_eq!(loads.iter().map(|load| load.pending).sum::<u32>(), 101);
        assert_eq!(loads[2].pending, 100, "the least loaded of the full ones");
    }

    #[test]
    fn open_connections_decide_between_equals() {
        let load = |line| Load { connections: [9, 3, 5][usize::from(line)], ..Load::default() };
        for hash in 0..100 {
            assert_eq!(chosen(&live(0..3), hash, load), 1);
        }
    }

    proptest! {
        #[test]
        fn only_the_living_are_chosen_and_the_least_loaded_of_few(
            lines in proptest::collection::btree_set(0_u16..WORKERS as u16, 1..40),
            active in proptest::collection::vec(0_u64..20, WORKERS),
            hash: u32,
        ) {
            let load = |line: u16| Load { active: active[usize::from(line)], ..Load::default() };
            let living = live(lines.iter().copied());
            let chosen = chosen(&living, hash, load);
            prop_assert!(living.has(chosen));
            if lines.len() <= LOOKED_AT_MAX as usize {
                let least = lines.iter().map(|line| load(*line).active).min();
                prop_assert_eq!(Some(load(chosen).active), least);
            } else {
                // Never the most loaded one: it would have to be both of two.
                let mut all: Vec<u64> = lines.iter().map(|line| load(*line).active).collect();
                all.sort_unstable();
                prop_assert!(load(chosen).active <= all[all.len() - 2]);
            }
        }

        #[test]
        fn many_workers_get_about_equal_work(workers in 9_u16..200, seed: u32) {
            let mut loads = [Load::default(); WORKERS];
            let live = live(0..workers);
            let each = 20;
            for n in 0..u32::from(workers) * each {
                let hash = (n ^ seed).wrapping_mul(0x85eb_ca6b).rotate_left(13).wrapping_mul(0xc2b2_ae35);
                let hash = hash ^ hash >> 16;
                let line = chosen(&live, hash, |line| loads[usize::from(line)]);
                loads[usize::from(line)].pending += 1;
            }
            let most = loads.iter().map(|load| load.pending).max();
            prop_assert!(most <= Some(each + 6), "{most:?}");
        }

        #[test]
        fn the_nth_is_the_nth(lines in proptest::collection::btree_set(0_u16..WORKERS as u16, 0..40)) {
            let living = live(lines.iter().copied());
            prop_assert_eq!(living.count() as usize, lines.len());
            for (n, line) in (0..).zip(&lines) {
                prop_assert_eq!(living.nth(n), *line);
            }
            prop_assert_eq!(living.nth(lines.len() as u32), NOBODY);
            for line in 0..WORKERS as u16 {
                prop_assert_eq!(living.has(line), lines.contains(&line));
            }
        }

        #[test]
        fn more_load_never_makes_a_worker_preferred(
            active in 0_u64..1 << 40, pending: u32, connections: u32, busy in 0_u64..NOW, full: bool,
        ) {
            let load =
                Load { active, pending, connections, busy_since_us: busy, is_full: full };
            let more = [
                Load { active: active + 1, ..load },
                Load { pending: pending.saturating_add(1), ..load },
                Load { connections: connections.saturating_add(1), ..load },
                Load { is_full: true, ..load },
            ];
            for more in more {
                let (more, less) = (more.candidate(0, NOW), load.candidate(0, NOW));
                prop_assert!(!more.is_preferred_to(less));
            }
        }
    }
}
