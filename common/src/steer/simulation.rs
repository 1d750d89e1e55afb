//! A million flows through random adds, removes, changes of weight, deaths, recoveries and drains, in
//! two tiers. Whoever recovers warms up.
//!
//!
//! The table never fills here: what it forgets, nobody can promise. Time goes in ticks; a flow that is
//! silent for longer than the idle limit is over, as `flow_idle` says.

use std::collections::HashMap;

use super::{Choice, Kind, Memory, NOBODY, Standing, decide};
use crate::candidates;
use crate::hash::mix;
use crate::life::IdleLimits;
use crate::limits::RING_ENTRIES;
use crate::maglev::{Cursor, Member, populate};
use crate::ring::{Entry, position};
use crate::slot::Slot;

const SLOTS: u16 = 24;
const TICKS: u32 = 250;
const NEW_FLOWS: usize = 4_000;
/// Of all live flows this share sends in a tick; the idle limits are many times the mean pause.
const SENDING: u64 = 3;
const IDLE: IdleLimits = IdleLimits { segments: 30, datagrams: 8 };

#[derive(Clone, Copy, Default)]
struct Backend {
    identity: u64,
    epoch: u32,
    weight: u16,
    tier: u8,
    seated: bool,
    standing: Standing,
    /// In 256ths.
    warmth: u64,
}

#[derive(Clone, Copy)]
struct Flow {
    hash: u64,
    is_tcp: bool,
    slot: u16,
    epoch: u32,
    heard: u32,
}

struct Record {
    slot: u16,
    epoch: u32,
    position: usize,
    home: u16,
    is_tcp: bool,
    heard: u32,
}

struct World {
    random: u64,
    backends: [Backend; SLOTS as usize],
    ring: Vec<Entry>,
    /// Who serves each position of the second tier's ring, if there is a lower one.
    second: Vec<u16>,
    changed_at: HashMap<usize, u32>,
    table: HashMap<u64, Record>,
    now: u32,
    asked: u64,
    packets: u64,
    /// Flows sent to the second tier though the first has members.
    descended: u64,
    /// Connections that whoever warms up did not take.
    refused: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: mix(seed),
            backends: [Backend::default(); SLOTS as usize],
            ring: vec![Entry::EMPTY; RING_ENTRIES],
            second: Vec::new(),
            changed_at: HashMap::new(),
            table: HashMap::new(),
            now: 0,
            asked: 0,
            packets: 0,
            descended: 0,
            refused: 0,
        };
        for slot in 0..8 {
            world.seat(slot);
        }
        world.publish(&[]);
        world
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    fn seat(&mut self, slot: u16) {
        let identity = self.draw();
        let weight = 1 + self.below(9) as u16;
        // Few are of the first tier: the second one serves now and then.
        let tier = u8::from(!slot.is_multiple_of(8));
        let backend = &mut self.backends[usize::from(slot)];
        let standing = Standing { accepts_new: true, keeps_flows: true, ..backend.standing };
        let epoch = backend.epoch + 1;
        *backend = Backend { identity, epoch, weight, tier, seated: true, standing, warmth: 256 };
    }

    fn set(&mut self, slot: u16, accepts_new: bool, keeps_flows: bool) {
        let standing = &mut self.backends[usize::from(slot)].standing;
        *standing = Standing { accepts_new, keeps_flows, ..*standing };
    }

    /// As the supervisor does: the new ring builds on the one in force.
    fn publish(&mut self, freed: &[u16]) {
        let mut rings = [0, 1].map(|tier| self.filled(tier)).into_iter().flatten();
        let slots = rings.next().unwrap_or_else(|| vec![NOBODY; RING_ENTRIES]);
        self.second = rings.next().unwrap_or_default();
        for (index, (entry, slot)) in self.ring.iter_mut().zip(slots).enumerate() {
            *entry = entry.passed_to(Slot::new(slot));
            if freed.contains(&entry.former_raw()) {
                *entry = entry.without_former();
            }
            if entry.is_changed() {
                self.changed_at.entry(index).or_insert(self.now);
            }
        }
    }

    /// The ring of a tier that has members.
    fn filled(&self, tier: u8) -> Option<Vec<u16>> {
        let mut members: Vec<Member> = (0..SLOTS)
            .zip(&self.backends)
            .filter(|(_, of)| of.seated && of.weight > 0 && of.tier == tier)
            .map(|(slot, backend)| Member {
                identity: backend.identity,
                slot: Slot::new(slot).unwrap(),
                weight: backend.weight,
            })
            .collect();
        let mut cursors = vec![Cursor::default(); members.len()];
        let mut slots = vec![NOBODY; RING_ENTRIES];
        populate([1, 2], &mut members, &mut cursors, &mut slots).then_some(slots)
    }

    /// As the program does: tier by tier.
    fn pick(&self, hash: u64) -> u16 {
        let first: &dyn Fn(usize) -> u16 = &|at| self.ring[at].current().map_or(NOBODY, Slot::raw);
        let second: &dyn Fn(usize) -> u16 = &|at| self.second.get(at).copied().unwrap_or(NOBODY);
        let picks = [(0, first), (1, second)].map(|(rank, ring)| {
            match candidates::next(hash, &Tier { world: self, ring, hash }) {
                NOBODY => candidates::any(hash, |word| self.takers(word, rank)),
                slot => slot,
            }
        });
        picks.into_iter().find(|slot| *slot != NOBODY).unwrap_or(NOBODY)
    }

    /// Who takes work of the first or second tier that has members.
    fn takers(&self, word: u32, rank: usize) -> u64 {
        let is_member = |of: &&Backend| of.seated && of.weight > 0;
        let mut tiers: Vec<u8> = self.backends.iter().filter(is_member).map(|of| of.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let Some(tier) = tiers.get(rank).filter(|_| word == 0) else { return 0 };
        let takes = |of: &&Backend| is_member(of) && of.tier == *tier && of.standing.accepts_new;
        let all = (0..SLOTS).zip(&self.backends).filter(|(_, of)| takes(of));
        all.fold(0, |bits, (slot, _)| bits | 1 << slot)
    }

    /// Whether somebody of a lower tier would have taken work that `slot` was given.
    fn is_passed_over(&self, slot: u16) -> bool {
        let tier = self.backends[usize::from(slot)].tier;
        let takes = |of: &Backend| of.seated && of.weight > 0 && of.standing.accepts_new;
        self.backends.iter().any(|of| of.tier < tier && takes(of))
    }

    fn disturb(&mut self) {
        let slot = self.below(SLOTS.into()) as u16;
        let backend = self.backends[usize::from(slot)];
        match (backend.seated, self.below(7)) {
            (false, 0..=3) => {
                self.seat(slot);
                self.publish(&[]);
            }
            (true, 0) => {
                self.backends[usize::from(slot)].seated = false;
                self.set(slot, false, false);
                self.publish(&[slot]);
            }
            (true, 1) => {
                self.backends[usize::from(slot)].weight = self.below(10) as u16;
                self.publish(&[]);
            }
            (true, 2) => self.set(slot, false, false),
            (true, 3) => self.set(slot, false, true),
            (true, _) => {
                let of = &mut self.backends[usize::from(slot)];
                if !of.standing.accepts_new {
                    of.warmth = 25;
                    of.standing.has_strays = true;
                }
                self.set(slot, true, true);
            }
            (false, _) => {}
        }
    }

    fn standing(&self, slot: u16) -> Standing {
        self.backends.get(usize::from(slot)).map_or(Standing::default(), |backend| backend.standing)
    }

    fn admits(&self, slot: u16, hash: u64) -> bool {
        self.backends.get(usize::from(slot)).is_none_or(|of| (mix(hash) & 0xff) < of.warmth)
    }

    /// A packet; gives the slot that it goes to, [`NOBODY`] if it is dropped.
    fn packet(&mut self, flow: &Flow, kind: Kind) -> u16 {
        let (hash, now) = (flow.hash, self.now);
        let index = position(hash, 0) as usize;
        let entry = self.ring[index];
        let (mut asked, mut refused) = (0, 0);
        let choice = decide(
            entry,
            kind,
            false,
            |slot| self.standing(slot),
            || {
                asked = 1;
                let record = self
                    .table
                    .get(&hash)
                    .filter(|record| self.backends[usize::from(record.slot)].epoch == record.epoch);
                record.map_or(Memory::NONE, |record| Memory {
                    slot: record.slot,
                    has_weight: self.backends[usize::from(record.slot)].weight > 0,
                })
            },
            |slot| {
                let is_in = self.admits(slot, hash);
                refused += u64::from(!is_in);
                is_in
            },
        );
        self.asked += asked;
        self.refused += refused;
        self.packets += 1;
        if asked == 1
            && let Some(record) = self.table.get_mut(&hash)
        {
            record.heard = now;
        }
        let Choice { mut slot, remember, .. } = choice;
        if slot == NOBODY {
            slot = self.pick(hash);
            if slot == NOBODY {
                return NOBODY;
            }
            assert!(!self.is_passed_over(slot), "a lower tier has somebody");
            let home = self.backends.get(usize::from(entry.current_raw()));
            let tier = self.backends[usize::from(slot)].tier;
            self.descended += u64::from(home.is_some_and(|home| home.tier < tier));
            if let Some(home) = self.backends.get_mut(usize::from(entry.current_raw())) {
                home.standing.has_strays = true;
            }
        }
        if remember {
            let epoch = self.backends[usize::from(slot)].epoch;
            let (home, is_tcp) = (entry.current_raw(), flow.is_tcp);
            let record = Record { slot, epoch, position: index, home, is_tcp, heard: now };
            self.table.insert(hash, record);
        }
        slot
    }

    /// As the supervisor does: entries settle, strays come to an end.
    fn settle(&mut self) {
        let now = self.now;
        self.table.retain(|_, record| {
            let idle = if record.is_tcp { IDLE.segments } else { IDLE.datagrams };
            now - record.heard <= idle
        });
        let ring = &self.ring;
        let strays: std::collections::HashSet<usize> = self
            .table
            .values()
            .filter(|record| record.slot != ring[record.position].current_raw())
            .map(|record| record.position)
            .collect();
        let ring = &mut self.ring;
        self.changed_at.retain(|index, since| {
            let entry = &mut ring[*index];
            *entry = entry.aged(now - *since, &IDLE, strays.contains(index));
            entry.is_changed()
        });
        for (slot, backend) in (0..SLOTS).zip(&mut self.backends) {
            let has_strays =
                self.table.values().any(|record| record.home == slot && record.slot != slot);
            backend.warmth = (backend.warmth + 12).min(256);
            if backend.standing.accepts_new && !has_strays && backend.warmth == 256 {
                backend.standing.has_strays = false;
            }
        }
    }
}

struct Tier<'a> {
    world: &'a World,
    ring: &'a dyn Fn(usize) -> u16,
    hash: u64,
}

impl candidates::Tier for Tier<'_> {
    fn at(&self, position: u32) -> u16 {
        (self.ring)(position as usize)
    }

    fn takes(&self, slot: u16) -> bool {
        self.world.standing(slot).accepts_new
    }

    fn is_eager(&self, slot: u16) -> bool {
        self.world.admits(slot, self.hash)
    }
}

/// Flows that moved although they need not have: of TCP, of UDP.
fn run(seed: u64) -> ([u64; 2], World) {
    let mut world = World::new(seed);
    let mut flows: Vec<Flow> = Vec::new();
    let mut moved = [0; 2];
    for now in 0..TICKS {
        world.now = now;
        if world.below(3) == 0 && now < TICKS * 3 / 4 {
            world.disturb();
        }
        for _ in 0..NEW_FLOWS {
            let hash = world.draw();
            let is_tcp = hash & 7 != 0;
            let kind = if is_tcp { Kind::Opening } else { Kind::Datagram };
            let mut flow = Flow { hash, is_tcp, slot: NOBODY, epoch: 0, heard: now };
            flow.slot = world.packet(&flow, kind);
            if flow.slot != NOBODY {
                flow.epoch = world.backends[usize::from(flow.slot)].epoch;
                flows.push(flow);
            }
        }
        flows.retain_mut(|flow| {
            let idle = if flow.is_tcp { IDLE.segments } else { IDLE.datagrams };
            if now - flow.heard > idle || world.below(40) == 0 {
                return false;
            }
            if world.below(SENDING) != 0 {
                return true;
            }
            let kind = if flow.is_tcp { Kind::Segment } else { Kind::Datagram };
            let slot = world.packet(flow, kind);
            let former = world.backends[usize::from(flow.slot)];
            let is_well = former.epoch == flow.epoch && former.standing.keeps_flows;
            if slot != flow.slot && is_well {
                moved[usize::from(!flow.is_tcp)] += 1;
            }
            flow.heard = now;
            flow.slot = slot;
            flow.epoch = world.backends.get(usize::from(slot)).map_or(0, |to| to.epoch);
            slot != NOBODY
        });
        world.settle();
    }
    (moved, world)
}

#[test]
fn of_a_million_flows_none_moves_without_need() {
    const SEED: u64 = 1;
    let (moved, mut world) = run(SEED);
    assert!(world.packets > 10_000_000, "{} packets", world.packets);
    assert_eq!(moved, [0, 0], "seed {SEED}: TCP and UDP flows that moved");
    assert!(world.asked < world.packets, "every packet asked the table");
    assert!(world.descended > 10_000, "the second tier served {} flows", world.descended);
    // When nobody sends any more all that was remembered comes to an end.
    world.now += IDLE.segments + 1;
    world.settle();
    assert!(world.changed_at.is_empty(), "{} entries are changed still", world.changed_at.len());
    let well = world.backends.iter().filter(|backend| backend.standing.accepts_new);
    assert_eq!(well.filter(|backend| backend.standing.has_strays).count(), 0);
    assert!(world.refused > 1_000, "{} connections were refused", world.refused);
    let World { packets, asked, descended, refused, .. } = world;
    println!(
        "{packets} packets, {asked} asked the table; {descended} flows went a tier down, {refused} were \
         refused by whoever warmed up"
    );
}
