//! Who sits where in the shared region: a pure function of the former seats and the configuration.
//!
//! A backend is known by service name, address and port; a service by its name. Whoever was there
//! before keeps slot and line, and with them health, pool and flows.

use std::collections::{HashMap, HashSet};

use steerage_common::limits::{SERVICES, SLOTS};
use steerage_common::slot::Slot;

use crate::config::Model;
use crate::service::identity::{backend_identity, service_identity};

/// The seats of one configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Seats {
    /// Parallel to the model's services: their lines.
    pub lines: Vec<u16>,
    /// Parallel to the model's services and their backends.
    pub slots: Vec<Vec<Slot>>,
    /// Slots whose backends are in the configuration no more.
    pub freed: Vec<Slot>,
}

/// Seats everybody.
///
/// `former_slots` are the identities at the slots before, `former_lines` those at the service lines.
/// `None` if there is no room: those who leave keep their slots for as long as they have work.
#[must_use]
pub fn seat(
    model: &Model,
    former_slots: &HashMap<Slot, u64>,
    former_lines: &HashMap<u16, u64>,
) -> Option<Seats> {
    let mut seats_by_identity: HashMap<u64, Slot> =
        former_slots.iter().map(|(slot, identity)| (*identity, *slot)).collect();
    let wanted: HashSet<u64> = model
        .services
        .iter()
        .flat_map(|service| {
            service.backends.iter().map(|b| backend_identity(&service.name, b.address))
        })
        .collect();
    let freed: Vec<Slot> =
        sorted(former_slots.iter().filter(|(_, id)| !wanted.contains(*id)).map(|(slot, _)| *slot));
    let fresh =
        (0..SLOTS as u16).filter_map(Slot::new).filter(|slot| !former_slots.contains_key(slot));
    let mut fresh = fresh.collect::<Vec<_>>().into_iter();
    let slots = model.services.iter().map(|service| {
        let seat = |backend: &crate::config::model::Backend| {
            let identity = backend_identity(&service.name, backend.address);
            seats_by_identity.remove(&identity).or_else(|| fresh.next())
        };
        service.backends.iter().map(seat).collect::<Option<Vec<Slot>>>()
    });
    let slots = slots.collect::<Option<_>>()?;
    Some(Seats { lines: lines(model, former_lines), slots, freed })
}

fn lines(model: &Model, former: &HashMap<u16, u64>) -> Vec<u16> {
    let by_identity: HashMap<u64, u16> = former.iter().map(|(line, id)| (*id, *line)).collect();
    let kept: Vec<Option<u16>> = model
        .services
        .iter()
        .map(|service| by_identity.get(&service_identity(&service.name)).copied())
        .collect();
    let taken: HashSet<u16> = kept.iter().flatten().copied().collect();
    // Lines that nobody ever had first: packets may still be at a ring of one who is gone.
    let unused = (0..SERVICES as u16).filter(|line| !former.contains_key(line));
    let gone =
        (0..SERVICES as u16).filter(|line| former.contains_key(line) && !taken.contains(line));
    let mut free = unused.chain(gone);
    kept.into_iter()
        .map(|line| {
            line.or_else(|| free.next()).expect("the configuration has at most SERVICES services")
        })
        .collect()
}

fn sorted(slots: impl Iterator<Item = Slot>) -> Vec<Slot> {
    let mut slots: Vec<Slot> = slots.collect();
    slots.sort_unstable();
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(services: &[(&str, &[&str])]) -> Model {
        let mut text = String::from(
            "[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"http\"\n",
        );
        text += &format!("[[listener.route]]\nservice = {:?}\n", services[0].0);
        for (name, backends) in services {
            text += &format!("[[service]]\nname = {name:?}\n");
            for backend in *backends {
                text += &format!("[[service.backend]]\naddress = {backend:?}\n");
            }
        }
        crate::config::parse(std::path::Path::new("test"), &text).unwrap()
    }

    fn identities(model: &Model, seats: &Seats) -> HashMap<Slot, u64> {
        let mut map = HashMap::new();
        for (service, slots) in model.services.iter().zip(&seats.slots) {
            for (backend, slot) in service.backends.iter().zip(slots) {
                assert_eq!(
                    map.insert(*slot, backend_identity(&service.name, backend.address)),
                    None
                );
            }
        }
        map
    }

    fn line_identities(model: &Model, seats: &Seats) -> HashMap<u16, u64> {
        let names = model.services.iter().map(|service| service_identity(&service.name));
        seats.lines.iter().copied().zip(names).collect()
    }

    #[test]
    fn who_stays_keeps_its_seat_and_who_comes_takes_a_fresh_one() {
        let before = model(&[("a", &["10.0.0.1:80", "10.0.0.2:80"]), ("b", &["10.0.0.1:80"])]);
        let first = seat(&before, &HashMap::new(), &HashMap::new()).unwrap();
        let (slots, lines) = (identities(&before, &first), line_identities(&before, &first));
        // Another order, one gone, one new.
        let after = model(&[("b", &["10.0.0.1:80", "10.0.0.9:80"]), ("a", &["10.0.0.2:80"])]);
        let second = seat(&after, &slots, &lines).unwrap();
        assert_eq!(second.slots[0][0], first.slots[1][0]);
        assert_eq!(second.slots[1][0], first.slots[0][1]);
        assert_eq!(second.freed, [first.slots[0][0]]);
        assert!(!slots.contains_key(&second.slots[0][1]), "a freed slot is not given at once");
        assert_eq!(second.lines, [first.lines[1], first.lines[0]]);
    }

    #[test]
    fn whoever_leaves_keeps_its_slot_even_if_there_is_no_other() {
        let model = model(&[("a", &["10.0.0.1:80"])]);
        let others = (0..SLOTS as u16).map(|slot| (Slot::new(slot).unwrap(), 7));
        assert_eq!(seat(&model, &others.clone().collect(), &HashMap::new()), None);
        let seats = seat(&model, &others.skip(1).collect(), &HashMap::new()).unwrap();
        assert_eq!(seats.slots, [[Slot::new(0).unwrap()]]);
    }

    #[test]
    fn one_address_in_two_services_has_two_seats() {
        let model = model(&[("a", &["10.0.0.1:80"]), ("b", &["10.0.0.1:80"])]);
        let seats = seat(&model, &HashMap::new(), &HashMap::new()).unwrap();
        assert_eq!(identities(&model, &seats).len(), 2);
    }
}
