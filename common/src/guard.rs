//! What a source of packets may do to a vip: token buckets, the signs of a SYN flood, and the challenge by
//! which a source proves under flood that it is where it says it is.
//!
//! # The challenge
//!
//! In L4 forwarding the backend does the handshake, so a SYN cookie of ours could be spliced onto it only
//! by translating every later packet's sequence numbers. So no handshake is begun here at all. A SYN from a
//! source that is not proven is answered with an ACK whose acknowledgement number is a [`cookie`]: a keyed
//! hash of addresses, ports and time. A client that is in SYN-SENT and gets an acknowledgement of what it
//! never sent answers with a reset whose *sequence number is that very number*, stays in SYN-SENT, and
//! sends its SYN again (RFC 9293, 3.10.7.3). The reset proves the source, which is remembered; the next SYN
//! passes to a backend as any does. Nothing is stored for a source that does not answer, and the answer is
//! never larger than the SYN. No connection is lost: Linux sends its SYN again after two ticks of its clock
//! (since 5.6: `tcp_rcv_synsent_state_process`, `TCP_TIMEOUT_MIN`), others after their first timeout, of a
//! second mostly. To clients and firewalls it looks like a SYN that met an old connection of the same ports.
//!
//! The kernel's own cookies (`bpf_tcp_raw_gen_syncookie_ipv4`, Linux 6.0) would be no better a hash: they
//! carry a segment size, which nothing here needs, and are of one host, where this key is of a group.
//!
//! # Buckets
//!
//! A bucket is one word: the time at which it is full again (the virtual scheduling of ITU-T I.371, "GCRA").
//! An empty table of zeros is a table of full buckets.

use crate::abi::Rate;
use crate::hash::sip13;

/// SYNs are counted for this long (2²⁷ ns).
pub const WINDOW_NS: u64 = 1 << WINDOW_BITS;
const WINDOW_BITS: u32 = 27;

/// A challenge can be answered for one to two of these: 4.3 to 8.6 s.
pub const ANSWER_NS: u64 = 1 << ANSWER_BITS;
const ANSWER_BITS: u32 = 32;

/// Keeps cookies apart from all else that is hashed under the same key.
const COOKIES: u64 = 0x636f_6f6b_6965_2121;

/// Takes a token out of a bucket: the bucket then, or `None` if there is none in it.
#[inline(always)]
#[must_use]
pub const fn take(bucket: u64, now_ns: u64, rate: &Rate) -> Option<u64> {
    let full_at = if bucket > now_ns { bucket } else { now_ns };
    let taken = full_at.wrapping_add(rate.interval_ns);
    if taken - now_ns > rate.burst_ns { None } else { Some(taken) }
}

/// Adds SYNs to the count of a window, or begins the next one with them.
#[inline(always)]
#[must_use]
pub const fn count_syns(counted: u64, now_ns: u64, syns: u32) -> u64 {
    let window = (now_ns >> WINDOW_BITS) << 32;
    if counted & WINDOW_MASK == window & WINDOW_MASK && counted as u32 <= u32::MAX - syns {
        counted + syns as u64
    } else {
        window | syns as u64
    }
}

const WINDOW_MASK: u64 = !(u32::MAX as u64);

/// Until when a vip is under flood, after SYNs were counted: later than `until_ns`, or that.
///
/// It takes more to begin a flood than to make one go on, so that a vip is not under flood by turns.
#[inline(always)]
#[must_use]
pub const fn flood_until(counted: u64, now_ns: u64, until_ns: u64, thresholds: Thresholds) -> u64 {
    let is_under_flood = now_ns < until_ns;
    let enough = if is_under_flood { thresholds.goes_on } else { thresholds.begins };
    if counted as u32 >= enough { now_ns.wrapping_add(thresholds.hold_ns) } else { until_ns }
}

/// SYNs in a window that make a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So many begin one.
    pub begins: u32,
    /// So many make one go on.
    pub goes_on: u32,
    /// For so long after.
    pub hold_ns: u64,
}

/// Between whom a handshake is: addresses as words of their bytes in memory, and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub client: [u64; 2],
    /// The vip's address.
    pub vip: [u64; 2],
    /// Both ports.
    pub ports: u32,
}

/// The acknowledgement number of a challenge.
#[inline(always)]
#[must_use]
pub const fn cookie(key: [u64; 2], ends: &Ends, now_ns: u64) -> u32 {
    cookie_of(key, ends, now_ns >> ANSWER_BITS)
}

#[inline(always)]
const fn cookie_of(key: [u64; 2], ends: &Ends, period: u64) -> u32 {
    let last = (ends.ports as u64) << 32 | period & 0xffff_ffff;
    let words = [ends.client[0], ends.client[1], ends.vip[0], ends.vip[1], last];
    let hash = sip13([key[0] ^ COOKIES, key[1]], &words);
    (hash ^ hash >> 32) as u32
}

/// Whether a reset's sequence number answers a challenge of lately.
#[inline(always)]
#[must_use]
pub const fn is_answer(key: [u64; 2], ends: &Ends, now_ns: u64, sequence: u32) -> bool {
    let period = now_ns >> ANSWER_BITS;
    sequence == cookie_of(key, ends, period)
        || sequence == cookie_of(key, ends, period.wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// Ten a second, three at once.
    const RATE: Rate = Rate { interval_ns: SECOND / 10, burst_ns: 3 * SECOND / 10 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = 0;
        let mut take_at = |now| match take(bucket, now, &RATE) {
            Some(then) => {
                bucket = then;
                true
            }
            None => false,
        };
        let start = 7 * SECOND;
        assert_eq!([0; 5].map(|_| take_at(start)), [true, true, true, false, false]);
        assert!(!take_at(start + SECOND / 20));
        assert!(take_at(start + SECOND / 10));
        assert!(!take_at(start + SECOND / 10));
        let later = start + 60 * SECOND;
        assert_eq!([0; 4].map(|_| take_at(later)), [true, true, true, false], "never more");
    }

    const THRESHOLDS: Thresholds = Thresholds { begins: 100, goes_on: 50, hold_ns: 2 * SECOND };

    /// Windows of so many SYNs each; whether the vip is under flood at the end of each.
    fn floods<const N: usize>(windows: [u32; N]) -> [bool; N] {
        let (mut counted, mut until) = (0, 0);
        let mut window = 0;
        windows.map(|syns| {
            window += 1;
            let now = window * WINDOW_NS;
            for _ in 0..syns {
                counted = count_syns(counted, now, 1);
                until = flood_until(counted, now, until, THRESHOLDS);
            }
            now + WINDOW_NS - 1 < until
        })
    }

    #[test]
    fn a_flood_begins_with_many_and_ends_when_few_came_for_a_while() {
        assert_eq!(floods([99, 99, 99]), [false; 3], "windows do not add up");
        assert_eq!(floods([99, 100, 0, 49, 49]), [false, true, true, true, true]);
        // Two seconds are fifteen windows.
        let mut windows = [49; 40];
        windows[0] = 100;
        let states = floods(windows);
        assert_eq!(states.iter().filter(|state| **state).count(), 14);
        windows[10] = 50;
        let states = floods(windows);
        assert_eq!(states.iter().filter(|state| **state).count(), 24, "it went on");
    }

    #[test]
    fn a_full_count_begins_anew_and_does_not_run_into_the_window() {
        let counted = count_syns(u64::from(u32::MAX - 1), 0, 5);
        assert_eq!(counted, 5);
    }

    const ENDS: Ends = Ends { client: [1, 2], vip: [3, 4], ports: 0x1234_0050 };
    const KEY: [u64; 2] = [5, 6];

    #[test]
    fn an_answer_holds_for_a_while_and_for_nobody_else() {
        let now = 100 * ANSWER_NS + 17;
        let answer = cookie(KEY, &ENDS, now);
        assert!(is_answer(KEY, &ENDS, now, answer));
        assert!(is_answer(KEY, &ENDS, now + ANSWER_NS, answer));
        assert!(!is_answer(KEY, &ENDS, now + 2 * ANSWER_NS, answer));
        assert!(!is_answer(KEY, &ENDS, now - ANSWER_NS, answer));
        assert!(!is_answer([5, 7], &ENDS, now, answer));
        for other in [
            Ends { client: [9, 2], ..ENDS },
            Ends { client: [1, 9], ..ENDS },
            Ends { vip: [9, 4], ..ENDS },
            Ends { vip: [3, 9], ..ENDS },
            Ends { ports: 0x1235_0050, ..ENDS },
        ] {
            assert!(!is_answer(KEY, &other, now, answer), "{other:?}");
        }
    }

    proptest! {
        /// Whenever packets come, in any span of time no more pass than the burst and the rate give.
        #[test]
        fn no_span_has_more_than_the_burst_and_the_rate(
            gaps in proptest::collection::vec(0u64..SECOND / 4, 1..200),
        ) {
            let (mut bucket, mut now) = (0, SECOND);
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if let Some(then) = take(bucket, now, &RATE) {
                    bucket = then;
                    passed.push(now);
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (count, last) in passed[index..].iter().enumerate() {
                    let count = count as u64 + 1;
                    prop_assert!(count <= 3 + (last - first) / RATE.interval_ns + 1);
                }
            }
        }
    }
}
