//! What another configuration needs to be there before anything of it is in force, beside sockets and slots:
//! tables for the first flows, another address for metrics.

use std::net::TcpListener;
use std::sync::{Arc, PoisonError};

use tracing::info;

use super::front::bind_metrics;
use super::steward::Steward;
use super::{Error, network, plane};
use crate::config::Model;
use crate::kernel::Kernel;

impl Steward {
    /// Makes the tables that the first vip, or the first guarded listener, needs.
    ///
    /// The programs are loaded anew with tables of the configured size. All other tables are those
    /// that are pinned, which workers have and sockets are steered by; no link has the former
    /// programs, because there was no vip.
    pub(super) fn prepare_l4(&mut self, model: &Model) -> Result<(), Error> {
        network::check_links(model)?;
        if !model.has_l4() {
            return Ok(());
        }
        let Some(kernel) = &self.view.kernel else {
            // Workers have a region in plain memory.
            return no_kernel(&self.view.in_force().model, model);
        };
        if !self.has_flow_tables {
            let options = plane::options(model, self.view.region.cell_workers());
            let loaded = Kernel::load(&options)?;
            *kernel.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
            self.has_flow_tables = true;
            self.loaded.send_replace(());
            info!(max_flows = model.global.max_flows, "tables for flows made");
        }
        Ok(())
    }
}

/// What another model asks for that a daemon without eBPF can't give. A listener that was to be guarded at
/// the start already is served without, which was said then.
fn no_kernel(now: &Model, model: &Model) -> Result<(), Error> {
    if let Some(vip) = model.vips.first() {
        return Err(Error::FirstVip { vip: vip.name.clone() });
    }
    let mut guarded = model.listeners.iter().filter(|listener| listener.interface.is_some());
    match guarded.find(|listener| {
        now.listeners.iter().all(|known| known.name != listener.name || known.interface.is_none())
    }) {
        Some(listener) => Err(Error::FirstGuard { listener: listener.name.clone() }),
        None => Ok(()),
    }
}

/// The listener of another metrics address; `None` if it stays as it is.
pub fn next_metrics(now: &Model, next: &Model) -> Result<Option<Option<Arc<TcpListener>>>, Error> {
    if now.global.metrics == next.global.metrics {
        return Ok(None);
    }
    let listener = next.global.metrics.map(bind_metrics).transpose()?;
    Ok(Some(listener.map(Arc::new)))
}
