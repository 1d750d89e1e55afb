//! What the flow tables hold.
//!
//! A walk over a whole table: two system calls an entry, so it belongs on a thread of its own
//! (measured in the L4 tests: some milliseconds for thousands of flows), and only when somebody asks.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use steerage_common::abi::{Flow, FlowKey, Nat, NatKey};
use steerage_common::life::{IdleLimits, Life};
use steerage_common::slot::Slot;
use zerocopy::FromBytes as _;

use super::{Error, loader};

type NatMap = BpfHashMap<MapData, [u8; size_of::<NatKey>()], [u8; size_of::<Nat>()]>;

pub(super) type FlowMap = BpfHashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<Flow>()]>;

/// The flows whose backend the ring does not tell, apart from the programs.
#[derive(Debug)]
pub struct Remembered(FlowMap);

impl Remembered {
    /// The table of an instance.
    ///
    /// # Errors
    /// If it is not pinned, or the kernel refuses.
    pub fn open(instance_dir: &std::path::Path) -> Result<Self, Error> {
        loader::open(instance_dir, "FLOWS", Map::LruHashMap).map(Self)
    }

    /// Adds those of these vips (by `abi::Vip::generation`) that are not over by these limits to the
    /// counts of their backends' slots.
    pub fn count(&self, vips: &[u32], idle: &IdleLimits, counts: &mut HashMap<Slot, u64>) {
        let now_ns = crate::sys::monotonic().as_nanos() as u64;
        let of_vips = self.entries().filter(|(key, _)| vips.contains(&key.vip_generation));
        for (_, flow) in of_vips.filter(|(_, flow)| is_active(flow, now_ns, idle)) {
            if let Some(slot) = Slot::new(flow.slot) {
                *counts.entry(slot).or_default() += 1;
            }
        }
    }

    /// How many there are, over or not.
    #[must_use]
    pub fn all(&self) -> usize {
        self.0.keys().flatten().count()
    }

    /// The flows that are not over by these limits.
    pub fn active(&self, now_ns: u64, idle: &IdleLimits) -> impl Iterator<Item = Flow> {
        let entries = self.entries().map(|(_, flow)| flow);
        entries.filter(move |flow| is_active(flow, now_ns, idle))
    }

    fn entries(&self) -> impl Iterator<Item = (FlowKey, Flow)> {
        // An entry that goes while the table is walked is no flow any more.
        self.0.iter().flatten().filter_map(|(key, flow)| {
            Some((FlowKey::read_from_bytes(&key).ok()?, Flow::read_from_bytes(&flow).ok()?))
        })
    }
}

fn is_active(flow: &Flow, now_ns: u64, idle: &IdleLimits) -> bool {
    !Life::from_raw(flow.life).is_over_by(now_ns, flow.protocol, idle)
}

/// The table of `nat`, apart from the programs: it can be walked beside them.
#[derive(Debug)]
pub struct Flows(NatMap);

impl Flows {
    /// The table of an instance.
    ///
    /// # Errors
    /// If it is not pinned, or the kernel refuses.
    pub fn open(instance_dir: &std::path::Path) -> Result<Self, Error> {
        loader::open(instance_dir, "NATS", Map::LruHashMap).map(Self)
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
