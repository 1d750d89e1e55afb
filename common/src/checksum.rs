//! Incremental Internet checksums (RFC 1624, equation 3): `HC' = ~(~HC + ~m + m')`.
//!
//! All values are 16-bit fields as they lie in the packet, read in any one byte order: one's
//! complement sums do not care which (RFC 1071, section 2).

/// A change to a checksum, collected over any number of fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the change of a 16-bit field.
    #[inline(always)]
    #[must_use]
    pub const fn change16(self, from: u16, to: u16) -> Self {
        Self(self.0 + !from as u64 + to as u64)
    }

    /// Adds the change of a 32-bit field.
    #[inline(always)]
    #[must_use]
    pub const fn change32(self, from: u32, to: u32) -> Self {
        Self(self.0 + !from as u64 + to as u64)
    }

    /// Adds the change of four fields of 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn change64(self, from: u64, to: u64) -> Self {
        self.change32(from as u32, to as u32).change32((from >> 32) as u32, (to >> 32) as u32)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The UDP checksum after the change: zero means "none" and stays so, and a sum that comes out
    /// as zero is sent as all ones (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// Folds a sum of 16- and 32-bit fields to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().map(|word| u64::from(*word)).sum())
    }

    proptest! {
        #[test]
        fn an_incremental_update_equals_a_full_sum(
            mut words in proptest::collection::vec(any::<u16>(), 4..40),
            at in 0usize..3,
            to in any::<u32>(),
        ) {
            let before = full(&words);
            let from = u32::from(words[at]) | u32::from(words[at + 1]) << 16;
            let delta = Delta::new().change32(from, to);
            words[at] = to as u16;
            words[at + 1] = (to >> 16) as u16;
            let (updated, expected) = (delta.apply(before), full(&words));
            // 0x0000 and 0xffff are the same number in one's complement.
            prop_assert!(updated == expected || (updated ^ expected) == 0xffff && (updated == 0 || expected == 0));
            prop_assert_eq!(fold(words.iter().map(|w| u64::from(*w)).sum::<u64>() + u64::from(updated)), 0xffff);
        }

        #[test]
        fn sixteen_bits_change_like_thirty_two(from in any::<u16>(), to in any::<u16>(), sum in any::<u16>()) {
            let narrow = Delta::new().change16(from, to).apply(sum);
            let wide = Delta::new().change32(u32::from(from), u32::from(to)).apply(sum);
            prop_assert_eq!(narrow, wide);
        }
    }

    #[test]
    fn udp_keeps_its_missing_checksum() {
        assert_eq!(Delta::new().change16(1, 2).apply_udp(0), 0);
        // A sum that comes out as zero is sent as all ones.
        assert_eq!(Delta::new().change16(0, 1).apply_udp(1), 0xffff);
    }
}
