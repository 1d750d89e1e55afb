//! Nanoseconds per packet of the XDP program.
//!
//! The benchmark's wrapper (`ebpf/src/bin/bench.rs`) restores the packet before each round, gives it
//! the client of the next flow, and tail-calls the program. Each round of a case is measured beside one
//! with a program that does nothing, its *floor*: the difference of the lowest is what our program
//! costs, as everything else that the machine does only adds. All rounds run on one CPU, as the flow
//! tables have lists per CPU.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use steerage::kernel::Guarding;
use steerage_common::abi::{
    GUARD_LISTS_V4, GUARD_OFFENDERS, Guard, LISTED_DENY, MODE_NAT, MODE_TUNNEL, Rate, VIP_GUE,
    VIP_REMEMBERS,
};
use zerocopy::{Immutable, IntoBytes};

use super::packet::{ACK, Packet, SYN};
use super::{Choices, Family, Plane, VIP_PORT, answer, vip_socket};

/// Rounds of which the lowest counts.
const ROUNDS: usize = 9;
/// Packets in a round.
const PACKETS: u32 = 1 << 18;
/// Backends of the service: enough ports for a million flows.
const BACKENDS: usize = 256;
/// Flows of the largest case.
const FLOWS_MAX: u64 = 1 << 20;
/// First address of the clients (RFC 2544's benchmarking range); 2¹⁴ flows have each address.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// First port of the clients; outside of `nat`'s range, as clients' ports mostly are.
const CLIENT_PORT: u16 = 40_000;

/// `Case` of the wrapper.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Case {
    sent: u64,
    flows_mask: u64,
    bytes: u32,
    is_v6: u32,
    head: [u8; 80],
}

/// What a case cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Its name.
    pub case: &'static str,
    /// Nanoseconds per packet of our program, net of the floor.
    pub ns_net: i64,
    /// Nanoseconds per packet of the wrapper alone.
    pub ns_floor: i64,
}

/// How a case's packets are made, and how many flows they are of.
type Make = fn(SocketAddr, SocketAddr) -> Packet;

fn known(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet::tcp(from, to, ACK)
}

fn opening(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet::tcp(from, to, SYN)
}

/// As short as its answer: the wrapper restores what a program puts in front of a packet, not its end.
fn bare_opening(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet { payload: Vec::new(), ..opening(from, to) }
}

/// To the client's own network: the host's own business.
fn stranger(from: SocketAddr, _: SocketAddr) -> Packet {
    known(from, SocketAddr::new(from.ip(), 80))
}

/// Cases of mode `tunnel`: name, family of vip and backends, flags of the vip, packets, flows.
const TUNNEL: [(&str, Family, u8, Make, u64); 14] = [
    ("tcp_1", Family::V4, 0, known, 1),
    ("tcp_64k", Family::V4, 0, known, 1 << 16),
    ("tcp_1m", Family::V4, 0, known, FLOWS_MAX),
    ("syn_new", Family::V4, 0, opening, 1 << 24),
    ("udp_1", Family::V4, 0, Packet::udp, 1),
    ("v6_1", Family::V6, 0, known, 1),
    ("v6_64k", Family::V6, 0, known, 1 << 16),
    ("gue_1", Family::V4, VIP_GUE, known, 1),
    ("gue_v6_1", Family::V6, VIP_GUE, known, 1),
    ("non_vip", Family::V4, 0, stranger, 1),
    ("always_1", Family::V4, VIP_REMEMBERS, known, 1),
    ("always_64k", Family::V4, VIP_REMEMBERS, known, 1 << 16),
    ("always_1m", Family::V4, VIP_REMEMBERS, known, FLOWS_MAX),
    ("always_syn_new", Family::V4, VIP_REMEMBERS, opening, 1 << 24),
];

/// A guard that looks at everything and lets it pass: a list, and a rate that nobody reaches.
const WATCHFUL: Guard = Guard {
    packets: Rate { interval_ns: 1, burst_ns: 1 << 40 },
    syns: Rate { interval_ns: 1, burst_ns: 1 << 40 },
    mask_v4: [255; 16],
    mask_v6: [255; 16],
    proof_ns: 1 << 40,
    hold_ns: 1 << 40,
    flood_begins: 0,
    flood_goes_on: 0,
    batch: 64,
    flags: GUARD_LISTS_V4 | GUARD_OFFENDERS,
    scope: 1,
    reserved: [0; 3],
};

/// One that challenges every SYN.
const CHALLENGING: Guard = Guard { flood_begins: 1, ..WATCHFUL };

/// Cases of mode `tunnel` with a guard: name, the guard, packets, flows. Flows share clients' addresses.
const GUARDED: [(&str, Guard, Make, u64); 4] = [
    ("guard_1", WATCHFUL, known, 1),
    ("guard_64k", WATCHFUL, known, 1 << 16),
    ("guard_syn_new", WATCHFUL, opening, 1 << 24),
    ("challenge_syn", CHALLENGING, bare_opening, 1 << 24),
];

/// Cases of mode `nat`.
const NAT: [(&str, Make, u64); 6] = [
    ("nat_1", known, 1),
    ("nat_udp_1", Packet::udp, 1),
    ("nat_64k", known, 1 << 16),
    ("nat_1m", known, FLOWS_MAX),
    ("nat_syn_new", opening, 1 << 24),
    ("nat_reply", known, 1),
];

/// A plane with the wrapper beside it.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Bench {
    plane: Plane,
    wrapper: Ebpf,
    case: Array<MapData, [u8; size_of::<Case>()]>,
    under_test: ProgramArray<MapData>,
}

impl Bench {
    /// Loads the program and the wrapper.
    ///
    /// # Errors
    /// If this process is not root, or the wrapper was not built.
    pub fn new(family: Family, mode: u8, flags: u8) -> Result<Self> {
        // Each CPU has its share of the tables; all packets run on one.
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)? as u32;
        let plane = Plane::with(Choices {
            weights: vec![1; BACKENDS],
            tiers: Vec::new(),
            max_flows: (FLOWS_MAX as u32 + (1 << 16)) * cpus,
            vips: family,
            backends: family,
            mode,
            flags,
            ..Choices::default()
        })?;
        let path = env!("STEERAGE_EBPF_BENCH_OBJECT");
        let object = fs::read(path).with_context(|| {
            format!(
                "reading the wrapper {path:?} (with STEERAGE_EBPF_OBJECT it must lie beside it)"
            )
        })?;
        let mut wrapper = Ebpf::load(&object).context("loading the wrapper")?;
        for name in ["bench", "bench_floor"] {
            let program: &mut Xdp =
                wrapper.program_mut(name).context("a program of the wrapper")?.try_into()?;
            program.load()?;
        }
        let case = Array::try_from(wrapper.take_map("CASE").context("the wrapper's case")?)?;
        let under_test = wrapper.take_map("UNDER_TEST").context("the wrapper's program table")?;
        Ok(Self { plane, wrapper, case, under_test: ProgramArray::try_from(under_test)? })
    }

    fn measure(
        &mut self,
        case: &'static str,
        ifindex: u32,
        packet: &Packet,
        flows: u64,
    ) -> Result<Cost> {
        let frame = packet.frame();
        let mut head = [0; 80];
        let copied = frame.len().min(head.len());
        head[..copied].copy_from_slice(&frame[..copied]);
        let is_v6 = u32::from(packet.source.is_ipv6());
        self.set(Case { sent: 0, flows_mask: flows - 1, bytes: frame.len() as u32, is_v6, head })?;
        let ours = self.plane.kernel.program()?.fd()?.try_clone()?;
        let wrapper: &Xdp = self.wrapper.program("bench_floor").context("the floor")?.try_into()?;
        let floor = wrapper.fd()?.try_clone()?;
        // Every flow that a later packet may be of is known before the clock starts.
        let known = flows.min(2 * FLOWS_MAX) as u32;
        self.round(&ours, ifindex, &frame, known.max(PACKETS))?;
        let (mut gross, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            floors.push(self.round(&floor, ifindex, &frame, PACKETS)?);
            gross.push(self.round(&ours, ifindex, &frame, PACKETS)?);
        }
        let (gross, ns_floor) = (lowest(gross), lowest(floors));
        Ok(Cost { case, ns_net: gross - ns_floor, ns_floor })
    }

    fn set(&mut self, case: Case) -> Result<()> {
        let mut bytes = [0; size_of::<Case>()];
        bytes.copy_from_slice(case.as_bytes());
        Ok(self.case.set(0, bytes, 0)?)
    }

    /// Nanoseconds per packet of one round.
    fn round(
        &mut self,
        program: &ProgramFd,
        ifindex: u32,
        frame: &[u8],
        packets: u32,
    ) -> Result<i64> {
        self.under_test.set(0, program, 0)?;
        let wrapper: &Xdp = self.wrapper.program("bench").context("the wrapper")?.try_into()?;
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let result = self.plane.host.enter(|| -> Result<_> {
            stay_on_one_cpu()?;
            Ok(wrapper.test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                repeat: packets,
                ..TestRunOptions::new()
            })?)
        })?;
        // Dropped or aborted packets would be measured as fast ones.
        ensure!(result.return_value >= 2, "the program returned {}", result.return_value);
        Ok(result.duration.as_nanos() as i64)
    }
}

/// Measures the cases that `wanted` names, or all of them, telling `report` of each as it is done.
///
/// # Errors
/// If this process is not root, the kernel refuses a run, or the program decides otherwise than the
/// case says.
pub fn run(wanted: &[String], mut report: impl FnMut(&Cost)) -> Result<()> {
    let is_wanted = |case: &str| wanted.is_empty() || wanted.iter().any(|name| name == case);
    let tunnel = TUNNEL.iter().filter(|(case, ..)| is_wanted(case));
    let mut bench: Option<((Family, u8), Bench)> = None;
    for (case, family, flags, make, flows) in tunnel {
        // Cases that follow each other share a plane if they can.
        let kind = (*family, *flags);
        if bench.as_ref().is_none_or(|(of, _)| *of != kind) {
            drop(bench.take());
            bench = Some((kind, Bench::new(*family, MODE_TUNNEL, *flags)?));
        }
        let Some((_, bench)) = &mut bench else { continue };
        let packet = make(first_client(*family), SocketAddr::new(family.vip(), VIP_PORT));
        report(&bench.measure(case, bench.plane.host.client_ifindex, &packet, *flows)?);
    }
    drop(bench);
    if GUARDED.iter().any(|(case, ..)| is_wanted(case)) {
        let mut bench = Bench::new(Family::V4, MODE_TUNNEL, 0)?;
        for (case, guard, make, flows) in GUARDED.iter().filter(|(case, ..)| is_wanted(case)) {
            let listed = "203.0.113.0/24".parse().context("a prefix")?;
            let prefixes = vec![(listed, LISTED_DENY)];
            bench.plane.set_guard(Guarding { guard: *guard, prefixes })?;
            let packet = make(first_client(Family::V4), vip_socket());
            report(&bench.measure(case, bench.plane.host.client_ifindex, &packet, *flows)?);
        }
    }
    if !NAT.iter().any(|(case, ..)| is_wanted(case)) {
        return Ok(());
    }
    let mut bench = Bench::new(Family::V4, MODE_NAT, 0)?;
    let (client, vip) = (first_client(Family::V4), vip_socket());
    for (case, make, flows) in NAT.iter().filter(|(case, ..)| is_wanted(case)) {
        let (ifindex, packet) = match *case {
            "nat_reply" => (
                bench.plane.host.backend_ifindex,
                // The flow of one case may have left the table by the next.
                answer(&bench.plane.from_client(&known(client, vip)).sent()),
            ),
            _ => (bench.plane.host.client_ifindex, make(client, vip)),
        };
        report(&bench.measure(case, ifindex, &packet, *flows)?);
    }
    Ok(())
}

fn first_client(family: Family) -> SocketAddr {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0);
    let address = if family == Family::V4 { CLIENTS.into() } else { v6.into() };
    SocketAddr::new(address, CLIENT_PORT)
}

fn stay_on_one_cpu() -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("a CPU to run on")?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

fn lowest(values: Vec<i64>) -> i64 {
    values.into_iter().min().unwrap_or_default()
}
