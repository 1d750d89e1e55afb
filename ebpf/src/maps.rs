//! Every map. Layouts are in `steerage_common::abi`; names and layouts are an interface.
//!
//! | map | key | written by |
//! |---|---|---|
//! | `CONTROL` | 0 | supervisor |
//! | `BACKENDS` | half | supervisor, the half not in force |
//! | `HEALTH` | slot / 64 | whoever changed a state word |
//! | `STATE` | slot | everyone, by compare-and-swap |
//! | `SERVICES` | service | supervisor and workers |
//! | `CREW` | 0 | workers and supervisor |
//! | `WORKERS` | worker | workers, and `pending` these programs |
//! | `CELLS` | worker × slot | workers (not read here) |
//! | `TICKETS` | 0 | supervisor (not read here) |
//! | `LISTENERS` | address, port | supervisor |
//! | `SOCKETS` | row of the listener × worker's seat | supervisor |
//! | `REPORTS` | worker | workers (not read here) |
//! | `CLIENTS` | worker × bucket | workers (not read here) |
//! | `VIPS` | address, port, protocol | supervisor |
//! | `ADDRESSES` | address that has vips | supervisor |
//! | `VIP_FILTER` | hash of an address / 64; then how often vips changed | supervisor |
//! | `RINGS` | (service × tiers + tier) × 2 + half | supervisor, the half not in force |
//! | `FLOWS` | flow whose backend the ring does not tell, as the client sees it | these programs |
//! | `NATS` | flow of `nat`, as the backend sees it | these programs |
//! | `VIP_COUNTERS`, `BACKEND_COUNTERS`, `REASON_COUNTERS` | vip, slot, reason | these programs |
//! | `SERVER_IDS` | vip, server id | supervisor |
//! | `GUARDS` | guard | supervisor, while no vip leads to it |
//! | `ACL_V4`, `ACL_V6` | guard, prefix | supervisor, while no vip leads to the guard |
//! | `SOURCES` | scope of a guard, prefix of clients | these programs |
//! | `OFFENDERS` | address | supervisor, as workers say; its bucket these programs |
//! | `FLOODS`, `SYNS` | vip | these programs |
//! | `KNOWN_VIPS` | hash of a service address | these programs |
//! | `ARRIVAL`, `GUEST`, `PIECE`, `QUERY` | 0 | these programs, for the time of one packet |
//! | `FRAGMENTS` | packet that came in pieces | these programs |
//! | `REST` | 0 | supervisor |
//! | `HOPS` | hash of a destination | these programs |
//! | `REFUSALS` | 0 | these programs |
//! | `ASKED` | hash of a next hop | these programs |
//! | `EVENTS` | - | these programs, for the supervisor |
//! | `CAPTURE` | 0 | whoever captures |
//! | `CAPTURED` | - | these programs, for whoever captures |
//! | `COPY` | 0 | these programs, for the time of one packet |
//!
//! The tables of flows and fragments have their least-recently-used lists per CPU: a packet that begins a flow takes no
//! lock that another CPU holds.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU},
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray,
        ReusePortSockArray, RingBuf,
    },
    macros::btf_map,
};
use steerage_common::{
    abi::{
        AddressKey, BackendTable, Cell, ClientBucket, Control, Crew, Flood, Flow, FlowKey,
        FragmentKey, Fragmented, Guard, HealthWord, ListenerKey, Nat, NatKey, NeighborEvent,
        Offender, OffenderKey, RING_LINES, RINGS_MAX, Reason, Refusals, ReportLine, RingLine,
        ServerId, ServerIdKey, ServiceLine, Source, SourceKey, TicketKeys, Traffic,
        VIP_FILTER_WORDS, Vip, VipKey, WorkerLine,
    },
    capture::{Capture, Captured},
    limits,
};

use crate::{
    capture::Copy,
    flow::Arrival,
    fragment::Scratch,
    guard::Guest,
    packet::Address,
    route::{KnownHop, Query},
    vip::KnownVip,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const PER_CPU_LRU: usize = BPF_F_NO_COMMON_LRU as usize;

/// Flows remembered unless the loader asks for another number.
const FLOWS_DEFAULT: usize = 1 << 18;
/// Sources that are told apart unless the loader asks for another number.
const SOURCES_DEFAULT: usize = 1 << 16;
/// Bytes of the ring buffer: 2,000 neighbour events.
const EVENT_BYTES: usize = 1 << 16;
/// Each CPU remembers two to the power of so many service addresses.
pub const KNOWN_VIPS_BITS: u32 = 9;
/// Bytes of the ring buffer of captured packets: 490 of them.
const CAPTURED_BYTES: usize = 1 << 19;
/// Each CPU remembers two to the power of so many next hops.
pub const HOPS_BITS: u32 = 12;
/// Next hops that are told apart when limiting the rate of events.
pub const ASKED_ENTRIES: usize = 64;

/// When userspace was last asked to resolve a next hop, on this CPU.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Asked {
    /// Coarse monotonic time.
    pub at_ns: u64,
    /// The next hop.
    pub address: Address,
    /// The link it is on.
    pub ifindex: u32,
}

#[btf_map]
pub static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static BACKENDS: Array<BackendTable, 2, MMAPABLE> = Array::new();

#[btf_map]
pub static HEALTH: Array<HealthWord, { limits::HEALTH_WORDS }, MMAPABLE> = Array::new();

#[btf_map]
pub static STATE: Array<u64, { limits::SLOTS }, MMAPABLE> = Array::new();

#[btf_map]
pub static SERVICES: Array<ServiceLine, { limits::SERVICES }, MMAPABLE> = Array::new();

#[btf_map]
pub static CREW: Array<Crew, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static WORKERS: Array<WorkerLine, { limits::WORKERS }, MMAPABLE> = Array::new();

#[btf_map]
pub static REPORTS: Array<ReportLine, { limits::WORKERS }, MMAPABLE> = Array::new();

/// The loader sets the number of entries: workers × slots.
#[btf_map]
pub static CELLS: Array<Cell, { limits::SLOTS }, MMAPABLE> = Array::new();

/// The loader sets the number of entries: workers × buckets, which are as many as there are slots.
#[btf_map]
pub static CLIENTS: Array<ClientBucket, { limits::SLOTS }, MMAPABLE> = Array::new();

#[btf_map]
pub static TICKETS: Array<TicketKeys, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, u32, { limits::LISTENERS }> = HashMap::new();

#[btf_map]
pub static SOCKETS: ReusePortSockArray<{ limits::LISTENERS * limits::WORKERS }> =
    ReusePortSockArray::new();

#[btf_map]
pub static VIPS: HashMap<VipKey, Vip, { limits::VIPS }> = HashMap::new();

#[btf_map]
pub static ADDRESSES: HashMap<AddressKey, u32, { limits::VIPS }> = HashMap::new();

#[btf_map]
pub static VIP_FILTER: Array<u64, { VIP_FILTER_WORDS + 1 }> = Array::new();

#[btf_map]
pub static RINGS: ArrayOfMaps<Ring, RINGS_MAX> = ArrayOfMaps::new();

/// One half of a service's pair of rings.
pub type Ring = Array<RingLine, RING_LINES, MMAPABLE>;

#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, FLOWS_DEFAULT, PER_CPU_LRU> = LruHashMap::new();

#[btf_map]
pub static NATS: LruHashMap<NatKey, Nat, FLOWS_DEFAULT, PER_CPU_LRU> = LruHashMap::new();

#[btf_map]
pub static SERVER_IDS: HashMap<ServerIdKey, ServerId, { limits::SERVER_IDS }> = HashMap::new();

#[btf_map]
pub static GUARDS: Array<Guard, { limits::GUARDS }> = Array::new();

/// A guard and a prefix of IPv4 addresses, as words.
pub type ListedV4 = [u32; 2];
/// A guard and a prefix of IPv6 addresses, as words.
pub type ListedV6 = [u32; 5];

#[btf_map]
pub static ACL_V4: LpmTrie<ListedV4, u32, { limits::ACL_PREFIXES }> = LpmTrie::new();

#[btf_map]
pub static ACL_V6: LpmTrie<ListedV6, u32, { limits::ACL_PREFIXES }> = LpmTrie::new();

/// The loader sets the number of entries.
#[btf_map]
pub static SOURCES: LruHashMap<SourceKey, Source, SOURCES_DEFAULT, PER_CPU_LRU> = LruHashMap::new();

#[btf_map]
pub static OFFENDERS: LruHashMap<OffenderKey, Offender, { limits::OFFENDERS }> = LruHashMap::new();

#[btf_map]
pub static FLOODS: Array<Flood, { limits::VIPS }> = Array::new();

/// SYNs that this CPU has not added to [`FLOODS`] yet.
#[btf_map]
pub static SYNS: PerCpuArray<u32, { limits::VIPS }> = PerCpuArray::new();

#[btf_map]
pub static VIP_COUNTERS: PerCpuArray<Traffic, { limits::VIPS }> = PerCpuArray::new();

#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<Traffic, { limits::SLOTS }> = PerCpuArray::new();

#[btf_map]
pub static REASON_COUNTERS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

/// Belongs to one load of the programs and is not pinned.
#[btf_map]
pub static KNOWN_VIPS: PerCpuArray<KnownVip, { 1 << KNOWN_VIPS_BITS }> = PerCpuArray::new();

/// Belongs to one load of the programs and is not pinned.
#[btf_map]
pub static HOPS: PerCpuArray<KnownHop, { 1 << HOPS_BITS }> = PerCpuArray::new();

#[btf_map]
pub static ASKED: PerCpuArray<Asked, ASKED_ENTRIES> = PerCpuArray::new();

/// Scratch space; belongs to one load of the programs and is not pinned.
#[btf_map]
pub static ARRIVAL: PerCpuArray<Arrival, 1> = PerCpuArray::new();

/// As [`ARRIVAL`].
#[btf_map]
pub static GUEST: PerCpuArray<Guest, 1> = PerCpuArray::new();

#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragmented, { limits::FRAGMENTS }, PER_CPU_LRU> =
    LruHashMap::new();

/// The loader puts `steerage_rest` there.
#[btf_map]
pub static REST: ProgramArray<1> = ProgramArray::new();

/// Scratch space; belongs to one load of the programs and is not pinned.
#[btf_map]
pub static QUERY: PerCpuArray<Query, 1> = PerCpuArray::new();

/// Scratch space; belongs to one load of the programs and is not pinned.
#[btf_map]
pub static PIECE: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[btf_map]
pub static REFUSALS: PerCpuArray<Refusals, 1> = PerCpuArray::new();

#[btf_map]
pub static CAPTURE: Array<Capture, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static CAPTURED: RingBuf<Captured, CAPTURED_BYTES> = RingBuf::new();

/// Scratch space; belongs to one load of the programs and is not pinned.
#[btf_map]
pub static COPY: PerCpuArray<Copy, 1> = PerCpuArray::new();

#[btf_map]
pub static EVENTS: RingBuf<NeighborEvent, EVENT_BYTES> = RingBuf::new();
