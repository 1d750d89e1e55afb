//! The programs' counters, summed over the CPUs.

use std::iter::Sum;

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use steerage_common::abi::{Reason, Traffic};
use steerage_common::slot::Slot;
use zerocopy::FromBytes as _;

use super::{Error, Kernel};

const TRAFFIC_BYTES: usize = size_of::<Traffic>();
pub(super) type TrafficMap = PerCpuArray<MapData, [u8; TRAFFIC_BYTES]>;

impl Kernel {
    /// What went through a vip.
    ///
    /// # Errors
    /// If there is no such vip, or the kernel refuses.
    pub fn vip_traffic(&self, index: u16) -> Result<Traffic, Error> {
        traffic(&self.vip_counters, index.into(), "VIP_COUNTERS")
    }

    /// What went to a backend and came from it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn backend_traffic(&self, slot: Slot) -> Result<Traffic, Error> {
        traffic(&self.backend_counters, slot.raw().into(), "BACKEND_COUNTERS")
    }

    /// Makes what went to a backend and came from it nothing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn clear_backend_traffic(&mut self, slot: Slot) -> Result<(), Error> {
        let failed = Error::map("BACKEND_COUNTERS");
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Error::io("counting CPUs")(error))?;
        let zeros = PerCpuValues::try_from(vec![[0; TRAFFIC_BYTES]; cpus])
            .map_err(Error::io("counting CPUs"))?;
        self.backend_counters.set(slot.raw().into(), zeros, 0).map_err(failed)
    }

    /// Packets by [`Reason`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reasons(&self) -> Result<[u64; Reason::ALL.len()], Error> {
        let mut counts = [0; Reason::ALL.len()];
        for (count, reason) in counts.iter_mut().zip(Reason::ALL) {
            let values = self.reason_counters.get(&(reason as u32), 0);
            *count = values.map_err(Error::map("REASON_COUNTERS"))?.iter().sum();
        }
        Ok(counts)
    }
}

fn traffic(map: &TrafficMap, index: u32, name: &'static str) -> Result<Traffic, Error> {
    let values = map.get(&index, 0).map_err(Error::map(name))?;
    let lines = values.iter().filter_map(|bytes| Traffic::read_from_bytes(bytes).ok());
    Ok(lines.map(Line).sum::<Line>().0)
}

/// [`Traffic`], which `common` leaves without arithmetic.
struct Line(Traffic);

impl Sum for Line {
    fn sum<I: Iterator<Item = Self>>(lines: I) -> Self {
        lines.fold(Self(Traffic::default()), |Self(sum), Self(line)| {
            Self(Traffic {
                in_packets: sum.in_packets + line.in_packets,
                in_bytes: sum.in_bytes + line.in_bytes,
                out_packets: sum.out_packets + line.out_packets,
                out_bytes: sum.out_bytes + line.out_bytes,
                flows: sum.flows + line.flows,
                remembered: sum.remembered + line.remembered,
                misses: sum.misses + line.misses,
            })
        })
    }
}
