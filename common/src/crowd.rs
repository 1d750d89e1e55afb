//! How many connections a client address has at a listener, over all workers.
//!
//! Each worker has a table of its own in the shared region that it alone writes: a word for each address
//! at a listener that it has connections of, with their number. What all workers have is the sum over the
//! tables, and what a worker has that dies goes with its table: the supervisor clears it, and nothing
//! else knew of those connections.
//!
//! **Never more than the limit.** A worker first writes its new number, then adds up everybody's, with a
//! full barrier between the two. Of two that do so at once, the one whose number came second sees the
//! first one's, so whoever comes last to the limit sees that it is reached; it takes its number back.
//!
//! **Nearly never fewer.** Two that come at once to the last place may both see the other's number and
//! both take theirs back. So each looks again, after a pause that differs by worker: whoever looks last
//! sees no number of those that gave up, and gets in. Only who collides [`TURNS`] times in a row is
//! refused for nothing.
//!
//! A word is in one of the two buckets that its hash names, whichever was emptier when it came (Azar,
//! Broder, Karlin and Upfal, "Balanced allocations", 1999): a reader looks at four cache lines of each
//! worker. Two addresses are one for this if 52 bits of their keyed hashes are the same. If both
//! buckets are full, the caller is told so ([`Refusal::NoPlace`]) and counts for itself.
#![cfg(not(target_arch = "bpf"))]

use core::net::IpAddr;

use crate::abi::{CLIENT_BUCKETS as BUCKETS, CLIENT_PLACES as PLACES};
use crate::hash::sip13;

/// How often a worker tries for a place that another one tries for at the same time.
pub const TURNS: u32 = 16;

const BUCKET_BITS: u32 = BUCKETS.ilog2();
/// The lower bits of a word are the number, the upper ones tell whose it is.
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

const _: () = {
    assert!(BUCKETS.is_power_of_two());
    assert!(2 * BUCKET_BITS <= COUNT_BITS, "the bits that tell whose a word is are no others' too");
};

/// A word of a table, and the barrier between a write to one table and the reads of others.
pub trait Count {
    /// Acquire load.
    fn load(&self) -> u64;
    /// Release store.
    fn store(&self, value: u64);
    /// Sequentially consistent fence.
    fn barrier();
}

impl Count for core::sync::atomic::AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.store(value, core::sync::atomic::Ordering::Release);
    }

    #[inline]
    fn barrier() {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// A client address at a listener, by its keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(u64);

impl Client {
    /// An address at the listener of this identity. Of IPv6 the first 64 bits count: a host has all that
    /// follow.
    #[must_use]
    pub fn new(key: [u64; 2], listener: u64, address: IpAddr) -> Self {
        let (family, bits) = match address.to_canonical() {
            IpAddr::V4(address) => (4, u64::from(address.to_bits())),
            IpAddr::V6(address) => (6, (address.to_bits() >> 64) as u64),
        };
        Self(sip13(key, &[listener, family, bits]))
    }

    /// The buckets where its word may be.
    #[must_use]
    pub const fn buckets(self) -> [usize; 2] {
        let first = self.0 as usize % BUCKETS;
        let second = (self.0 >> BUCKET_BITS) as usize % BUCKETS;
        [first, if second == first { first ^ 1 } else { second }]
    }

    const fn tag(self) -> u64 {
        self.0 & !COUNT_MAX
    }

    const fn count(self, word: u64) -> u64 {
        if word & !COUNT_MAX == self.tag() { word & COUNT_MAX } else { 0 }
    }

    const fn word(self, count: u64) -> u64 {
        if count == 0 { 0 } else { self.tag() | count }
    }
}

/// A client's two buckets in a worker's table.
#[derive(Debug)]
pub struct Buckets<'a, A>(pub [&'a [A]; 2]);

impl<'a, A: Count> Buckets<'a, A> {
    /// How many connections the worker has of it.
    fn count(&self, client: Client) -> u64 {
        let words = self.0.iter().copied().flatten();
        words.map(|word| client.count(word.load())).find(|count| *count > 0).unwrap_or(0)
    }

    /// Its word; a free one of the emptier bucket if it has none.
    fn find(&self, client: Client) -> Option<(usize, &'a A, u64)> {
        let mut free = [(0, None); 2];
        for (bucket, words) in self.0.iter().enumerate() {
            for (at, word) in words.iter().enumerate() {
                let place = bucket * PLACES + at;
                match word.load() {
                    0 => {
                        let (count, first) = &mut free[bucket];
                        *count += 1;
                        first.get_or_insert((place, word));
                    }
                    value => match client.count(value) {
                        0 => {}
                        count => return Some((place, word, count)),
                    },
                }
            }
        }
        let [one, other] = free;
        let (_, place) = if other.0 > one.0 { other } else { one };
        place.map(|(place, word)| (place, word, 0))
    }
}

/// Why a connection is not counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The address has as many as it may.
    Full,
    /// This worker's table has no place for the address.
    NoPlace,
}

/// Counts one more connection of a client in, unless it has `limit` already; gives its place among
/// the words of `mine`.
///
/// `line` is this worker's, `others` gives the client's buckets in all other workers' tables.
///
/// # Errors
/// If it is not counted.
pub fn admit<'a, A: Count + 'a, O: Iterator<Item = Buckets<'a, A>>>(
    client: Client,
    limit: u32,
    line: usize,
    mine: &Buckets<'a, A>,
    others: impl Fn() -> O,
) -> Result<usize, Refusal> {
    let (place, word, count) = mine.find(client).ok_or(Refusal::NoPlace)?;
    let is_within = |count: u64| {
        let theirs: u64 = others().map(|buckets| buckets.count(client)).sum();
        count + theirs <= u64::from(limit)
    };
    if count == COUNT_MAX {
        return Err(Refusal::Full);
    }
    for turn in 0..TURNS {
        if !is_within(count + 1) {
            return Err(Refusal::Full);
        }
        word.store(client.word(count + 1));
        A::barrier();
        if is_within(count + 1) {
            return Ok(place);
        }
        word.store(client.word(count));
        A::barrier();
        for _ in 0..(line + 1) << turn.min(6) {
            core::hint::spin_loop();
        }
    }
    Err(Refusal::Full)
}

/// Counts a connection out that was counted in at `place` of `mine`.
pub fn leave<A: Count>(client: Client, place: usize, mine: &Buckets<'_, A>) {
    let word = mine.0.get(place / PLACES).and_then(|words| words.get(place % PLACES));
    if let Some(word) = word
        && let Some(count) = client.count(word.load()).checked_sub(1)
    {
        word.store(client.word(count));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use super::*;

    /// The tables of some workers, cut down to one client's buckets.
    struct Tables(Vec<[AtomicU64; 2 * PLACES]>);

    impl Tables {
        fn new(workers: usize) -> Self {
            Self((0..workers).map(|_| [const { AtomicU64::new(0) }; 2 * PLACES]).collect())
        }

        fn of(&self, worker: usize) -> Buckets<'_, AtomicU64> {
            let (one, other) = self.0[worker].split_at(PLACES);
            Buckets([one, other])
        }

        fn admit(&self, worker: usize, client: Client, limit: u32) -> Result<usize, Refusal> {
            let others =
                || (0..self.0.len()).filter(|other| *other != worker).map(|other| self.of(other));
            admit(client, limit, worker, &self.of(worker), others)
        }
    }

    fn client(number: u32) -> Client {
        Client::new([1, 2], 3, IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn the_limit_is_that_of_all_workers_together() {
        let tables = Tables::new(3);
        let places: Vec<usize> =
            (0..5).map(|n| tables.admit(n % 3, client(1), 5).unwrap()).collect();
        for worker in 0..3 {
            assert_eq!(tables.admit(worker, client(1), 5), Err(Refusal::Full));
        }
        assert!(tables.admit(0, client(2), 5).is_ok(), "another address");
        leave(client(1), places[1], &tables.of(1));
        assert!(tables.admit(2, client(1), 5).is_ok());
        assert_eq!(tables.admit(0, client(1), 5), Err(Refusal::Full));
        // A worker dies: what it had is nobody's.
        tables.0[0].iter().for_each(|word| word.store(0, core::sync::atomic::Ordering::Relaxed));
        assert!(tables.admit(1, client(1), 5).is_ok());
        assert!(tables.admit(1, client(1), 5).is_ok());
        assert_eq!(tables.admit(1, client(1), 5), Err(Refusal::Full));
    }

    #[test]
    fn a_full_table_says_so_and_has_room_when_somebody_has_left() {
        let tables = Tables::new(1);
        let places: Vec<usize> =
            (0..2 * PLACES as u32).map(|n| tables.admit(0, client(n), 1).unwrap()).collect();
        assert_eq!(tables.admit(0, client(99), 1), Err(Refusal::NoPlace));
        assert_eq!(tables.admit(0, client(7), 1), Err(Refusal::Full), "known");
        leave(client(7), places[7], &tables.of(0));
        assert_eq!(tables.admit(0, client(99), 1), Ok(places[7]));
        // Nobody else's number goes down with a count that is not there any more.
        leave(client(7), places[7], &tables.of(0));
        assert_eq!(tables.admit(0, client(99), 1), Err(Refusal::Full));
    }

    #[test]
    fn whose_address_it_is_and_where_decides() {
        let new = |listener, address: &str| {
            Client::new([1, 2], listener, address.parse::<IpAddr>().unwrap())
        };
        assert_eq!(new(1, "2001:db8::1"), new(1, "2001:db8::ffff:1"), "one /64");
        assert_ne!(new(1, "2001:db8::1"), new(1, "2001:db8:0:1::1"));
        assert_eq!(new(1, "192.0.2.1"), new(1, "::ffff:192.0.2.1"));
        assert_ne!(new(1, "192.0.2.1"), new(1, "192.0.2.2"));
        assert_ne!(new(1, "192.0.2.1"), new(2, "192.0.2.1"));
        for number in 0..100_000 {
            let [one, other] = client(number).buckets();
            assert!(one != other && one.max(other) < BUCKETS);
        }
    }

    #[test]
    fn a_hundred_thousand_addresses_of_two_workers_find_places() {
        let mut filled = std::vec![0_usize; BUCKETS];
        for number in 0..50_000 {
            let [one, other] = client(number).buckets();
            let emptier = if filled[other] < filled[one] { other } else { one };
            filled[emptier] += 1;
        }
        assert!(filled.iter().all(|count| *count <= PLACES), "{:?}", filled.iter().max());
    }

    #[test]
    fn threads_never_have_more_than_the_limit_and_all_of_it_in_the_end() {
        const LIMIT: u32 = 3;
        let tables = Tables::new(4);
        let within = AtomicU64::new(0);
        use core::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (tables, within) = (&tables, &within);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if let Ok(place) = tables.admit(worker, client(1), LIMIT) {
                            assert!(within.fetch_add(1, SeqCst) < u64::from(LIMIT));
                            within.fetch_sub(1, SeqCst);
                            leave(client(1), place, &tables.of(worker));
                        }
                    }
                });
            }
        });
        assert!((0..LIMIT as usize).all(|n| tables.admit(n, client(1), LIMIT).is_ok()));
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::Arc;
    use loom::sync::atomic::Ordering::{Acquire, Release, SeqCst};
    use loom::sync::atomic::{AtomicU64, fence};

    use super::*;

    impl Count for AtomicU64 {
        fn load(&self) -> u64 {
            self.load(Acquire)
        }
        fn store(&self, value: u64) {
            self.store(value, Release);
        }
        fn barrier() {
            fence(SeqCst);
        }
    }

    const CLIENT: Client = Client(1 << 60);

    /// One word is enough of each table.
    fn buckets(word: &[AtomicU64; 1]) -> Buckets<'_, AtomicU64> {
        Buckets([word, &[]])
    }

    fn admit_one(tables: &[[AtomicU64; 1]; 2], line: usize) -> bool {
        let others = || std::iter::once(buckets(&tables[1 - line]));
        admit(CLIENT, 1, line, &buckets(&tables[line]), others).is_ok()
    }

    #[test]
    fn two_workers_never_share_the_last_place() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let tables = Arc::new([[AtomicU64::new(0)], [AtomicU64::new(0)]]);
            let other = tables.clone();
            let thread = loom::thread::spawn(move || admit_one(&other, 1));
            let mine = admit_one(&tables, 0);
            let theirs = thread.join().unwrap();
            assert!(!(mine && theirs), "both got in");
            // Whoever was refused left nothing behind.
            for (line, got_in) in [(0, mine), (1, theirs)] {
                assert_eq!(buckets(&tables[line]).count(CLIENT), u64::from(got_in));
            }
        });
    }
}
