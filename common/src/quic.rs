//! Where a QUIC packet says which server it is for (draft-ietf-quic-load-balancers-21).
//!
//! A server that is told its *server id* puts it into the connection ids that it gives out: a first octet
//! whose three highest bits name a configuration (the *config rotation codepoint*), then the server id in
//! plain text, then what the server likes. A client's packets carry such an id from the server's first answer
//! on, whatever address they come from. Before that, and wherever no id is known, packets go by hash.
//!
//! Ids of a client's own choice (of its first packets) may look like one that is known: all packets that
//! carry it go to the same server then, which is as good as any.

/// Longest server id, in bytes (section 3.3 of the draft).
pub const SERVER_ID_BYTES_MAX: usize = 15;

/// Configurations that connection ids can name; the last codepoint says "by address".
pub const CONFIGS: usize = 7;

/// Where the connection id lies in a packet with this first byte: after it, or, in a long header, after
/// version and length (RFC 8999).
#[inline(always)]
#[must_use]
pub const fn connection_id_at(first: u8) -> usize {
    if first & 0x80 == 0 { 1 } else { 6 }
}

/// Whether the packet says how long its connection id is, just before it.
#[inline(always)]
#[must_use]
pub const fn has_length(first: u8) -> bool {
    first & 0x80 != 0
}

/// Lengths of server ids by configuration, in four bits each; 0 for one that is not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths(pub u32);

impl Lengths {
    /// These lengths, of the first configurations.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let place = |(config, bytes): (usize, &u8)| u32::from(*bytes & 0xf) << (4 * config);
        Self(bytes.iter().take(CONFIGS).enumerate().map(place).sum())
    }

    /// The length of the server id in a connection id with this first octet; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn in_id(self, first_octet: u8) -> u32 {
        self.0 >> (4 * (first_octet >> 5) as u32) & 0xf
    }
}

/// The first `bytes` of 16 bytes of memory, read as two words, with zeros after them.
#[inline(always)]
#[must_use]
pub const fn prefix(words: [u64; 2], bytes: u32) -> [u64; 2] {
    [words[0] & low_bytes(bytes), words[1] & low_bytes(bytes.saturating_sub(8))]
}

/// A word whose first `bytes` in memory are ones.
#[inline(always)]
const fn low_bytes(bytes: u32) -> u64 {
    u64::from_le(if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_configuration_has_its_length_and_the_last_codepoint_none() {
        let lengths = Lengths::of(&[4, 0, 15, 1, 0, 0, 8]);
        let found: Vec<u32> = (0..8).map(|config| lengths.in_id(config << 5 | 0x1f)).collect();
        assert_eq!(found, [4, 0, 15, 1, 0, 0, 8, 0]);
        assert_eq!(Lengths::of(&[9; 8]).in_id(0xff), 0, "by address");
    }

    #[test]
    fn a_prefix_has_its_bytes_and_no_others() {
        let bytes: [u8; 16] = core::array::from_fn(|at| at as u8 + 1);
        let words = [0, 8].map(|at| u64::from_ne_bytes(*bytes[at..].first_chunk().unwrap()));
        for length in 0..=SERVER_ID_BYTES_MAX {
            let found = prefix(words, length as u32).map(u64::to_ne_bytes).concat();
            assert_eq!(found[..length], bytes[..length]);
            assert!(found[length..].iter().all(|byte| *byte == 0), "{length}");
        }
    }
}
