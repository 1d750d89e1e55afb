//! How many connections client addresses have, over all workers ([`steerage_common::crowd`]).
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use steerage_common::abi::{self, CLIENT_BUCKETS, CLIENT_PLACES};
use steerage_common::crowd::{self, Buckets, Client, Refusal};

use super::Region;
use super::segment::Shareable;

/// [`abi::ClientBucket`].
#[derive(Debug)]
#[repr(C)]
pub struct Bucket {
    places: [AtomicU64; CLIENT_PLACES],
}

// SAFETY: atomics only; any bits are valid.
unsafe impl Shareable for Bucket {}

const _: () = assert!(size_of::<Bucket>() == size_of::<abi::ClientBucket>());

impl Region {
    /// A client address, as all workers know it, at the listener of this identity.
    #[must_use]
    pub fn client(&self, listener: u64, address: std::net::IpAddr) -> Client {
        let [one, other] = &self.control().hash_key;
        let key = [one.load(Ordering::Relaxed), other.load(Ordering::Relaxed)];
        Client::new(key, listener, address)
    }

    /// Counts a connection of `client` in at a worker, unless all of them have `limit`; gives where.
    ///
    /// # Errors
    /// If it is not counted.
    ///
    /// # Panics
    /// If there is no table for `worker`.
    pub fn admit_client(
        &self,
        worker: usize,
        client: Client,
        limit: u32,
    ) -> Result<usize, Refusal> {
        let others = || {
            let lines = 0..self.cell_workers();
            lines
                .filter(|line| *line != worker && self.has_process(*line))
                .map(|line| self.buckets(line, client))
        };
        crowd::admit(client, limit, worker, &self.buckets(worker, client), others)
    }

    /// Counts a connection out.
    ///
    /// # Panics
    /// If there is no table for `worker`.
    pub fn dismiss_client(&self, worker: usize, client: Client, place: usize) {
        crowd::leave(client, place, &self.buckets(worker, client));
    }

    /// Forgets the connections of a worker that is no more.
    ///
    /// # Panics
    /// If there is no table for `worker`.
    pub fn clear_clients(&self, worker: usize) {
        for bucket in 0..CLIENT_BUCKETS {
            for place in &self.clients.get(worker * CLIENT_BUCKETS + bucket).places {
                // Pages that nobody has written to stay as they are.
                if place.load(Ordering::Relaxed) != 0 {
                    place.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    fn has_process(&self, line: usize) -> bool {
        self.worker(line).pid.load(Ordering::Relaxed) != 0
    }

    fn buckets(&self, worker: usize, client: Client) -> Buckets<'_, AtomicU64> {
        let bucket = |at| &self.clients.get(worker * CLIENT_BUCKETS + at).places[..];
        Buckets(client.buckets().map(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_had_is_forgotten_with_its_line() {
        let region = Region::in_memory(3).unwrap();
        for line in 0..3 {
            region.worker(line).pid.store(std::process::id(), Ordering::Relaxed);
        }
        let client = region.client(1, [192, 0, 2, 1].into());
        let place = region.admit_client(0, client, 2).unwrap();
        region.admit_client(2, client, 2).unwrap();
        assert_eq!(region.admit_client(1, client, 2), Err(Refusal::Full));
        region.clear_clients(2);
        region.admit_client(1, client, 2).unwrap();
        assert_eq!(region.admit_client(2, client, 2), Err(Refusal::Full));
        region.dismiss_client(0, client, place);
        assert!(region.admit_client(2, client, 2).is_ok());
    }
}
