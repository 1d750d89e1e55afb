//! From a configuration to the shared region and the kernel's tables.
//!
//! Order matters to those who read meanwhile: new slots get their state before any table names them,
//! everything of the new generation is written to the inactive halves, one store puts it in force,
//! and only then do vips appear that need it.
//!
//! A backend that leaves the configuration keeps its slot and its entry, without weight and without a
//! service, until it has nothing left to do: its flows go on. Who may free the slot is
//! [`super::leavers`]'s to say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use steerage_common::abi;
use steerage_common::health::{EPOCH_MASK, Event, Policy};
use steerage_common::limits::{RING_ENTRIES, SERVICES, SLOTS};
use steerage_common::maglev::{self, Cursor, Member};
use steerage_common::slot::Slot;
use tracing::warn;

use super::Error;
use super::network::{self, Path};
use super::slots::{Seats, seat};
use super::vips;
use crate::config::Model;
use crate::config::model::{Service, address_of, table_address};
use crate::kernel::{Filling, Kernel};
use crate::region::rings::Title;
use crate::region::{Region, Tenant};
use crate::service::identity::{backend_identity, service_identity};

/// What the rest of the supervisor needs to know of a published configuration.
#[derive(Debug)]
pub struct Published {
    /// Parallel to the model's services: their lines.
    pub lines: Vec<u16>,
    /// Parallel to the model's services and their backends.
    pub tenants: Vec<Vec<Tenant>>,
    /// The vips' counters, parallel to the model's vips.
    pub vip_indices: Vec<u16>,
    /// From the first word that readers can see to the store that puts the generation in force.
    pub took: Duration,
}

/// A backend that is in no configuration any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its hold on its slot.
    pub tenant: Tenant,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether a vip led to it: it may have flows.
    pub has_flows: bool,
}

/// What the rings in force were filled with, by service line.
#[derive(Debug, Default)]
pub struct Rings(HashMap<u16, Vec<Filled>>);

/// Identity, slot, weight and rank of a member.
type Filled = (u64, u16, u16, usize);

/// A configuration on its way into the region. What [`Publication::begin`] does nobody sees but the
/// prober; [`Publication::commit`] shows the whole to everybody.
#[derive(Debug)]
pub struct Publication<'a> {
    model: &'a Model,
    region: &'a Region,
    kernel: Option<&'a Mutex<Kernel>>,
    paths: HashMap<SocketAddr, Path>,
    seats: Seats,
    /// Parallel to the model's services and their backends.
    pub tenants: Vec<Vec<Tenant>>,
    /// Those who had no slot before.
    fresh: Vec<Tenant>,
    /// Those who were leaving.
    back: Vec<Tenant>,
    /// Slots that somebody held when this began.
    held: HashSet<Slot>,
    leaving: Vec<(Leaving, abi::Backend)>,
    /// Links on which packets of their flows come back.
    ways_of_leaving: BTreeSet<String>,
    key: [u64; 2],
    nat_ports: (u16, u16),
    /// Addresses of listeners that the programs guard.
    local: Vec<vips::Local>,
}

impl<'a> Publication<'a> {
    /// Seats everybody: new backends get their slots and their first state.
    ///
    /// # Errors
    /// If there are not slots enough, a backend of a vip can't be served, or the network can't be asked.
    pub fn begin(
        model: &'a Model,
        region: &'a Region,
        kernel: Option<&'a Mutex<Kernel>>,
    ) -> Result<Self, Error> {
        let links = network::links().map_err(Error::system("cannot list the host's addresses"))?;
        let paths = paths(model, &links)?;
        let key = network::hash_key(model.global.hash_seed.as_deref())
            .map_err(Error::system("cannot read the host's boot id"))?;
        let nat_ports =
            network::nat_ports().map_err(Error::system("cannot read the port range"))?;
        let former = former(region);
        let identities = former.iter().map(|(slot, entry)| (*slot, entry.identity)).collect();
        let seats = seat(model, &identities, &former_lines(region)).ok_or(Error::NoSlots)?;
        let mut publication = Self {
            model,
            region,
            kernel,
            paths,
            tenants: Vec::new(),
            fresh: Vec::new(),
            back: Vec::new(),
            held: former.keys().copied().collect(),
            leaving: Vec::new(),
            ways_of_leaving: BTreeSet::new(),
            seats,
            key,
            nat_ports,
            local: if kernel.is_some() { vips::local(model, &links)? } else { Vec::new() },
        };
        publication.settle(&former, &links);
        Ok(publication)
    }

    /// Gives slots and lines to their holders.
    fn settle(&mut self, former: &HashMap<Slot, abi::Backend>, links: &HashMap<IpAddr, String>) {
        let region = self.region;
        for slot in &self.seats.freed {
            let entry = former[slot];
            let Some(ip) = address_of(&entry.address, entry.family) else { continue };
            let leaving = Leaving {
                tenant: Tenant::new(*slot, entry.epoch),
                address: SocketAddr::new(ip, u16::from_be(entry.port_be)),
                has_flows: entry.source != [0; 16],
            };
            if leaving.has_flows
                && let Some(path) = network::path_to(leaving.address, links)
            {
                self.ways_of_leaving.insert(path.interface);
            }
            let entry = abi::Backend { weight: 0, service: abi::SERVICE_NONE, ..entry };
            self.leaving.push((leaving, entry));
        }
        let services = self.model.services.iter().zip(&self.seats.slots).zip(&self.seats.lines);
        for ((service, slots), line) in services {
            let (line, identity) = (region.service(*line), service_identity(&service.name));
            if line.identity.swap(identity, Ordering::Relaxed) != identity {
                line.position.store(0, Ordering::Relaxed);
                line.panicking.store(0, Ordering::Relaxed);
            }
            let policy = service.policy();
            line.slow_start_ticks.store(policy.slow_start_ticks.into(), Ordering::Relaxed);
            let mut seated = Vec::with_capacity(slots.len());
            for slot in slots {
                let tenant = Tenant::new(*slot, region.word(*slot).epoch());
                if former.get(slot).is_some_and(|entry| entry.service == abi::SERVICE_NONE) {
                    // It was leaving, and is wanted again.
                    region.apply(tenant, Event::Enable, &policy);
                    self.back.push(tenant);
                }
                region.apply(tenant, Event::Assigned, &policy);
                if !former.contains_key(slot) {
                    self.fresh.push(tenant);
                }
                seated.push(tenant);
            }
            self.tenants.push(seated);
        }
    }

    /// Backends that are in no configuration any more.
    pub fn leaving(&self) -> impl Iterator<Item = Leaving> {
        self.leaving.iter().map(|(leaving, _)| *leaving)
    }

    /// Links that need the program.
    #[must_use]
    pub fn interfaces(&self) -> BTreeSet<String> {
        let mut all = interfaces(self.model, &self.paths);
        all.extend(self.ways_of_leaving.iter().cloned());
        all.extend(
            self.local
                .iter()
                .filter_map(|local| self.model.listeners[local.listener].interface.clone()),
        );
        all
    }

    /// Whether packets are forwarded from a link.
    #[must_use]
    pub fn forwards(&self, link: &str) -> bool {
        interfaces(self.model, &self.paths).contains(link) || self.ways_of_leaving.contains(link)
    }

    /// Takes back what [`Publication::begin`] gave.
    pub fn undo(self) {
        for tenant in self.fresh {
            self.region.apply(tenant, Event::Removed, &Policy::DEFAULT);
        }
        for tenant in self.back {
            self.region.apply(tenant, Event::Drain, &Policy::DEFAULT);
        }
    }

    /// Writes the tables, vips and rings too if there is a kernel half, and puts them in force.
    ///
    /// # Errors
    /// If the kernel refuses an entry.
    pub fn commit(&self, rings: &mut Rings) -> Result<Published, Error> {
        let Self { model, region, paths, seats, tenants, leaving, key, nat_ports, local, .. } =
            self;
        let lock =
            |kernel: &'a Mutex<Kernel>| kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kernel = self.kernel.map(lock);
        if let Some(kernel) = &mut kernel {
            self.write_rings(kernel, rings)?;
        }
        let mut entries = entries(model, seats, tenants, paths);
        entries.extend(leaving.iter().map(|(leaving, entry)| (leaving.tenant.slot(), *entry)));
        let began = Instant::now();
        region.write_backends(&entries);
        let control = region.control();
        control.nat_port_first.store(nat_ports.0, Ordering::Relaxed);
        control.nat_port_count.store(nat_ports.1, Ordering::Relaxed);
        set_tunnel_sources(region, &model.global.tunnel_sources);
        control.hash_key[0].store(key[0], Ordering::Relaxed);
        control.hash_key[1].store(key[1], Ordering::Relaxed);
        let generation = region.publish_generation();
        let took = began.elapsed();
        let vip_indices = match &mut kernel {
            None => Vec::new(),
            Some(kernel) => vips::write(model, region, seats, tenants, local, generation, kernel)?,
        };
        let (lines, tenants) = (seats.lines.clone(), tenants.clone());
        Ok(Published { lines, tenants, vip_indices, took })
    }

    /// Fills the rings of all services that a vip uses; those that nothing changed for are carried on.
    fn write_rings(&self, kernel: &mut Kernel, rings: &mut Rings) -> Result<(), Error> {
        let Self { model, region, paths, seats, key, held, .. } = self;
        let generation = region.generation() + 1;
        let used: BTreeSet<usize> = model.vips.iter().map(|vip| vip.service).collect();
        let mut ring = vec![0; RING_ENTRIES];
        for service in used {
            let (service, line, slots) =
                (&model.services[service], seats.lines[service], &seats.slots[service]);
            let mut tiers = tiers(service, slots, paths);
            let filled_with = |rank| {
                move |member: &Member| (member.identity, member.slot.raw(), member.weight, rank)
            };
            let ranked = tiers.iter().enumerate();
            let wanted: Vec<Filled> =
                ranked.flat_map(|(rank, members)| members.iter().map(filled_with(rank))).collect();
            let is_same = rings.0.remove(&line).is_some_and(|known| known == wanted);
            if wanted.is_empty() {
                warn!(
                    service = service.name,
                    "no backend of the service can take L4 flows: its vips have none"
                );
                // The ring of nobody knows who had its positions before.
                tiers.push(Vec::new());
            }
            let title = Title { identity: service_identity(&service.name), generation };
            for (rank, members) in (0..).zip(&mut tiers) {
                let slots: Vec<Slot> = members.iter().map(|member| member.slot).collect();
                let mut filling =
                    Filling { slots: None, members: &slots, is_held: &|slot| held.contains(&slot) };
                if !(is_same && kernel.set_ring(line, rank, title, filling)?) {
                    let mut cursors = vec![Cursor::default(); members.len()];
                    let is_filled = maglev::populate(*key, members, &mut cursors, &mut ring);
                    filling.slots = Some(if is_filled { &ring } else { &[] });
                    kernel.set_ring(line, rank, title, filling)?;
                }
            }
            kernel.clear_rings(line, tiers.len() as u32, generation)?;
            rings.0.insert(line, wanted);
        }
        Ok(())
    }

    /// Parallel to the model's services: their lines.
    #[must_use]
    pub fn lines(&self) -> &[u16] {
        &self.seats.lines
    }
}

/// The entries of all slots that somebody holds. Of one that was freed since the last publication the
/// entry is left over: its word is of another tenancy.
fn former(region: &Region) -> HashMap<Slot, abi::Backend> {
    (0..SLOTS as u16)
        .filter_map(Slot::new)
        .filter_map(|slot| Some((slot, region.backend(slot)?)))
        .filter(|(slot, entry)| region.word(*slot).epoch() == entry.epoch & EPOCH_MASK)
        .collect()
}

fn former_lines(region: &Region) -> HashMap<u16, u64> {
    (0..SERVICES as u16)
        .map(|line| (line, region.service(line).identity.load(Ordering::Relaxed)))
        .filter(|(_, identity)| *identity != 0)
        .collect()
}

/// The ways to the backends of vips.
fn paths(
    model: &Model,
    links: &HashMap<IpAddr, String>,
) -> Result<HashMap<SocketAddr, Path>, Error> {
    let mut paths = HashMap::new();
    for vip in &model.vips {
        for backend in &model.services[vip.service].backends {
            match network::path_to(backend.address, links) {
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
                    "no route to the backend: it gets no flows of this vip; add a route and reload"
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
                tier: backend.tier,
                ..abi::Backend::default()
            };
            entries.push((tenant.slot(), entry));
        }
    }
    entries
}

/// The members of each tier that has any, lowest first.
fn tiers(service: &Service, slots: &[Slot], paths: &HashMap<SocketAddr, Path>) -> Vec<Vec<Member>> {
    let mut tiers: BTreeMap<u8, Vec<Member>> = BTreeMap::new();
    let backends = service.backends.iter().zip(slots);
    for (backend, slot) in
        backends.filter(|(backend, _)| backend.weight > 0 && paths.contains_key(&backend.address))
    {
        tiers.entry(backend.tier).or_default().push(Member {
            identity: backend_identity(&service.name, backend.address),
            slot: *slot,
            weight: backend.weight,
        });
    }
    tiers.into_values().collect()
}

fn set_tunnel_sources(region: &Region, sources: &[IpNet]) {
    let control = region.control();
    let (mut v4, mut hosts, mut v6) = (0, 0, [0; 16]);
    for source in sources {
        match source {
            IpNet::V4(net) => {
                v4 = u32::from_ne_bytes(net.network().octets());
                hosts = u32::from_ne_bytes(net.hostmask().octets());
            }
            IpNet::V6(net) => v6 = net.network().octets(),
        }
    }
    control.tunnel_source_v4.store(v4, Ordering::Relaxed);
    control.tunnel_hosts_v4.store(hosts, Ordering::Relaxed);
    for (word, bytes) in control.tunnel_source_v6.iter().zip(v6.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

/// The links that carry packets of vips: where clients come in, and where backends answer.
fn interfaces(model: &Model, paths: &HashMap<SocketAddr, Path>) -> BTreeSet<String> {
    let clients = model.vips.iter().flat_map(|vip| vip.interfaces.iter().cloned());
    let backends = model.vips.iter().flat_map(|vip| &model.services[vip.service].backends);
    let ways = backends.filter_map(|backend| Some(paths.get(&backend.address)?.interface.clone()));
    clients.chain(ways).collect()
}
