//! The token by which a client comes back to its backend.
//!
//! A keyed hash of the backend's identity: it says nothing about addresses, nobody who does not know the
//! key (`global.hash_seed`) can make one up, and it is the same on every host of a group, before and
//! after a reload, restart or upgrade.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use steerage_common::health::State;

use super::{Criteria, Service};

/// The token of a backend.
pub(super) fn token(key: [u64; 2], identity: u64) -> u64 {
    let key = [key[0].to_le_bytes(), key[1].to_le_bytes()].concat();
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return 0 };
    mac.update(b"sticky");
    mac.update(&identity.to_le_bytes());
    let bytes = mac.finalize().into_bytes();
    u64::from_be_bytes(std::array::from_fn(|at| bytes[at]))
}

impl Service {
    /// The backend's token, as the cookie holds it.
    #[must_use]
    pub fn token(&self, backend: usize) -> String {
        format!("{:016x}", self.tokens[backend])
    }

    /// The backend that a cookie's value names.
    #[must_use]
    pub fn of_token(&self, value: &[u8]) -> Option<usize> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 16)?;
        let token = u64::from_str_radix(text, 16).ok()?;
        self.tokens.iter().position(|known| *known == token)
    }

    /// Whether a client may go on with its backend: one that drains keeps its clients.
    pub(super) fn may_stick(&self, criteria: &Criteria<'_>, backend: usize) -> bool {
        if self.is_excluded(criteria, backend) {
            return false;
        }
        let word = self.region.word(self.backends[backend].tenant.slot());
        match word.state() {
            State::Up => self.backends[backend].weight > 0,
            State::Draining => word.keeps_flows(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_depend_on_key_and_backend_alone() {
        assert_eq!(token([1, 2], 3), token([1, 2], 3));
        assert_ne!(token([1, 2], 3), token([1, 2], 4));
        assert_ne!(token([1, 2], 3), token([2, 2], 3));
    }
}
