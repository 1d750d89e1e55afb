//! What a service takes over from its former configuration: all that was learned or computed of backends
//! that stay.

use std::collections::HashMap;
use std::rc::Rc;

use super::consistent::Rings;
use super::ewma::Ewma;
use super::{Backend, Service, sticky};

/// The backends of a service, and where each of them stood before.
pub(super) struct Kept<'a> {
    former: Option<&'a Service>,
    backends: &'a [Backend],
    /// Parallel to `backends`.
    places: Vec<Option<usize>>,
}

impl<'a> Kept<'a> {
    pub(super) fn of(former: Option<&'a Service>, backends: &'a [Backend]) -> Self {
        let before = former.map_or(&[][..], |former| &former.backends);
        let known: HashMap<_, _> =
            before.iter().enumerate().map(|(place, backend)| (backend.tenant, place)).collect();
        let places = backends.iter().map(|backend| known.get(&backend.tenant).copied()).collect();
        Self { former, backends, places }
    }

    /// What `of` makes of the former service and the place of each backend in it.
    fn each<T>(
        &self,
        of: impl Fn(&Service, usize) -> Option<T>,
        or_else: impl Fn(&Backend) -> T,
    ) -> Vec<T> {
        let places = self.backends.iter().zip(&self.places);
        let kept = places.map(|(backend, place)| {
            let kept = self.former.zip(*place).and_then(|(former, place)| of(former, place));
            kept.unwrap_or_else(|| or_else(backend))
        });
        kept.collect()
    }

    pub(super) fn latencies(&self) -> Vec<Ewma> {
        self.each(|former, place| Some(former.latencies[place].clone()), |_| Ewma::default())
    }

    /// The key never changes while a worker lives.
    pub(super) fn tokens(&self, key: [u64; 2]) -> Vec<u64> {
        let of = |former: &Service, place: usize| former.tokens.get(place).copied();
        self.each(of, |backend| sticky::token(key, backend.identity))
    }

    /// The former ring, if it is the same.
    pub(super) fn ring(&self, key: [u64; 2]) -> Rc<Rings> {
        let before = self.former.map_or(&[][..], |former| &former.backends);
        let member = |backend: &Backend| (backend.tenant, backend.weight, backend.tier);
        let is_same = before.iter().map(member).eq(self.backends.iter().map(member));
        let former = self.former.filter(|_| is_same).and_then(|former| former.ring.clone());
        former.unwrap_or_else(|| Rc::new(Rings::new(self.backends, key)))
    }
}
