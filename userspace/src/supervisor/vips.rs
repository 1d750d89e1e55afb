//! From the vips of a configuration to the kernel's tables.

use std::collections::{BTreeSet, HashMap};

use steerage_common::abi;
use steerage_common::health::EPOCH_MASK;
use steerage_common::limits::VIPS;
use steerage_common::quic::Lengths;
use steerage_common::slot::Slot;
use tracing::info;

use super::Error;
use super::guards;
use super::slots::Seats;
use crate::config::Model;
use crate::config::model::{Backend, Encapsulation, FlowTable, NoBackend, Vip, table_address};
use crate::kernel::Kernel;
use crate::region::{Region, Tenant};

/// Puts the model's vips into the kernel's table and takes out the others. A vip that stays keeps
/// its index and generation, and so its flows and counters.
///
/// # Errors
/// If the kernel refuses.
pub fn write(
    model: &Model,
    region: &Region,
    seats: &Seats,
    tenants: &[Vec<Tenant>],
    generation: u64,
    kernel: &mut Kernel,
) -> Result<Vec<u16>, Error> {
    let former: HashMap<abi::VipKey, abi::Vip> = kernel.vips()?.into_iter().collect();
    let wanted: Vec<abi::VipKey> = model.vips.iter().map(vip_key).collect();
    for key in former.keys().filter(|key| !wanted.contains(key)) {
        kernel.remove_vip(key)?;
    }
    let taken: BTreeSet<u16> =
        wanted.iter().filter_map(|key| former.get(key)).map(|vip| vip.index).collect();
    let mut free = (0..VIPS as u16).filter(|index| !taken.contains(index));
    let guards = guards::set(model, kernel)?;
    let mut indices = Vec::with_capacity(wanted.len());
    let mut ids = Vec::new();
    for ((vip, key), guard) in model.vips.iter().zip(&wanted).zip(&guards) {
        let service = seats.lines[vip.service];
        let kept = former.get(key).filter(|former| former.service == service);
        let kept = kept.filter(|former| former.mode == vip.mode.number());
        let index = former
            .get(key)
            .map(|former| former.index)
            .or_else(|| free.next())
            .expect("the configuration has at most VIPS vips");
        let value = abi::Vip {
            generation: kept
                .map_or_else(|| abi::vip_generation(generation, index), |kept| kept.generation),
            index,
            service,
            mode: vip.mode.number(),
            flags: flags(vip),
            guard: *guard,
            server_id_lengths: vip
                .quic
                .as_ref()
                .map_or(0, |quic| Lengths::of(&quic.server_id_bytes).0),
        };
        ids.extend(server_ids(model, vip, value.generation, tenants));
        kernel.set_vip(key, &value)?;
        indices.push(value.index);
        info!(vip = vip.name, address = %vip.address, index = value.index, "vip in force");
    }
    // A backend that leaves keeps its connections until it is idle, wherever their clients go.
    let is_held = |id: &abi::ServerId| {
        let epoch = Slot::new(id.slot).map(|slot| region.word(slot).epoch());
        epoch == Some(id.epoch & EPOCH_MASK)
    };
    kernel.set_server_ids(&ids, is_held)?;
    kernel.set_vip_filter(&wanted)?;
    kernel.keep_guards(&guards)?;
    Ok(indices)
}

fn flags(vip: &Vip) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(vip.flow_table == FlowTable::Always, abi::VIP_REMEMBERS)
        | flag(vip.encapsulation == Encapsulation::Gue, abi::VIP_GUE)
        | flag(vip.address.port() == 0, abi::VIP_ALL_PORTS)
        | flag(vip.no_backend == NoBackend::Pass, abi::VIP_PASSES)
}

fn vip_key(vip: &Vip) -> abi::VipKey {
    let (address, family) = table_address(vip.address.ip());
    abi::VipKey {
        address,
        port_be: vip.address.port().to_be(),
        protocol: vip.protocol.number(),
        family,
    }
}

/// What the connection ids of a QUIC vip say of its service's backends.
fn server_ids(
    model: &Model,
    vip: &Vip,
    generation: u32,
    tenants: &[Vec<Tenant>],
) -> Vec<(abi::ServerIdKey, abi::ServerId)> {
    if vip.quic.is_none() {
        return Vec::new();
    }
    let backends = model.services[vip.service].backends.iter().zip(&tenants[vip.service]);
    let of_backend = |(backend, tenant): (&Backend, &Tenant)| {
        let value = abi::ServerId { epoch: tenant.epoch, slot: tenant.slot().raw(), reserved: 0 };
        backend.server_ids.into_iter().flatten().map(move |name| {
            let mut id = [0; 16];
            id[..name.bytes().len()].copy_from_slice(name.bytes());
            let bytes = name.bytes().len() as u32;
            (abi::ServerIdKey { id, vip_generation: generation, bytes }, value)
        })
    };
    backends.flat_map(of_backend).collect()
}
