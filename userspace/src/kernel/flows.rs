//! What the flow table holds, by backend.
//!
//! A walk over the whole table: two system calls an entry, so it belongs on a thread of its own
//! (measured in the L4 tests: some milliseconds for thousands of flows), and only when somebody asks.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, MapData};
use steerage_common::abi::{Nat, NatKey};
use steerage_common::life::Life;
use steerage_common::slot::Slot;
use zerocopy::FromBytes as _;

use super::{Error, loader};

type NatMap = BpfHashMap<MapData, [u8; size_of::<NatKey>()], [u8; size_of::<Nat>()]>;

/// The flow table, apart from the programs: it can be walked beside them.
#[derive(Debug)]
pub struct Flows(NatMap);

impl Flows {
    /// The table of an instance.
    ///
    /// # Errors
    /// If it is not pinned, or the kernel refuses.
    pub fn open(instance_dir: &std::path::Path) -> Result<Self, Error> {
        let path = loader::map_directory(instance_dir).join("NATS");
        let map = MapData::from_pin(path).map_err(Error::map("NATS"))?;
        let map = aya::maps::Map::LruHashMap(map);
        NatMap::try_from(map).map(Self).map_err(Error::map("NATS"))
    }

    /// Flows that are not over, by their backend's slot.
    #[must_use]
    pub fn live(&self) -> HashMap<Slot, u64> {
        let now_ns = crate::sys::monotonic().as_nanos() as u64;
        let mut flows = HashMap::new();
        // An entry that goes while the table is walked is no flow any more.
        for (key, value) in self.0.iter().flatten() {
            let (Ok(key), Ok(nat)) = (NatKey::read_from_bytes(&key), Nat::read_from_bytes(&value))
            else {
                continue;
            };
            let is_over = Life::from_raw(nat.life).is_over(now_ns, key.protocol);
            if let Some(slot) = Slot::new(nat.slot).filter(|_| !is_over) {
                *flows.entry(slot).or_default() += 1;
            }
        }
        flows
    }
}
