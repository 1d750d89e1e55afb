//! Bodies of any size that need no memory, and the digest that says whether they arrived whole.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::http::BLOCK;

/// A body as a run of blocks: pseudo-random bytes that no step of the way can compress or guess,
/// each block with its number, so that lost, doubled and swapped blocks change the digest.
pub struct Pattern {
    block: Vec<u8>,
    number: u64,
    left: u64,
}

impl Pattern {
    /// A body of this length.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        Self { block, number: 0, left: length }
    }

    /// The next piece of it, or `None` at its end.
    pub fn next_piece(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.left).unwrap_or(BLOCK).min(BLOCK);
        if length == 0 {
            return None;
        }
        self.block[..8].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        self.left -= length as u64;
        Some(&self.block[..length])
    }

    /// The digest of a body of this length.
    #[must_use]
    pub fn digest(length: u64) -> String {
        let mut pattern = Self::new(length);
        let mut sum = Sum::default();
        while let Some(piece) = pattern.next_piece() {
            sum.add(piece);
        }
        sum.hex()
    }
}

/// A SHA-256 under way.
#[derive(Default)]
pub struct Sum(Sha256);

impl Sum {
    /// Takes in the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in hex.
    #[must_use]
    pub fn hex(self) -> String {
        self.0.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha256() {
        let mut sum = Sum::default();
        sum.add(b"abc");
        assert_eq!(sum.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_body_has_the_length_that_was_asked_for() {
        let mut pattern = Pattern::new(BLOCK as u64 + 5);
        assert_eq!(pattern.next_piece().map(<[u8]>::len), Some(BLOCK));
        assert_eq!(pattern.next_piece().map(<[u8]>::len), Some(5));
        assert!(pattern.next_piece().is_none());
    }
}
