//! A loaded program with a vip and backends, ready to be handed packets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::programs::Xdp;
use aya::{TestRun as _, TestRunOptions};
use steerage::clock;
use steerage::config::model::{LogLevel, table_address};
use steerage::kernel::capture::Capture;
use steerage::kernel::explain::Tables;
use steerage::kernel::flows::Remembered;
use steerage::kernel::{self, Filling, Guarding, Kernel, Options, Settler};
use steerage::region::rings::Title;
use steerage::region::{Group, Region, Tenant};
use steerage_common::abi::{
    self, Backend, MODE_NAT, Reason, ServerId, ServerIdKey, VIP_ALL_PORTS, Vip, VipKey,
};
use steerage_common::capture::Filter;
use steerage_common::health::{Cause, Event, Policy};
use steerage_common::life::IdleLimits;
use steerage_common::limits::{RING_ENTRIES, SLOTS, TIERS};
use steerage_common::maglev::{self, Cursor, Member};
use steerage_common::slot::Slot;

use super::packet::{Packet, TCP, UDP};
use super::{BACKEND_PORT, CLIENT, Family, Host, NAT_PORT_COUNT, NAT_PORT_FIRST, VIP, VIP_PORT};

/// The one service of a plane.
const SERVICE: u16 = 3;
/// Index of the TCP vip; the UDP one is the next.
const VIP_INDEX: u16 = 5;
/// Key of the packet hash.
pub const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
/// Nobody warms up unless a test says so ([`Plane::revive_slowly`]).
const POLICY: Policy = Policy { probed: false, slow_start_ticks: 0, ..Policy::DEFAULT };

/// What the program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The host gets the packet.
    Pass,
    /// Nobody gets it.
    Drop,
    /// It leaves on the link that it came in on.
    Transmit,
    /// It leaves on another link.
    Redirect,
}

/// What the program made of a frame.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What becomes of it.
    pub action: Action,
    /// What it looks like now.
    pub frame: Vec<u8>,
}

impl Verdict {
    /// The packet that leaves for another host, checksums checked.
    ///
    /// # Panics
    /// If it does not leave.
    #[must_use]
    #[track_caller]
    pub fn sent(&self) -> Packet {
        let is_sent = matches!(self.action, Action::Transmit | Action::Redirect);
        assert!(is_sent, "the packet was to be sent on: {:?}", self.action);
        Packet::read(&self.frame)
    }
}

/// What a plane is like.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Weights of the backends, all up, at slots 0 and up.
    pub weights: Vec<u16>,
    /// Their tiers; 0 for those that are not named.
    pub tiers: Vec<u8>,
    /// How many flows it remembers.
    pub max_flows: u32,
    /// Family of the vips.
    pub vips: Family,
    /// Family of the backends.
    pub backends: Family,
    /// `Vip::mode`.
    pub mode: u8,
    /// `Vip::flags`.
    pub flags: u8,
    /// `Vip::server_id_lengths`, of the UDP vip.
    pub server_id_lengths: u32,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            weights: vec![1],
            tiers: Vec::new(),
            max_flows: 1 << 12,
            vips: Family::V4,
            backends: Family::V4,
            mode: MODE_NAT,
            flags: 0,
            server_id_lengths: 0,
        }
    }
}

/// A host whose XDP program serves one TCP and one UDP vip with the same backends.
#[derive(Debug)]
pub struct Plane {
    /// The loaded program.
    pub kernel: Kernel,
    /// The shared words.
    pub region: Region,
    /// The host that it runs on.
    pub host: Host,
    /// What it was made by.
    pub choices: Choices,
    group: Group,
    weights: Vec<u16>,
    /// Who sits at a slot: the number that its address comes from.
    tenants: Vec<u16>,
    /// Slots that changed their tenants since the last publication.
    freed: Vec<Slot>,
    /// Index of the vips' guard.
    guard: u16,
    pins: Pins,
}

/// The pins of an instance, removed when dropped.
#[derive(Debug)]
struct Pins(PathBuf);

impl Plane {
    /// A plane with backends of these weights, all up, at slots 0 and up.
    ///
    /// # Errors
    /// If the host can't be made or the program not be loaded.
    pub fn new(weights: &[u16]) -> Result<Self> {
        Self::with(Choices { weights: weights.to_vec(), ..Choices::default() })
    }

    /// A plane as one chooses.
    ///
    /// # Errors
    /// As [`Plane::new`].
    pub fn with(choices: Choices) -> Result<Self> {
        let weights = &choices.weights;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let host = Host::new(weights.len() as u16)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("/sys/fs/bpf/steerage-test-{}-{number}", std::process::id());
        let pins = Pins(PathBuf::from(directory));
        let options = Options {
            instance_dir: pins.0.clone(),
            cells: SLOTS as u32,
            max_flows: choices.max_flows,
            max_sources: 1 << 12,
            log_level: LogLevel::Info,
        };
        let kernel = Kernel::load(&options).context("loading the kernel programs")?;
        let region = Region::map(&kernel.region_fds(steerage::region::figures::memory(1)?)?, 1)
            .context("mapping the region")?;
        let tenants: Vec<u16> = (0..weights.len() as u16).collect();
        let seats: Vec<Tenant> = tenants.iter().map(|slot| Tenant::new(of(*slot), 0)).collect();
        let group = Group::without_rules("plane", &seats, SERVICE);
        let weights = weights.clone();
        let freed = Vec::new();
        let mut plane =
            Self { kernel, region, host, choices, group, weights, tenants, freed, guard: 0, pins };
        let control = plane.region.control();
        control.schema_version.store(abi::SCHEMA_VERSION, Ordering::Relaxed);
        for (word, key) in control.hash_key.iter().zip(HASH_KEY) {
            word.store(key, Ordering::Relaxed);
        }
        plane.set_nat_ports(NAT_PORT_FIRST, NAT_PORT_COUNT);
        for slot in 0..plane.tenants.len() as u16 {
            plane.tell(slot, Event::Assigned);
        }
        plane.publish()?;
        for protocol in [TCP, UDP] {
            plane.kernel.set_vip(&plane.vip_key(protocol), &plane.vip(protocol, 1))?;
        }
        plane.kernel.set_vip_filter(&[TCP, UDP].map(|protocol| plane.vip_key(protocol)))?;
        Ok(plane)
    }

    /// Publishes a generation with the weights as they are.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn publish(&mut self) -> Result<()> {
        let generation = self.region.generation() + 1;
        let mut tiers = self.members();
        tiers.retain(|members| !members.is_empty());
        if tiers.is_empty() {
            tiers.push(Vec::new());
        }
        let freed = std::mem::take(&mut self.freed);
        for (rank, members) in (0..).zip(&mut tiers) {
            let slots: Vec<Slot> = members.iter().map(|member| member.slot).collect();
            let mut ring = vec![0; RING_ENTRIES];
            let mut cursors = vec![Cursor::default(); members.len()];
            let filled = maglev::populate(HASH_KEY, members, &mut cursors, &mut ring);
            let ring = if filled { &ring[..] } else { &[] };
            let is_held = |slot| !freed.contains(&slot);
            let filling = Filling { slots: Some(ring), members: &slots, is_held: &is_held };
            self.kernel.set_ring(SERVICE, rank, Title { identity: 1, generation }, filling)?;
        }
        self.kernel.clear_rings(SERVICE, tiers.len() as u32, generation)?;
        let entries: Vec<_> =
            (0..self.weights.len() as u16).map(|slot| (of(slot), self.entry(slot))).collect();
        self.region.write_backends(&entries);
        self.region.publish_generation();
        Ok(())
    }

    /// Changes a backend's weight, from the next publication on.
    pub fn set_weight(&mut self, slot: u16, weight: u16) {
        self.weights[usize::from(slot)] = weight;
    }

    /// Seats another backend, with the address of slot `number`, at `slot`, from the next publication
    /// on.
    pub fn move_to(&mut self, slot: u16, number: u16) {
        self.tenants[usize::from(slot)] = number;
        self.freed.push(of(slot));
    }

    /// Sets the range that `nat` takes source ports from.
    pub fn set_nat_ports(&self, first: u16, count: u16) {
        let control = self.region.control();
        control.nat_port_first.store(first, Ordering::Relaxed);
        control.nat_port_count.store(count, Ordering::Relaxed);
    }

    /// Lets outer sources of tunnels vary within 10.99.0.0/16 and fd00:99::/96.
    pub fn set_tunnel_sources(&self) {
        let control = self.region.control();
        let prefix = u32::from_ne_bytes([10, 99, 0, 0]);
        control.tunnel_source_v4.store(prefix, Ordering::Relaxed);
        control.tunnel_hosts_v4.store(u32::from_ne_bytes([0, 0, 255, 255]), Ordering::Relaxed);
        let first = u64::from_ne_bytes([0xfd, 0, 0, 0x99, 0, 0, 0, 0]);
        control.tunnel_source_v6[0].store(first, Ordering::Relaxed);
    }

    /// Lets connection ids of the UDP vip name the backend at `slot`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_server_ids(&mut self, names: &[(&[u8], u16)]) -> Result<()> {
        let vip_generation = self.vip(UDP, 1).generation;
        let ids: Vec<_> = names
            .iter()
            .map(|(name, slot)| {
                let mut id = [0; 16];
                id[..name.len()].copy_from_slice(name);
                let epoch = self.region.word(of(*slot)).epoch();
                let key = ServerIdKey { id, vip_generation, bytes: name.len() as u32 };
                (key, ServerId { epoch, slot: *slot, reserved: 0 })
            })
            .collect();
        Ok(self.kernel.set_server_ids(&ids, |_| false)?)
    }

    /// Gives both vips a guard, in the place of the one they have.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_guard(&mut self, guarding: Guarding) -> Result<()> {
        self.guard = self.kernel.set_guards(&[guarding])?[0];
        for protocol in [TCP, UDP] {
            self.kernel.set_vip(&self.vip_key(protocol), &self.vip(protocol, 1))?;
        }
        Ok(self.kernel.keep_guards(&[self.guard])?)
    }

    /// Index of the vips' guard in the programs' tables.
    #[must_use]
    pub const fn guard(&self) -> u16 {
        self.guard
    }

    /// Feeds an event to the state machine of the backend at `slot`.
    ///
    /// # Panics
    /// If the slot changed its tenant behind the test's back.
    pub fn tell(&self, slot: u16, event: Event) {
        let tenant = Tenant::new(of(slot), self.region.word(of(slot)).epoch());
        self.region.apply(tenant, event, &POLICY).expect("the tenancy is the slot's own");
    }

    /// Fails a request at `slot` and, if that is one too many, ejects it, as a worker does.
    pub fn fail(&self, slot: u16) {
        let tenant = Tenant::new(of(slot), self.region.word(of(slot)).epoch());
        let (now, jitter) = (clock::now_ticks(), 128);
        let failed = Event::RequestFailed { jitter };
        let change = self.group.apply(&self.region, tenant, failed, now, &POLICY);
        if change.is_some_and(|c| c.to.request_failures() >= POLICY.consecutive) {
            let why = (Cause::InARow, jitter);
            self.group.eject(&self.region, tenant, why, &POLICY, |_, _| {});
        }
    }

    /// Says of which tier the service ignores health.
    pub fn set_panicking(&self, tier: Option<u8>) {
        let word = tier.map_or(0, |tier| u64::from(tier) + 1);
        self.region.service(SERVICE).panicking.store(word, Ordering::Relaxed);
    }

    /// Lets the probes find the backend at `slot` dead.
    pub fn kill(&self, slot: u16) {
        for _ in 0..POLICY.fall {
            self.tell(slot, Event::ProbeFailed);
        }
    }

    /// Lets the probes find it well again.
    pub fn revive(&self, slot: u16) {
        for _ in 0..POLICY.rise {
            self.tell(slot, Event::ProbeOk);
        }
    }

    /// Lets the probes find it well again, so long ago that this share of a slow start is over; the slow
    /// start takes so long that a test sees nothing of it pass.
    pub fn revive_slowly(&self, slot: u16, percent_gone: u32) {
        const DAY: u32 = 864_000;
        self.region.service(SERVICE).slow_start_ticks.store(DAY.into(), Ordering::Relaxed);
        let tenant = Tenant::new(of(slot), self.region.word(of(slot)).epoch());
        let policy = Policy { slow_start_ticks: DAY * (100 - percent_gone) / 100, ..POLICY };
        let ejection_is_over = clock::now_ticks().after(POLICY.ejection_ticks_max);
        self.region.apply_at(tenant, Event::Tick, ejection_is_over, &policy);
        for _ in 0..POLICY.rise {
            self.region.apply(tenant, Event::ProbeOk, &policy).expect("the slot's own tenancy");
        }
    }

    /// Lets entries of rings and marks of strays settle as if it were so many seconds later, or
    /// earlier.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle(&self, settler: &mut Settler, seconds: i64) -> Result<()> {
        let now = steerage::sys::monotonic().as_nanos() as i64 + seconds * 1_000_000_000;
        settler.turn(|| &self.kernel, &self.region, now as u64)?;
        Ok(())
    }

    /// What lets them settle, with the limits of S7.
    ///
    /// # Errors
    /// If there is no flow table.
    pub fn settler(&self) -> Result<Settler> {
        Ok(Settler::new(Remembered::open(&self.pins.0)?, IdleLimits::DEFAULT))
    }

    /// Begins to capture, as `steerage capture` does.
    ///
    /// # Errors
    /// If another capture runs.
    pub fn capture(&self, sample: u32, filter: &Filter) -> Result<Capture> {
        Ok(Capture::begin(&self.pins.0, sample, filter)?)
    }

    /// The pinned tables, as `steerage flows` reads them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn tables(&self) -> Result<Tables> {
        Ok(Tables::open(&self.pins.0)?)
    }

    /// Flows that the flow table holds.
    ///
    /// # Errors
    /// If there is no flow table.
    pub fn remembered(&self) -> Result<usize> {
        Ok(Remembered::open(&self.pins.0)?.all())
    }

    /// Entries of the ring in force that are marked as changed.
    ///
    /// # Errors
    /// If there is no ring.
    pub fn changed_entries(&self) -> Result<usize> {
        let ring = self.kernel.ring_in_force(SERVICE, 0, self.region.generation())?;
        let ring = ring.context("a ring in force")?;
        Ok((0..RING_ENTRIES as u32).filter(|at| ring.entry(*at).is_changed()).count())
    }

    /// Runs the program on a frame that comes in on `ifindex`.
    ///
    /// # Errors
    /// If the kernel refuses the run.
    pub fn receive(&self, ifindex: u32, frame: &[u8]) -> Result<Verdict> {
        let mut verdicts = self.receive_each(ifindex, &[frame])?;
        verdicts.pop().context("a verdict")
    }

    /// As [`Plane::receive`], for many frames.
    ///
    /// # Errors
    /// As it.
    pub fn receive_each(&self, ifindex: u32, frames: &[&[u8]]) -> Result<Vec<Verdict>> {
        let program = self.kernel.program()?;
        self.host.enter(|| frames.iter().map(|frame| run(program, ifindex, frame)).collect())
    }

    /// Runs the program on a client's packet.
    ///
    /// # Panics
    /// If the kernel refuses the run.
    #[must_use]
    pub fn from_client(&self, packet: &Packet) -> Verdict {
        self.receive(self.host.client_ifindex, &packet.frame()).expect("a test run")
    }

    /// Runs the program on a backend's packet.
    ///
    /// # Panics
    /// If the kernel refuses the run.
    #[must_use]
    pub fn from_backend(&self, packet: &Packet) -> Verdict {
        self.receive(self.host.backend_ifindex, &packet.frame()).expect("a test run")
    }

    /// How many packets had this `reason`.
    ///
    /// # Panics
    /// If the counters can't be read.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.kernel.reasons().expect("counters")[reason as usize]
    }

    /// How many packets had each reason.
    ///
    /// # Panics
    /// If the counters can't be read.
    #[must_use]
    pub fn reasons(&self) -> [u64; Reason::ALL.len()] {
        self.kernel.reasons().expect("counters")
    }

    /// The counters of the vip of `protocol`.
    ///
    /// # Panics
    /// If the counters can't be read.
    #[must_use]
    pub fn vip_traffic(&self, protocol: u8) -> abi::Traffic {
        self.kernel.vip_traffic(vip_index(protocol)).expect("counters")
    }

    /// The key of the vip of `protocol`.
    #[must_use]
    pub fn vip_key(&self, protocol: u8) -> VipKey {
        let (address, family) = table_address(self.choices.vips.vip());
        let is_all = self.choices.flags & VIP_ALL_PORTS != 0;
        let port_be = if is_all { 0 } else { VIP_PORT.to_be() };
        VipKey { address, port_be, protocol, family }
    }

    /// The value of the vip of `protocol`, brought by `generation`.
    #[must_use]
    pub fn vip(&self, protocol: u8, generation: u64) -> Vip {
        let index = vip_index(protocol);
        let Choices { mode, flags, .. } = self.choices;
        let generation = abi::vip_generation(generation, index);
        Vip {
            generation,
            index,
            service: SERVICE,
            mode,
            flags,
            guard: self.guard,
            server_id_lengths: self.choices.server_id_lengths,
        }
    }

    fn tier(&self, slot: u16) -> u8 {
        self.choices.tiers.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// The members of each tier.
    fn members(&self) -> Vec<Vec<Member>> {
        let mut tiers = vec![Vec::new(); TIERS];
        for (slot, weight) in (0..).zip(&self.weights).filter(|(_, weight)| **weight > 0) {
            let member = Member { identity: identity(slot), slot: of(slot), weight: *weight };
            tiers[usize::from(self.tier(slot))].push(member);
        }
        tiers
    }

    fn entry(&self, slot: u16) -> Backend {
        let family = self.choices.backends;
        let (source, _) = table_address(family.source());
        let (address, family) = table_address(family.backend(self.tenants[usize::from(slot)]));
        Backend {
            address,
            source,
            identity: identity(slot),
            epoch: self.region.word(of(slot)).epoch(),
            port_be: BACKEND_PORT.to_be(),
            weight: self.weights[usize::from(slot)],
            service: SERVICE,
            family,
            tier: self.tier(slot),
            reserved: [0; 12],
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = kernel::detach(&self.0) {
            eprintln!("pins at {} stay: {error}", self.0.display());
        }
    }
}

/// One run of the program, on the host that this thread is on.
fn run(program: &Xdp, ifindex: u32, frame: &[u8]) -> Result<Verdict> {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::new()
    })?;
    out.truncate(result.data_size_out as usize);
    let action = match result.return_value {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Transmit,
        4 => Action::Redirect,
        other => bail!("the program returned {other}"),
    };
    Ok(Verdict { action, frame: out })
}

/// The service address.
#[must_use]
pub fn vip_socket() -> SocketAddr {
    SocketAddr::new(VIP.into(), VIP_PORT)
}

/// A client's address with this port.
#[must_use]
pub fn client_socket(port: u16) -> SocketAddr {
    SocketAddr::new(CLIENT.into(), port)
}

fn vip_index(protocol: u8) -> u16 {
    if protocol == TCP { VIP_INDEX } else { VIP_INDEX + 1 }
}

fn of(slot: u16) -> Slot {
    Slot::new(slot).expect("tests use few slots")
}

fn identity(slot: u16) -> u64 {
    steerage_common::hash::mix(u64::from(slot) + 1)
}
