//! SipHash-1-3 over 64-bit words, and the mixer behind it.
//!
//! Keyed, so that nobody who does not know `global.hash_seed` can aim flows at one backend
//! (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; the 1-3 variant is what the
//! standard library's maps use). Words only: the kernel side hashes a 5-tuple that it holds in
//! registers, and needs no byte tail.

use crate::abi::FAMILY_IPV4;

/// Hashes `words` under `key`.
#[inline(always)]
#[must_use]
pub const fn sip13(key: [u64; 2], words: &[u64]) -> u64 {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i < words.len() {
        state = absorb(state, words[i]);
        i += 1;
    }
    state = absorb(state, (words.len() as u64 * 8) << 56);
    state[2] ^= 0xff;
    state = round(round(round(state)));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

/// Hashes bytes under `key`: the length, then the bytes in words, the last one filled with zeros.
#[must_use]
pub fn sip13_bytes(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut hash = sip13(key, &[bytes.len() as u64]);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = sip13(key, &[hash, u64::from_le_bytes(word)]);
    }
    hash
}

/// The key of the packet hash that `seed` stands for.
#[must_use]
pub fn key_from_seed(seed: &[u8]) -> [u64; 2] {
    [sip13_bytes([1, 0], seed), sip13_bytes([2, 0], seed)]
}

/// A bijective mixer (the finalizer of MurmurHash3), for values that are keyed already.
#[inline(always)]
#[must_use]
pub const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// The hash of a flow: where it is at home, on every host of a group. Addresses are the sixteen bytes that
/// the tables hold, as two big-endian words; ports are numbers.
#[inline(always)]
#[must_use]
pub const fn flow_hash(
    key: [u64; 2],
    family: u8,
    client: [u64; 2],
    vip: [u64; 2],
    (client_port, vip_port): (u16, u16),
    protocol: u8,
) -> u64 {
    let ports = (client_port as u64) << 32 | (vip_port as u64) << 16 | protocol as u64;
    if family == FAMILY_IPV4 {
        sip13(key, &[client[0] | vip[0] >> 32, ports])
    } else {
        sip13(key, &[client[0], client[1], vip[0], vip[1], ports])
    }
}

#[inline(always)]
const fn absorb(mut state: [u64; 4], word: u64) -> [u64; 4] {
    state[3] ^= word;
    state = round(state);
    state[0] ^= word;
    state
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(deprecated)]
    fn whole_words_hash_as_siphash_does() {
        // The standard library's deprecated `SipHasher` is SipHash-2-4; its `DefaultHasher` is
        // SipHash-1-3 with a zero key. `write` of whole words has no tail but the length byte.
        use std::hash::Hasher;
        for words in [&[][..], &[1], &[1, 2], &[u64::MAX, 0, 42]] {
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            for word in words {
                reference.write(&word.to_le_bytes());
            }
            assert_eq!(sip13([0, 0], words), reference.finish());
        }
    }

    #[test]
    fn the_seed_decides_the_key() {
        assert_ne!(key_from_seed(b"a"), key_from_seed(b"b"));
        assert_ne!(key_from_seed(b"a"), key_from_seed(b"a\0"));
        assert_eq!(key_from_seed(b"group-1"), key_from_seed(b"group-1"));
    }
}
