//! The shared region: the words that supervisor, workers and the kernel programs all see.
//!
//! Each table is one mapping of a BPF array (`BPF_F_MMAPABLE`), or of a memfd of the same layout
//! where eBPF is not to be had. Nothing here makes a system call after the mapping, and nothing
//! locks: health words change by compare-and-swap ([`steerage_common::publish`]), every other word
//! has a single writer.
//!
//! Layouts are those of [`steerage_common::abi`]; the views in [`cells`] give their words as atomics.

mod backends;
pub mod capture;
pub mod cells;
pub mod clients;
pub mod figures;
mod group;
pub mod reports;
pub mod rings;
mod segment;
pub mod tickets;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use steerage_common::abi::{self, CLIENT_BUCKETS, active_half};
use steerage_common::crew;
use steerage_common::health::{Event, Policy, Ticks, Word};
use steerage_common::latency::Timer;
use steerage_common::limits::{HEALTH_WORDS, SERVICES, SLOTS, SLOTS_PER_WORD, WORKERS};
use steerage_common::publish::{self, Change};
use steerage_common::slot::Slot;
use steerage_common::steer::Standing;

pub use cells::{Cell, Control, ServiceLine, WorkerLine, add};
use figures::Figures;
pub use figures::{ListenerLine, RouteLine, Times};
pub use group::Group;
use segment::Segment;
pub use tickets::Tickets;

/// A backend's hold on its slot: news about an earlier tenant of the slot change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tenant {
    slot: u16,
    /// The slot's tenancy.
    pub epoch: u32,
}

impl Tenant {
    /// The tenant of `slot` in its tenancy `epoch`.
    #[must_use]
    pub fn new(slot: Slot, epoch: u32) -> Self {
        Self { slot: slot.raw(), epoch }
    }

    /// The slot.
    ///
    /// # Panics
    /// If the value was deserialized from something that [`Tenant::new`] did not make.
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot::new(self.slot).expect("a tenant's slot is below SLOTS")
    }
}

/// The descriptors of the region's tables: BPF maps or memfds.
#[derive(Debug)]
pub struct Fds {
    /// `CONTROL`.
    pub control: OwnedFd,
    /// `BACKENDS`.
    pub backends: OwnedFd,
    /// `HEALTH`.
    pub health: OwnedFd,
    /// `STATE`.
    pub state: OwnedFd,
    /// `SERVICES`.
    pub services: OwnedFd,
    /// `CREW`.
    pub crew: OwnedFd,
    /// `WORKERS`.
    pub workers: OwnedFd,
    /// `REPORTS`.
    pub reports: OwnedFd,
    /// `CELLS`.
    pub cells: OwnedFd,
    /// `TICKETS`.
    pub tickets: OwnedFd,
    /// `CLIENTS`.
    pub clients: OwnedFd,
    /// [`figures`]: always memory.
    pub figures: OwnedFd,
}

impl Fds {
    /// Fresh memfds, for a region without eBPF.
    ///
    /// # Errors
    /// If there is no memory or no descriptor left.
    pub fn in_memory(workers: usize) -> io::Result<Self> {
        let memory = |name, bytes| crate::sys::shared_memory(name, segment::page_rounded(bytes));
        Ok(Self {
            control: memory("steerage-control", size_of::<abi::Control>())?,
            backends: memory("steerage-backends", 2 * size_of::<abi::BackendTable>())?,
            health: memory("steerage-health", HEALTH_WORDS * size_of::<abi::HealthWord>())?,
            state: memory("steerage-state", SLOTS * size_of::<u64>())?,
            services: memory("steerage-services", SERVICES * size_of::<abi::ServiceLine>())?,
            crew: memory("steerage-crew", size_of::<abi::Crew>())?,
            workers: memory("steerage-workers", WORKERS * size_of::<abi::WorkerLine>())?,
            reports: memory("steerage-reports", WORKERS * size_of::<abi::ReportLine>())?,
            cells: memory("steerage-cells", workers * SLOTS * size_of::<abi::Cell>())?,
            tickets: memory("steerage-tickets", size_of::<abi::TicketKeys>())?,
            clients: memory(
                "steerage-clients",
                workers * CLIENT_BUCKETS * size_of::<abi::ClientBucket>(),
            )?,
            figures: figures::memory(workers)?,
        })
    }

    /// All descriptors, in the order of the fields.
    #[must_use]
    pub fn all(&self) -> [BorrowedFd<'_>; 12] {
        [
            self.control.as_fd(),
            self.backends.as_fd(),
            self.health.as_fd(),
            self.state.as_fd(),
            self.services.as_fd(),
            self.crew.as_fd(),
            self.workers.as_fd(),
            self.reports.as_fd(),
            self.cells.as_fd(),
            self.tickets.as_fd(),
            self.clients.as_fd(),
            self.figures.as_fd(),
        ]
    }

    /// The inverse of [`Fds::all`].
    #[must_use]
    pub fn from_all(all: [OwnedFd; 12]) -> Self {
        let [
            control,
            backends,
            health,
            state,
            services,
            crew,
            workers,
            reports,
            cells,
            tickets,
            clients,
            figures,
        ] = all;
        Self {
            control,
            backends,
            health,
            state,
            services,
            crew,
            workers,
            reports,
            cells,
            tickets,
            clients,
            figures,
        }
    }
}

/// The mapped region.
#[derive(Debug)]
pub struct Region {
    control: Segment<Control>,
    backends: Segment<backends::Table>,
    health: Segment<cells::HealthWord>,
    state: Segment<AtomicU64>,
    services: Segment<ServiceLine>,
    crew: Segment<cells::Crew>,
    workers: Segment<WorkerLine>,
    reports: Segment<reports::Line>,
    cells: Segment<Cell>,
    tickets: Arc<Tickets>,
    clients: Segment<clients::Bucket>,
    figures: Figures,
}

impl Region {
    /// Maps the tables; `cell_workers` is the number of workers that `CELLS` has room for.
    ///
    /// # Errors
    /// If a table can't be mapped: it is no mmapable map, or smaller than the layout says.
    pub fn map(fds: &Fds, cell_workers: usize) -> io::Result<Self> {
        Ok(Self {
            control: Segment::map(&fds.control, 1)?,
            backends: Segment::map(&fds.backends, 2)?,
            health: Segment::map(&fds.health, HEALTH_WORDS)?,
            state: Segment::map(&fds.state, SLOTS)?,
            services: Segment::map(&fds.services, SERVICES)?,
            crew: Segment::map(&fds.crew, 1)?,
            workers: Segment::map(&fds.workers, WORKERS)?,
            reports: Segment::map(&fds.reports, WORKERS)?,
            cells: Segment::map(&fds.cells, cell_workers * SLOTS)?,
            tickets: Arc::new(Tickets::map(&fds.tickets)?),
            clients: Segment::map(&fds.clients, cell_workers * CLIENT_BUCKETS)?,
            figures: Figures::map(&fds.figures, cell_workers)?,
        })
    }

    /// A region of its own in memory, for tests and for hosts without eBPF.
    ///
    /// # Errors
    /// If there is no memory or no descriptor left.
    pub fn in_memory(workers: usize) -> io::Result<Self> {
        Self::map(&Fds::in_memory(workers)?, workers)
    }

    /// The control line.
    #[must_use]
    pub fn control(&self) -> &Control {
        self.control.get(0)
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.control().generation.load(Ordering::Acquire)
    }

    /// Whether the slot takes new work.
    #[inline]
    #[must_use]
    pub fn accepts_new(&self, slot: Slot) -> bool {
        self.health_word(slot.word()) & slot.mask() != 0
    }

    /// The "takes new work" bits of slots `64 * index` and up.
    ///
    /// # Panics
    /// If `index` is not below [`HEALTH_WORDS`].
    #[inline]
    #[must_use]
    pub fn health_word(&self, index: usize) -> u64 {
        self.health.get(index).accepts_new.load(Ordering::Acquire)
    }

    /// Whether the slot's existing flows stay.
    #[must_use]
    pub fn keeps_flows(&self, slot: Slot) -> bool {
        self.health.get(slot.word()).keeps_flows.load(Ordering::Acquire) & slot.mask() != 0
    }

    /// Begins to clear the marks of slots that have strays, of those slots `64 * index` and up that take
    /// new work: gives the slots whose strays are to be looked for.
    pub fn review_strays(&self, index: usize) -> u64 {
        let word = self.health.get(index);
        // What a review that was cut short left is taken up by this one.
        let marked = word.strays.load(Ordering::Acquire) | word.reviewed.load(Ordering::Acquire);
        let slots = marked & word.accepts_new.load(Ordering::Acquire);
        word.reviewed.fetch_or(slots, Ordering::AcqRel);
        word.strays.fetch_and(!slots, Ordering::AcqRel);
        slots
    }

    /// Ends what [`Region::review_strays`] began: `found` of the `slots` have strays still. Those that
    /// warm up stay marked too.
    pub fn end_review(&self, index: usize, slots: u64, found: u64) {
        let word = self.health.get(index);
        let slot = |bit| Slot::new((index * SLOTS_PER_WORD) as u16 + bit);
        let is_warming = |bit: &u16| slot(*bit).is_some_and(|slot| self.word(slot).is_warming());
        let marked = (0..SLOTS_PER_WORD as u16).filter(|bit| slots >> bit & 1 != 0);
        let warming = marked.filter(is_warming).fold(0, |bits, bit| bits | 1 << bit);
        word.strays.fetch_or(slots & (found | warming), Ordering::AcqRel);
        word.reviewed.fetch_and(!slots, Ordering::AcqRel);
    }

    /// The slots `64 * index` and up that have strays, as far as the packet programs know.
    #[must_use]
    pub fn strays(&self, index: usize) -> u64 {
        let word = self.health.get(index);
        word.strays.load(Ordering::Acquire) | word.reviewed.load(Ordering::Acquire)
    }

    /// What the packet programs make of a slot, for work of a service.
    #[must_use]
    pub fn standing(&self, service: u16, slot: Slot) -> Standing {
        let word = self.health.get(slot.word());
        let words = [
            word.accepts_new.load(Ordering::Acquire),
            word.keeps_flows.load(Ordering::Acquire),
            self.strays(slot.word()),
        ];
        Standing::of(words, slot.mask(), || {
            let panicking = self.service(service).panicking.load(Ordering::Acquire);
            u64::from(self.entry(slot).tier) + 1 == panicking && self.word(slot).serves_in_panic()
        })
    }

    /// The slot's state.
    #[inline]
    #[must_use]
    pub fn word(&self, slot: Slot) -> Word {
        Word::from_raw(self.state.get(slot.index()).load(Ordering::Acquire))
    }

    /// Applies an event to a backend's state, and publishes the outcome to every reader of the
    /// bitmap. `None` if the slot has another tenant by now.
    pub fn apply(&self, tenant: Tenant, event: Event, policy: &Policy) -> Option<Change> {
        self.apply_at(tenant, event, crate::clock::now_ticks(), policy)
    }

    /// [`Region::apply`] at a given time.
    pub fn apply_at(
        &self,
        tenant: Tenant,
        event: Event,
        now: Ticks,
        policy: &Policy,
    ) -> Option<Change> {
        publish::apply(self.slot_cells(tenant.slot()), tenant.epoch, event, now, policy)
    }

    /// Makes the slot's bits agree with its state, whatever became of the process that changed it.
    pub fn publish(&self, slot: Slot) {
        let word = self.word(slot);
        let is_marked = self.strays(slot.word()) & slot.mask() != 0;
        if word.accepts_new() != self.accepts_new(slot)
            || word.keeps_flows() != self.keeps_flows(slot)
            || word.is_warming() && !is_marked
        {
            publish::publish(self.slot_cells(slot));
        }
    }

    fn slot_cells(&self, slot: Slot) -> publish::Cells<'_, AtomicU64> {
        let health = self.health.get(slot.word());
        publish::Cells {
            state: self.state.get(slot.index()),
            accepts_new: &health.accepts_new,
            keeps_flows: &health.keeps_flows,
            strays: &health.strays,
            mask: slot.mask(),
        }
    }

    /// Workers that `CELLS` has room for.
    #[must_use]
    pub fn cell_workers(&self) -> usize {
        self.cells.len() / SLOTS
    }

    /// What a worker did with a backend.
    ///
    /// # Panics
    /// If there is no room for `worker`.
    #[inline]
    #[must_use]
    pub fn cell(&self, worker: usize, slot: Slot) -> &Cell {
        self.cells.get(worker * SLOTS + slot.index())
    }

    /// Makes all workers' counters for a slot zero. Only while no worker writes them: nobody holds the slot.
    pub fn clear_cells(&self, slot: Slot) {
        for worker in 0..self.cell_workers() {
            if let Some(times) = self.times(worker, slot) {
                times.clear();
            }
            self.cell(worker, slot).clear();
        }
    }

    /// How long things took a worker at a backend; `None` if nothing was timed: a look at memory that
    /// nobody wrote to would bring its page into being.
    ///
    /// # Panics
    /// If there is no room for `worker`.
    #[must_use]
    pub fn times(&self, worker: usize, slot: Slot) -> Option<&Times> {
        let is_timed = self.cell(worker, slot).is_timed.load(Ordering::Relaxed) != 0;
        is_timed.then(|| self.figures.times(worker, slot))
    }

    /// Notes how long something took a worker at a backend.
    ///
    /// # Panics
    /// If there is no room for `worker`.
    #[inline]
    pub fn note_time(&self, worker: usize, slot: Slot, timer: Timer, us: u64) {
        self.cell(worker, slot).is_timed.store(1, Ordering::Relaxed);
        self.figures.note_time(worker, slot, timer, us);
    }

    /// Sees to it that listeners and routes of these identities have lines; gives how many have none
    /// because there are too many. Supervisor only.
    #[must_use]
    pub fn seat_figures(&self, listeners: &[u64], routes: &[u64]) -> usize {
        self.figures.seat(listeners, routes)
    }

    /// The line of a listener, if it has one.
    #[must_use]
    pub fn listener_line(&self, identity: u64) -> Option<u16> {
        self.figures.listener_line(identity)
    }

    /// The line of a route, if it has one.
    #[must_use]
    pub fn route_line(&self, identity: u64) -> Option<u16> {
        self.figures.route_line(identity)
    }

    /// What a worker did for a listener.
    ///
    /// # Panics
    /// If there is no such worker or line.
    #[inline]
    #[must_use]
    pub fn listener(&self, worker: usize, line: u16) -> &ListenerLine {
        self.figures.listener(worker, line)
    }

    /// What a worker did for a route.
    ///
    /// # Panics
    /// If there is no such worker or line.
    #[inline]
    #[must_use]
    pub fn route(&self, worker: usize, line: u16) -> &RouteLine {
        self.figures.route(worker, line)
    }

    /// What a worker that is gone has open at listeners is open no more.
    pub fn clear_listeners(&self, worker: usize) {
        self.figures.clear_gauges(worker);
    }

    /// A worker's line.
    ///
    /// # Panics
    /// If `worker` is not below [`WORKERS`].
    #[must_use]
    pub fn worker(&self, worker: usize) -> &WorkerLine {
        self.workers.get(worker)
    }

    /// Whether a worker takes connections.
    ///
    /// # Panics
    /// If `worker` is not below [`WORKERS`].
    #[must_use]
    pub fn is_live(&self, worker: usize) -> bool {
        let (word, mask) = live_bit(worker);
        self.crew.get(0).live[word].load(Ordering::Acquire) & mask != 0
    }

    /// Says whether a worker takes connections: from now on the kernel sends it some, or none.
    ///
    /// # Panics
    /// If `worker` is not below [`WORKERS`].
    pub fn set_live(&self, worker: usize, is_live: bool) {
        let (word, mask) = live_bit(worker);
        let live = &self.crew.get(0).live[word];
        if is_live {
            live.fetch_or(mask, Ordering::AcqRel);
        } else {
            live.fetch_and(!mask, Ordering::AcqRel);
        }
    }

    /// A worker's reports.
    ///
    /// # Panics
    /// If `worker` is not below [`WORKERS`].
    #[must_use]
    pub fn reports(&self, worker: usize) -> &reports::Line {
        self.reports.get(worker)
    }

    /// The keys of tickets.
    #[must_use]
    pub fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// A service's line.
    ///
    /// # Panics
    /// If `line` is not below [`SERVICES`].
    #[inline]
    #[must_use]
    pub fn service(&self, line: u16) -> &ServiceLine {
        self.services.get(usize::from(line))
    }

    /// The backend at `slot` in the generation in force; `None` for an unused slot.
    #[must_use]
    pub fn backend(&self, slot: Slot) -> Option<abi::Backend> {
        Some(self.entry(slot)).filter(|entry| entry.family != abi::FAMILY_NONE)
    }

    /// The entry of `slot` in the generation in force, also of an unused slot.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> abi::Backend {
        loop {
            let generation = self.generation();
            let entry = self.backends.get(active_half(generation) as usize).read(slot);
            // Of the generation that was asked for, unless two publications came in between.
            if self.generation() == generation {
                return entry;
            }
        }
    }

    /// Writes the inactive half of the backend table. It is not in force until
    /// [`Region::publish_generation`]. Supervisor only.
    pub fn write_backends(&self, entries: &[(Slot, abi::Backend)]) {
        let next = self.generation() + 1;
        self.backends.get(active_half(next) as usize).write(next, entries);
    }

    /// Puts the inactive halves of all double buffers in force by one store. Supervisor only.
    pub fn publish_generation(&self) -> u64 {
        let next = self.generation() + 1;
        self.control().generation.store(next, Ordering::Release);
        next
    }
}

fn live_bit(worker: usize) -> (usize, u64) {
    assert!(worker < WORKERS, "line {worker} of {WORKERS}");
    crew::place(worker as u16)
}

#[cfg(test)]
mod tests;
