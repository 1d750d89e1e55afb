//! Vips on a host without eBPF: those that say so are served by listeners of this process's workers.

use tracing::warn;

use crate::config::Model;
use crate::kernel;

/// The model with a listener in the place of every vip that has one to fall back on. Vips that have none
/// stay: nothing can serve them.
pub fn without_ebpf(mut model: Model) -> Model {
    let (kept, fallen): (Vec<_>, Vec<_>) =
        model.vips.into_iter().partition(|vip| vip.fallback.is_none());
    model.vips = kept;
    model.listeners.extend(fallen.into_iter().filter_map(|vip| vip.fallback).map(|of| *of));
    model
}

/// Whether the packet programs can't be had here at all. Pins that another version left are no reason to do
/// without them: the error says what to do.
pub fn is_absence(error: &kernel::Error) -> bool {
    !matches!(error, kernel::Error::Layout { .. } | kernel::Error::Schema { .. })
}

/// Says once which vips are served otherwise.
pub fn tell(before: &Model, reason: &kernel::Error) {
    let fallen = before.vips.iter().filter(|vip| vip.fallback.is_some());
    let names: Vec<&str> = fallen.map(|vip| &*vip.name).collect();
    if !names.is_empty() {
        warn!(
            vips = names.join(", "),
            %reason,
            "no eBPF: these vips are served by workers, from this host's address, without a guard"
        );
    }
}
