//! How long things took: fixed log-linear buckets, counted by workers, read by the supervisor.
//!
//! Each doubling of time, from [`UNIT_NS`] on, has two buckets of the same width, so a time is known to a
//! third of itself or better, from 62.5 µs to 65.5 s. The unit is a sixteenth of a millisecond: bounds
//! are whole milliseconds where people look (1, 1.5, 2, 3, 4, 6, 8 … ms).
//!
//! A bucket takes the times above the former bound up to its own, which it includes: Prometheus' `le`.

/// The first bound, in nanoseconds.
pub const UNIT_NS: u64 = 62_500;

/// Doublings of the unit that have buckets.
const DOUBLINGS: usize = 20;

/// Buckets: one up to the unit, two for each doubling, one for all that is longer.
pub const BUCKETS: usize = 1 + 2 * DOUBLINGS + 1;

/// The bucket that has no upper bound.
pub const LAST: usize = BUCKETS - 1;

/// What is timed, at one backend: index into [`crate::abi::Times`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Timer {
    /// A request's or a connection's wait in line for a backend, if it stood in line.
    Queue = 0,
    /// The making of a connection, with its TLS handshake.
    Connect = 1,
    /// From the request's going out to the response's beginning.
    FirstByte = 2,
    /// From the request's coming to the end of its response.
    Total = 3,
}

/// How many things are timed.
pub const TIMERS: usize = 4;

impl Timer {
    /// All of them, in index order.
    pub const ALL: [Self; TIMERS] = [Self::Queue, Self::Connect, Self::FirstByte, Self::Total];
}

/// The bucket of a time in microseconds.
#[inline]
#[must_use]
pub const fn bucket(us: u64) -> usize {
    // In halves of the unit, rounded up: a bound belongs to the bucket below it.
    let halves = us.saturating_mul(4).div_ceil(UNIT_NS / 500);
    if halves <= 2 {
        return 0;
    }
    // The highest bit says which doubling it is, the next one which half of that.
    let below = halves - 1;
    let doubling = below.ilog2() - 1;
    let half = below >> doubling & 1;
    let bucket = 1 + 2 * doubling as usize + half as usize;
    if bucket < LAST { bucket } else { LAST }
}

/// The upper bound of a bucket, in nanoseconds; that of [`LAST`] is where it begins.
#[must_use]
pub const fn bound_ns(bucket: usize) -> u64 {
    match (if bucket < LAST { bucket } else { LAST - 1 }).checked_sub(1) {
        None => UNIT_NS,
        Some(above) => ((3 + above as u64 % 2) * (UNIT_NS / 2)) << (above / 2),
    }
}

/// The time that `permille` of a thousand times do not pass, in microseconds, as if those of a bucket
/// were spread evenly over it; `None` of no times.
#[must_use]
pub fn quantile_us(counts: &[u64; BUCKETS], permille: u64) -> Option<u64> {
    let total = counts.iter().fold(0_u128, |total, count| total + u128::from(*count));
    let rank = (total * u128::from(permille)).div_ceil(1000).max(1);
    let mut below = 0;
    for (bucket, count) in counts.iter().enumerate() {
        let count = u128::from(*count);
        if count > 0 && below + count >= rank {
            let from = bucket.checked_sub(1).map_or(0, bound_ns);
            let width = u128::from(bound_ns(bucket) - from);
            let within = (width * (rank - below) / count) as u64;
            return Some((from + within) / 1000);
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_between_whose_bounds_it_lies() {
        let mut rng = 0x9e37_79b9_7f4a_7c15_u64;
        let random = (0..100_000).map(|_| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            rng >> (20 + rng % 44)
        });
        for us in (0..200_000).chain(random).chain([u64::MAX]) {
            let bucket = bucket(us);
            let ns = u128::from(us) * 1000;
            assert!(bucket == 0 || u128::from(bound_ns(bucket - 1)) < ns, "{us} in {bucket}");
            assert!(bucket == LAST || ns <= u128::from(bound_ns(bucket)), "{us} in {bucket}");
        }
    }

    #[test]
    fn bounds_rise_by_a_half_or_a_third_to_a_minute() {
        let ms: [u64; 10] = core::array::from_fn(|at| bound_ns(8 + at) / 1000);
        assert_eq!(ms, [1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000, 16_000, 24_000]);
        assert_eq!(bound_ns(LAST - 1), 65_536_000_000);
        assert_eq!(bound_ns(LAST), bound_ns(LAST - 1));
        assert!((0..LAST - 1).all(|at| bound_ns(at) < bound_ns(at + 1)));
    }

    #[test]
    fn quantiles_are_as_near_as_the_buckets_are_narrow() {
        assert_eq!(quantile_us(&[0; BUCKETS], 500), None);
        let mut counts = [0; BUCKETS];
        for us in 1..=100_000 {
            counts[bucket(us)] += 1;
        }
        for (permille, exact) in [(1, 100_u64), (500, 50_000), (900, 90_000), (990, 99_000)] {
            let got = quantile_us(&counts, permille).unwrap();
            assert!(got.abs_diff(exact) * 3 <= exact, "{permille}: {got} for {exact}");
        }
        counts = [0; BUCKETS];
        counts[bucket(u64::MAX)] = 1;
        assert_eq!(quantile_us(&counts, 990), Some(65_536_000));
        counts[bucket(3_000)] = u64::MAX;
        assert_eq!(quantile_us(&counts, 1000), Some(65_536_000));
        assert!((2_000..=3_000).contains(&quantile_us(&counts, 500).unwrap()));
    }
}
