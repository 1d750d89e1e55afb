//! How many connections one client address has at a listener, over all workers.
//!
//! The numbers are in the shared region, where every worker sees those of all others
//! ([`steerage_common::crowd`]): together they never take more than the limit, whoever dies, is replaced
//! or is started meanwhile. Addresses of IPv6 are counted by /64.
//!
//! An address that finds no place in this worker's table (65,536 of them, of other addresses that have
//! connections here at the time) is counted by this worker alone, up to its share of the limit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use steerage_common::crowd::{Client, Refusal};

use crate::region::Region;

/// The connections of all addresses at a listener.
#[derive(Debug)]
pub(crate) struct Crowd {
    region: Rc<Region>,
    worker: usize,
    /// The listener's identity.
    listener: u64,
    /// For one address; `None` for any number, and then none is counted.
    limit: Cell<Option<u32>>,
    /// What is counted here alone, and the limit for that.
    apart: RefCell<HashMap<IpAddr, u32>>,
    share: Cell<u32>,
}

/// A counted connection.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Rc<Crowd>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Shared(Client, usize),
    Apart(IpAddr),
}

impl Crowd {
    /// Nobody yet, and no limit, at the listener of this identity.
    pub(super) fn new(region: Rc<Region>, worker: usize, listener: u64) -> Self {
        let (limit, apart, share) = Default::default();
        Self { region, worker, listener, limit, apart, share }
    }

    /// Takes no more than `limit` connections of an address from now on, by all `workers` together; 0
    /// for any number. Connections from a time without a limit are not counted.
    pub(super) fn limit(&self, limit: u32, workers: usize) {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        self.limit.set((limit != 0).then_some(limit));
        self.share.set(limit.div_ceil(workers));
    }

    /// Takes a connection in, unless its address has as many as it may.
    ///
    /// # Errors
    /// If it has.
    pub(crate) fn admit(self: &Rc<Self>, address: IpAddr) -> Result<Option<Member>, Full> {
        let Some(limit) = self.limit.get() else { return Ok(None) };
        let client = self.region.client(self.listener, address);
        let place = match self.region.admit_client(self.worker, client, limit) {
            Ok(place) => Place::Shared(client, place),
            Err(Refusal::Full) => return Err(Full),
            Err(Refusal::NoPlace) => {
                let mut apart = self.apart.borrow_mut();
                let count = apart.entry(network(address)).or_default();
                if *count >= self.share.get() {
                    return Err(Full);
                }
                *count += 1;
                Place::Apart(network(address))
            }
        };
        Ok(Some(Member { crowd: self.clone(), place }))
    }
}

/// The address has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

impl Drop for Member {
    fn drop(&mut self) {
        let Crowd { region, worker, apart, .. } = &*self.crowd;
        match self.place {
            Place::Shared(client, place) => region.dismiss_client(*worker, client, place),
            Place::Apart(address) => {
                let mut apart = apart.borrow_mut();
                if let Some(count) = apart.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        apart.remove(&address);
                    }
                }
            }
        }
    }
}

/// What counts as one address: of IPv6 its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn region(workers: usize) -> Rc<Region> {
        let region = Region::in_memory(workers).unwrap();
        for line in 0..workers {
            region.worker(line).pid.store(std::process::id(), Ordering::Relaxed);
        }
        Rc::new(region)
    }

    #[test]
    fn each_address_has_its_own_count_over_all_workers_and_gets_its_places_back() {
        let region = region(2);
        let crowds = [0, 1].map(|worker| Rc::new(Crowd::new(region.clone(), worker, 1)));
        crowds.iter().for_each(|crowd| crowd.limit(3, 2));
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let places: Vec<_> = (0..3).map(|n| crowds[n % 2].admit(one).unwrap()).collect();
        assert!(crowds.iter().all(|crowd| crowd.admit(one).is_err()));
        let others = crowds[0].admit(other).unwrap();
        drop(places);
        let all: Vec<_> = (0..3).map(|_| crowds[1].admit(one).unwrap().unwrap()).collect();
        assert!(crowds[0].admit(one).is_err(), "wherever they are");
        drop((others, all));
        assert!(crowds[0].admit(one).is_ok());
    }

    #[test]
    fn who_finds_no_place_has_the_workers_share() {
        let crowd = Rc::new(Crowd::new(region(2), 0, 1));
        crowd.limit(3, 2);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut n = 0;
        let mut members = Vec::new();
        while crowd.apart.borrow().is_empty() {
            members.push(crowd.admit(address(n)).unwrap());
            n += 1;
        }
        let apart = address(n - 1);
        let second = crowd.admit(apart).unwrap();
        assert!(crowd.admit(apart).is_err(), "two of three, for one of two workers");
        drop(second);
        assert!(crowd.admit(apart).is_ok());
        drop(members);
        assert!(crowd.apart.borrow().is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let crowd = Rc::new(Crowd::new(region(1), 0, 1));
        assert!(crowd.admit(IpAddr::from([192, 0, 2, 1])).unwrap().is_none());
    }
}
