//! How many connections one client address has at a listener, in this worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// The connections of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// For one address; `None` for any number, and then none is counted.
    limit: Cell<Option<u32>>,
    /// Addresses with connections.
    connections: RefCell<HashMap<IpAddr, u32>>,
}

/// A counted connection.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Rc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    /// Takes no more than `limit` connections of an address from now on, by all `workers` together,
    /// split evenly; 0 for any number. Connections from a time without a limit are not counted.
    pub(super) fn limit(&self, limit: u32, workers: usize) {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        self.limit.set((limit != 0).then(|| limit.div_ceil(workers)));
    }

    /// Takes a connection in, unless its address has as many as it may.
    ///
    /// # Errors
    /// If it has.
    pub(crate) fn admit(self: &Rc<Self>, address: IpAddr) -> Result<Option<Member>, Full> {
        let Some(limit) = self.limit.get() else { return Ok(None) };
        let mut connections = self.connections.borrow_mut();
        let count = connections.entry(address).or_default();
        if *count >= limit {
            return Err(Full);
        }
        *count += 1;
        Ok(Some(Member { crowd: self.clone(), address }))
    }
}

/// The address has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

impl Drop for Member {
    fn drop(&mut self) {
        let mut connections = self.crowd.connections.borrow_mut();
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_gets_its_places_back() {
        let crowd = Rc::new(Crowd::default());
        crowd.limit(3, 2);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = crowd.admit(one).unwrap();
        let second = crowd.admit(one).unwrap();
        assert!(crowd.admit(one).is_err());
        let third = crowd.admit(other).unwrap();
        drop(first);
        assert!(crowd.admit(one).unwrap().is_some());
        drop((second, third));
        assert!(crowd.connections.borrow().is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let crowd = Rc::new(Crowd::default());
        assert!(crowd.admit(IpAddr::from([192, 0, 2, 1])).unwrap().is_none());
    }
}
