//! What is remembered of clients' addresses, never of more than a number of them.

use std::collections::HashMap;
use std::net::IpAddr;

/// Something of each address. When there is no room left, what is over is forgotten; while nothing is,
/// addresses that are not known find none.
#[derive(Debug)]
pub(crate) struct Addresses<T, const MOST: usize> {
    known: HashMap<IpAddr, T>,
}

impl<T, const MOST: usize> Default for Addresses<T, MOST> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<T: Copy, const MOST: usize> Addresses<T, MOST> {
    /// What is known of an address, `first` if nothing is; `None` if there is no room for it.
    pub(crate) fn of(
        &mut self,
        address: IpAddr,
        first: T,
        is_over: impl Fn(&T) -> bool,
    ) -> Option<&mut T> {
        if self.known.len() >= MOST && !self.known.contains_key(&address) {
            self.known.retain(|_, what| !is_over(what));
            if self.known.len() >= MOST {
                return None;
            }
        }
        Some(self.known.entry(address).or_insert(first))
    }

    /// Forgets an address.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        self.known.remove(&address);
    }

    /// How many are known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// What one of `workers` may allow or bear, of a number that is for all of them.
pub(crate) fn share(number: u32, workers: usize) -> u32 {
    number.div_ceil(u32::try_from(workers).unwrap_or(u32::MAX).max(1))
}
