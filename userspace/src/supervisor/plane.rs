//! The kernel half of a running daemon, or what stands in for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use steerage_common::limits::SLOTS;
use tracing::warn;

use super::handover::Memory;
use super::{Error, fallback};
use crate::config::Model;
use crate::config::model::Vip;
use crate::kernel::{self, Kernel};
use crate::region::{Fds, Region, figures};

/// Where the shared words live.
#[derive(Debug)]
pub struct Plane {
    /// The kernel half; `None` where eBPF is not to be had and every vip has something to fall back on.
    pub kernel: Option<Arc<Mutex<Kernel>>>,
    /// The region's descriptors, for workers.
    pub fds: Arc<Fds>,
    /// The region, mapped.
    pub region: Arc<Region>,
}

/// Where an instance keeps its pins.
#[must_use]
pub fn instance_dir(model: &Model) -> PathBuf {
    model.global.bpf_dir.join(&model.global.instance)
}

/// What the kernel half is to be for a configuration. `worker_lines` is how many workers have counters of
/// their own.
#[must_use]
pub fn options(model: &Model, worker_lines: usize) -> kernel::Options {
    kernel::Options {
        instance_dir: instance_dir(model),
        cells: (worker_lines * SLOTS) as u32,
        // Tables that no vip needs are kept as small as they can be.
        max_flows: if model.has_l4() { model.global.max_flows } else { 1 },
        max_sources: if model.has_l4() { model.global.max_sources } else { 1 },
        log_level: model.global.log.level,
    }
}

impl Plane {
    /// Loads the kernel half, or makes a region in memory if there is none to be had and every vip has
    /// something to fall back on. `worker_lines` is how many workers have counters of their own. `memory`
    /// is what of a former daemon's region is not in the kernel.
    ///
    /// # Errors
    /// If a vip needs eBPF and there is none, or the region can't be mapped.
    pub fn open(model: &Model, worker_lines: usize, memory: Option<Memory>) -> Result<Self, Error> {
        let (kernel, fds) = match Kernel::load(&options(model, worker_lines)) {
            Ok(kernel) => {
                let figures = match memory {
                    Some(Memory::Figures(figures)) => figures,
                    _ => figures::memory(worker_lines).map_err(Error::Region)?,
                };
                let fds = kernel.region_fds(figures)?;
                (Some(kernel), fds)
            }
            Err(source) => {
                let is_absent = fallback::is_absence(&source);
                let needs_it = |vip: &&Vip| vip.fallback.is_none() || !is_absent;
                if let Some(vip) = model.vips.iter().find(needs_it) {
                    return Err(Error::Kernel { vip: vip.name.clone(), source });
                }
                fallback::tell(model, &source);
                for listener in model.listeners.iter().filter(|l| l.interface.is_some()) {
                    warn!(listener = listener.name, "no eBPF: nothing guards its addresses");
                }
                warn!(
                    reason = %source,
                    "no eBPF: health is shared by plain memory and ends with the daemon, and \
                     connections are spread over the workers by hash"
                );
                let fds = match memory {
                    Some(Memory::Whole(fds)) => fds,
                    _ => Fds::in_memory(worker_lines).map_err(Error::Region)?,
                };
                (None, fds)
            }
        };
        let region = Region::map(&fds, worker_lines).map_err(Error::Region)?;
        let kernel = kernel.map(|kernel| Arc::new(Mutex::new(kernel)));
        Ok(Self { kernel, fds: Arc::new(fds), region: Arc::new(region) })
    }
}
