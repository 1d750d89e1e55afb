//! From a configuration to the shared region and the kernel's tables.
//!
//! Order matters to those who read meanwhile: new slots get their state before any table names them,
//! everything of the new generation is written to the inactive halves, one store puts it in force,
//! and only then do vips appear that need it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use steerage_common::abi::{self, active_half};
use steerage_common::health::{Event, Policy};
use steerage_common::limits::{RING_ENTRIES, SERVICES, SLOTS, VIPS};
use steerage_common::maglev::{self, Cursor, Member};
use steerage_common::slot::Slot;
use tracing::{info, warn};

use super::Error;
use super::network::{self, Path};
use super::slots::{Seats, seat};
use crate::config::Model;
use crate::config::model::{Service, Vip, table_address};
use crate::kernel::Kernel;
use crate::region::{Region, Tenant};
use crate::service::identity::{backend_identity, service_identity};

/// What the rest of the supervisor needs to know of a published configuration.
#[derive(Debug)]
pub struct Published {
    /// Parallel to the model's services: their lines.
    pub lines: Vec<u16>,
    /// Parallel to the model's services and their backends.
    pub tenants: Vec<Vec<Tenant>>,
    /// Links that need the program.
    pub interfaces: BTreeSet<String>,
    /// The vips' counters, parallel to the model's vips.
    pub vip_indices: Vec<u16>,
}

/// Seats everybody and writes the region; vips and rings too if there is a kernel half.
///
/// # Errors
/// If the network can't be asked, or the kernel refuses an entry.
pub fn publish(
    model: &Model,
    region: &Region,
    kernel: Option<&Mutex<Kernel>>,
) -> Result<Published, Error> {
    let paths = paths(model)?;
    let seats = seat(model, &former_slots(region), &former_lines(region));
    let tenants = settle(model, region, &seats);
    let entries = entries(model, &seats, &tenants, &paths);
    region.write_backends(&entries);
    let key = network::hash_key(model.global.hash_seed.as_deref())
        .map_err(Error::system("cannot read the host's boot id"))?;
    let (first, count) =
        network::nat_ports().map_err(Error::system("cannot read the port range"))?;
    let control = region.control();
    control.nat_port_first.store(first, Ordering::Relaxed);
    control.nat_port_count.store(count, Ordering::Relaxed);
    control.hash_key[0].store(key[0], Ordering::Relaxed);
    control.hash_key[1].store(key[1], Ordering::Relaxed);
    let mut vip_indices = Vec::new();
    match kernel {
        None => {
            region.publish_generation();
        }
        Some(kernel) => {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let half = active_half(region.generation() + 1);
            write_rings(model, &seats, &paths, key, half, &mut kernel)?;
            let generation = region.publish_generation();
            vip_indices = write_vips(model, &seats, generation, &mut kernel)?;
        }
    }
    let interfaces = interfaces(model, &paths);
    Ok(Published { lines: seats.lines, tenants, interfaces, vip_indices })
}

/// The identities at the slots, as an earlier daemon left them.
fn former_slots(region: &Region) -> HashMap<Slot, u64> {
    (0..SLOTS as u16)
        .filter_map(Slot::new)
        .filter_map(|slot| Some((slot, region.backend(slot)?.identity)))
        .collect()
}

fn former_lines(region: &Region) -> HashMap<u16, u64> {
    (0..SERVICES as u16)
        .map(|line| (line, region.service(line).identity.load(Ordering::Relaxed)))
        .filter(|(_, identity)| *identity != 0)
        .collect()
}

/// Gives slots and lines to their holders.
fn settle(model: &Model, region: &Region, seats: &Seats) -> Vec<Vec<Tenant>> {
    for slot in &seats.freed {
        let tenant = Tenant::new(*slot, region.word(*slot).epoch());
        region.apply(tenant, Event::Removed, &Policy::DEFAULT);
    }
    let mut tenants = Vec::with_capacity(model.services.len());
    for ((service, slots), line) in model.services.iter().zip(&seats.slots).zip(&seats.lines) {
        region.service(*line).identity.store(service_identity(&service.name), Ordering::Relaxed);
        let policy = service.policy();
        let seated = slots.iter().map(|slot| {
            let tenant = Tenant::new(*slot, region.word(*slot).epoch());
            region.apply(tenant, Event::Assigned, &policy);
            tenant
        });
        tenants.push(seated.collect());
    }
    tenants
}

/// The ways to the backends of vips.
fn paths(model: &Model) -> Result<HashMap<SocketAddr, Path>, Error> {
    let mut paths = HashMap::new();
    for vip in &model.vips {
        for backend in &model.services[vip.service].backends {
            let path = network::path_to(backend.address)
                .map_err(Error::system("cannot list the host's addresses"))?;
            match path {
                Some(path) if path.source == backend.address.ip() || path.source.is_loopback() => {
                    let (vip, backend) = (vip.name.clone(), backend.address);
                    return Err(Error::LocalBackend { vip, backend });
                }
                Some(path) => {
                    paths.insert(backend.address, path);
                }
                None => warn!(
                    vip = vip.name,
                    backend = %backend.address,
                    "no route to the backend: it gets no flows of this vip; add a route and restart"
                ),
            }
        }
    }
    Ok(paths)
}

fn entries(
    model: &Model,
    seats: &Seats,
    tenants: &[Vec<Tenant>],
    paths: &HashMap<SocketAddr, Path>,
) -> Vec<(Slot, abi::Backend)> {
    let mut entries = Vec::new();
    for ((service, line), tenants) in model.services.iter().zip(&seats.lines).zip(tenants) {
        for (backend, tenant) in service.backends.iter().zip(tenants) {
            let (address, family) = table_address(backend.address.ip());
            let source = paths.get(&backend.address).map(|path| table_address(path.source).0);
            let entry = abi::Backend {
                address,
                source: source.unwrap_or_default(),
                identity: backend_identity(&service.name, backend.address),
                epoch: tenant.epoch,
                port_be: backend.address.port().to_be(),
                weight: backend.weight,
                service: *line,
                family,
                ..abi::Backend::default()
            };
            entries.push((tenant.slot(), entry));
        }
    }
    entries
}

/// Fills the rings of all services that a vip uses.
fn write_rings(
    model: &Model,
    seats: &Seats,
    paths: &HashMap<SocketAddr, Path>,
    key: [u64; 2],
    half: u32,
    kernel: &mut Kernel,
) -> Result<(), Error> {
    let used: BTreeSet<usize> = model.vips.iter().map(|vip| vip.service).collect();
    let mut ring = vec![0; RING_ENTRIES];
    for service in used {
        let mut members = members(&model.services[service], &seats.slots[service], paths);
        let mut cursors = vec![Cursor::default(); members.len()];
        let filled = maglev::populate(key, &mut members, &mut cursors, &mut ring);
        if !filled {
            warn!(
                service = model.services[service].name,
                "no backend of the service can take L4 flows: packets to its vips are dropped"
            );
        }
        let slots: Vec<Slot> = members.iter().map(|member| member.slot).collect();
        let entries: &[u16] = if filled { &ring } else { &[] };
        kernel.set_ring(seats.lines[service], half, entries, &slots)?;
    }
    Ok(())
}

fn members(service: &Service, slots: &[Slot], paths: &HashMap<SocketAddr, Path>) -> Vec<Member> {
    service
        .backends
        .iter()
        .zip(slots)
        .filter(|(backend, _)| backend.weight > 0 && paths.contains_key(&backend.address))
        .map(|(backend, slot)| Member {
            identity: backend_identity(&service.name, backend.address),
            slot: *slot,
            weight: backend.weight,
        })
        .collect()
}

/// Puts the model's vips into the kernel's table and takes out the others. A vip that stays keeps
/// its index and generation, and so its flows and counters.
fn write_vips(
    model: &Model,
    seats: &Seats,
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
    let mut indices = Vec::with_capacity(wanted.len());
    for (vip, key) in model.vips.iter().zip(&wanted) {
        let service = seats.lines[vip.service];
        let kept = former.get(key).filter(|former| former.service == service);
        let value = kept.copied().unwrap_or_else(|| abi::Vip {
            generation: generation as u32,
            index: former
                .get(key)
                .map(|former| former.index)
                .or_else(|| free.next())
                .expect("the configuration has at most VIPS vips"),
            service,
            mode: abi::MODE_NAT,
            reserved: [0; 7],
        });
        kernel.set_vip(key, &value)?;
        indices.push(value.index);
        info!(vip = vip.name, address = %vip.address, index = value.index, "vip in force");
    }
    Ok(indices)
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

/// The links that carry packets of vips: where clients come in, and where backends answer.
fn interfaces(model: &Model, paths: &HashMap<SocketAddr, Path>) -> BTreeSet<String> {
    let clients = model.vips.iter().map(|vip| vip.interface.clone());
    let backends = model.vips.iter().flat_map(|vip| &model.services[vip.service].backends);
    let ways = backends.filter_map(|backend| Some(paths.get(&backend.address)?.interface.clone()));
    clients.chain(ways).collect()
}
