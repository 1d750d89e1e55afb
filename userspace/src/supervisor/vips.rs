//! From the vips of a configuration to the kernel's tables.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

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
use crate::config::model::{
    Backend, Encapsulation, FlowTable, NoBackend, Protocol, Vip, table_address,
};
use crate::kernel::Kernel;
use crate::region::{Region, Tenant};

/// Puts the model's vips, and what is guarded of its listeners (`local`), into the kernel's table and takes
/// out the others. A vip that stays keeps its index and generation, and so its flows and counters.
///
/// # Errors
/// If the kernel refuses.
pub fn write(
    model: &Model,
    region: &Region,
    seats: &Seats,
    tenants: &[Vec<Tenant>],
    local: &[Local],
    generation: u64,
    kernel: &mut Kernel,
) -> Result<Vec<u16>, Error> {
    let former: HashMap<abi::VipKey, abi::Vip> = kernel.vips()?.into_iter().collect();
    let of_vips = model.vips.iter().map(vip_key);
    let of_local = local.iter().map(|local| key_of(local.address, Protocol::Tcp));
    let wanted: Vec<abi::VipKey> = of_vips.chain(of_local).collect();
    for key in former.keys().filter(|key| !wanted.contains(key)) {
        kernel.remove_vip(key)?;
    }
    let taken: BTreeSet<u16> =
        wanted.iter().filter_map(|key| former.get(key)).map(|vip| vip.index).collect();
    let mut free = (0..VIPS as u16).filter(|index| !taken.contains(index));
    let mut index_of = |key: &abi::VipKey| {
        let kept = former.get(key).map(|former| former.index);
        kept.or_else(|| free.next()).expect("vips and guarded addresses are at most VIPS")
    };
    // What CPUs remember of the table is void with each change of it.
    let set = |key: &abi::VipKey, value: &abi::Vip, kernel: &mut Kernel| match former.get(key) {
        Some(former) if former == value => Ok(()),
        _ => kernel.set_vip(key, value),
    };
    let guards = guards::set(model, kernel)?;
    let mut indices = Vec::with_capacity(wanted.len());
    let mut ids = Vec::new();
    for ((vip, key), guard) in model.vips.iter().zip(&wanted).zip(&guards.vips) {
        let service = seats.lines[vip.service];
        let kept = former.get(key).filter(|former| former.service == service);
        let kept = kept.filter(|former| former.mode == vip.mode.number());
        let index = index_of(key);
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
        set(key, &value, kernel)?;
        indices.push(value.index);
        info!(vip = vip.name, address = %vip.address, index = value.index, "vip in force");
    }
    for (local, key) in local.iter().zip(&wanted[model.vips.len()..]) {
        let index = index_of(key);
        let value = abi::Vip {
            generation: abi::vip_generation(generation, index),
            index,
            service: 0,
            mode: abi::MODE_LOCAL,
            flags: 0,
            guard: guards.listeners[local.listener],
            server_id_lengths: 0,
        };
        set(key, &value, kernel)?;
    }
    // A backend that leaves keeps its connections until it is idle, wherever their clients go.
    let is_held = |id: &abi::ServerId| {
        let epoch = Slot::new(id.slot).map(|slot| region.word(slot).epoch());
        epoch == Some(id.epoch & EPOCH_MASK)
    };
    kernel.set_server_ids(&ids, is_held)?;
    kernel.set_vip_filter(&wanted)?;
    kernel.keep_guards(&guards.all())?;
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
    key_of(vip.address, vip.protocol)
}

fn key_of(at: SocketAddr, protocol: Protocol) -> abi::VipKey {
    let (address, family) = table_address(at.ip());
    abi::VipKey { address, port_be: at.port().to_be(), protocol: protocol.number(), family }
}

/// An address of this host that a listener serves and its guard looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Index of the listener.
    pub listener: usize,
    /// The address.
    pub address: SocketAddr,
}

/// The addresses of guarded listeners, by what the host's `links` have. One that is a vip's as well is the
/// vip's.
///
/// # Errors
/// If there are more of them, and vips, than the programs can know.
pub fn local(model: &Model, links: &HashMap<IpAddr, String>) -> Result<Vec<Local>, Error> {
    let mut all: Vec<Local> = Vec::new();
    for (number, listener) in model.listeners.iter().enumerate() {
        if guards::of_listener(model, listener).is_none() {
            continue;
        }
        for bind in &listener.bind {
            let is_own = |ip: &IpAddr| {
                if bind.ip().is_unspecified() {
                    links.get(ip) == listener.interface.as_ref() && ip.is_ipv4() == bind.is_ipv4()
                } else {
                    *ip == bind.ip()
                }
            };
            let addresses = links.keys().filter(|ip| is_own(ip));
            all.extend(
                addresses.map(|ip| Local {
                    listener: number,
                    address: SocketAddr::new(*ip, bind.port()),
                }),
            );
        }
    }
    let is_vip = |local: &Local| {
        let key = key_of(local.address, Protocol::Tcp);
        model.vips.iter().any(|vip| vip_key(vip) == key)
    };
    all.retain(|local| local.address.port() != 0 && !is_vip(local));
    all.sort_unstable_by_key(|local| local.address);
    all.dedup_by_key(|local| local.address);
    if all.len() + model.vips.len() > VIPS {
        return Err(Error::TooManyAddresses { most: VIPS });
    }
    Ok(all)
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
