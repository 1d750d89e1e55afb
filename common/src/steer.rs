//! Which backend a packet goes to, and whether that must be remembered.
//!
//! The ring decides. The flow table is asked only where the ring alone could be wrong:
//!
//! - at an entry that changed lately ([`Entry::is_changed`]): a flow may have begun with the former
//!   slot;
//! - where the entry's slot takes no new work: the flow may have been sent elsewhere, or have to be;
//! - where flows of the entry's slot were sent elsewhere and still live ([`Standing::has_strays`]): they
//!   stay there when the slot is well again;
//! - where the entry's slot has recovered and warms up (marked by the same bit): most connections that
//!   open are sent elsewhere at first. Only an opening segment says that it is new, so a slot has all
//!   datagrams of its own at once.
//!
//! Everywhere else the packet goes where the ring says, with nothing looked up and nothing written.
//! That is most of all packets on a quiet day, and all of a flood's.
//!
//! What is written is what a later packet could not find out by itself: at a changed entry every flow,
//! and every flow that is sent off its ring's choice. So a packet that nobody remembers at a changed
//! entry belongs to a new flow if it opens one, and else to one from before the change. A datagram does
//! not say which; while the entry is young it counts as old.
//!
//! A TCP flow therefore changes its backend only if that can't keep it (dead, or removed), if it was
//! silent for longer than `flow_idle`, or if the table forgot it because it was full.

use crate::ring::Entry;

/// No slot. Not an `Option`: the kernel refuses a program that copies the value of a `None`, as the
/// compiler is free to.
pub const NOBODY: u16 = u16::MAX;

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It opens a TCP connection.
    Opening,
    /// It is of a TCP connection that was opened before.
    Segment,
    /// A datagram: it may be the first, or not.
    Datagram,
}

/// What the shared words say of a slot at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It takes new flows.
    pub accepts_new: bool,
    /// Its flows stay.
    pub keeps_flows: bool,
    /// Flows whose home it is were sent elsewhere, and may live; or it warms up.
    pub has_strays: bool,
}

impl Standing {
    /// What a slot's bits (`mask`) in the words of its [`crate::abi::HealthWord`] say; `serves_anyway` is
    /// asked of one that is not healthy.
    #[inline(always)]
    pub fn of(
        [accepts_new, keeps_flows, strays]: [u64; 3],
        mask: u64,
        serves_anyway: impl FnOnce() -> bool,
    ) -> Self {
        let accepts_new = accepts_new & mask != 0 || serves_anyway();
        Self {
            accepts_new,
            keeps_flows: accepts_new || keeps_flows & mask != 0,
            has_strays: strays & mask != 0,
        }
    }
}

/// What the flow table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Where the flow was sent; [`NOBODY`] if it is not remembered, or its backend is no more.
    pub slot: u16,
    /// Whether that backend has any weight.
    pub has_weight: bool,
}

impl Memory {
    /// Of a flow that is not remembered.
    pub const NONE: Self = Self { slot: NOBODY, has_weight: false };
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The slot; [`NOBODY`] if it is the next of the flow's sequence that takes new work.
    pub slot: u16,
    /// The flow table is to hold it from now on.
    pub remember: bool,
    /// The flow leaves a backend that it may have been with.
    pub is_move: bool,
}

/// Decides.
///
/// `entry` is the one at the flow's position, `always` asks the table for every packet (`flow_table =
/// "always"`), `recall` does so and is called once at most; `admits` says whether the entry's slot is warm
/// enough for a new flow of this hash ([`crate::health::Word::admits`]).
#[inline(always)]
pub fn decide(
    entry: Entry,
    kind: Kind,
    always: bool,
    standing: impl Fn(u16) -> Standing,
    recall: impl FnOnce() -> Memory,
    admits: impl FnOnce(u16) -> bool,
) -> Choice {
    let home = entry.current_raw();
    let at_home = standing(home);
    let is_open = always || entry.is_changed();
    if !is_open && at_home.accepts_new && !at_home.has_strays {
        return Choice { slot: home, remember: false, is_move: false };
    }
    let memory = recall();
    let is_known = memory.slot != NOBODY;
    let is_opening = matches!(kind, Kind::Opening);
    if is_known {
        let there = standing(memory.slot);
        // A SYN that comes again opens the same connection; one from a port that is used again may
        // go anywhere that takes it.
        let takes = there.accepts_new && memory.has_weight;
        if takes || !is_opening && (there.keeps_flows || there.accepts_new) {
            return Choice { slot: memory.slot, remember: false, is_move: false };
        }
    } else if entry.is_changed() {
        let is_old = match kind {
            Kind::Opening => false,
            Kind::Segment => true,
            Kind::Datagram => entry.is_young(),
        };
        let former = entry.former_raw();
        if is_old && standing(former).keeps_flows {
            return Choice { slot: former, remember: true, is_move: false };
        }
    } else if !is_opening && at_home.keeps_flows {
        return Choice { slot: home, remember: always, is_move: false };
    }
    let is_move = !is_opening && (is_known || matches!(kind, Kind::Segment));
    let is_cold = is_opening && at_home.has_strays && !admits(home);
    if at_home.accepts_new && !is_cold {
        Choice { slot: home, remember: is_open || is_known, is_move }
    } else {
        Choice { slot: NOBODY, remember: true, is_move }
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Slot;

    const WELL: Standing = Standing { accepts_new: true, keeps_flows: true, has_strays: false };
    const DRAINING: Standing = Standing { accepts_new: false, ..WELL };
    const DEAD: Standing = Standing { accepts_new: false, keeps_flows: false, has_strays: false };
    const KINDS: [Kind; 3] = [Kind::Opening, Kind::Segment, Kind::Datagram];

    fn slot(index: u16) -> Option<Slot> {
        Some(Slot::new(index).unwrap())
    }

    fn settled() -> Entry {
        Entry::settled(slot(0).unwrap())
    }

    /// From slot 0 to slot 1.
    fn changed() -> Entry {
        settled().passed_to(slot(1))
    }

    /// Slots 0, 1 and 2 stand as given; the flow is remembered at slot 2, or not.
    fn ask(entry: Entry, kind: Kind, standings: [Standing; 3], known: bool) -> Choice {
        let standing = |slot: u16| standings.get(usize::from(slot)).copied().unwrap_or(DEAD);
        let memory = if known { Memory { slot: 2, has_weight: true } } else { Memory::NONE };
        decide(entry, kind, false, standing, || memory, |_| true)
    }

    #[test]
    fn a_settled_ring_asks_and_writes_nothing() {
        for kind in KINDS {
            let choice = decide(settled(), kind, false, |_| WELL, || panic!("asked"), |_| false);
            assert_eq!(choice, Choice { slot: 0, remember: false, is_move: false });
        }
    }

    #[test]
    fn what_is_remembered_stays_while_it_can() {
        let strays = Standing { has_strays: true, ..WELL };
        for kind in KINDS {
            for (entry, first) in [(changed(), WELL), (settled(), strays), (settled(), DEAD)] {
                let choice = ask(entry, kind, [first, WELL, WELL], true);
                assert_eq!(choice, Choice { slot: 2, remember: false, is_move: false });
            }
            let choice = ask(settled(), kind, [strays, WELL, DRAINING], true);
            assert_eq!(choice.slot, if kind == Kind::Opening { 0 } else { 2 });
            let dead = ask(changed(), kind, [WELL, WELL, DEAD], true);
            assert_eq!((dead.slot, dead.remember), (1, true));
            assert_eq!(dead.is_move, kind != Kind::Opening);
        }
    }

    #[test]
    fn a_changed_entry_tells_new_flows_from_old_ones() {
        let old =
            changed().aged(61, &crate::life::IdleLimits { segments: 90, datagrams: 60 }, true);
        let all = [WELL; 3];
        for (entry, kind, slot) in [
            (changed(), Kind::Opening, 1),
            (changed(), Kind::Segment, 0),
            (changed(), Kind::Datagram, 0),
            (old, Kind::Segment, 0),
            (old, Kind::Datagram, 1),
        ] {
            let choice = ask(entry, kind, all, false);
            assert_eq!(
                choice,
                Choice { slot, remember: true, is_move: false },
                "{entry:?} {kind:?}"
            );
        }
        let gone = ask(changed(), Kind::Segment, [DEAD, WELL, WELL], false);
        assert_eq!((gone.slot, gone.remember), (1, true));
    }

    #[test]
    fn a_backend_that_takes_nothing_new_keeps_what_it_has() {
        let draining = [DRAINING, WELL, WELL];
        assert_eq!(ask(settled(), Kind::Opening, draining, false).slot, NOBODY);
        for kind in [Kind::Segment, Kind::Datagram] {
            let choice = ask(settled(), kind, draining, false);
            assert_eq!(choice, Choice { slot: 0, remember: false, is_move: false });
        }
    }

    #[test]
    fn the_flows_of_the_dead_go_on_and_are_remembered() {
        for kind in KINDS {
            let choice = ask(settled(), kind, [DEAD, WELL, WELL], false);
            let is_move = kind == Kind::Segment;
            assert_eq!(choice, Choice { slot: NOBODY, remember: true, is_move });
        }
    }

    #[test]
    fn who_warms_up_takes_some_connections_and_keeps_all_that_it_has() {
        let strays = Standing { has_strays: true, ..WELL };
        for (kind, admits) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let choice = decide(settled(), kind, false, |_| strays, || Memory::NONE, |_| admits);
            let is_sent_off = kind == Kind::Opening && !admits;
            let slot = if is_sent_off { NOBODY } else { 0 };
            assert_eq!(choice, Choice { slot, remember: is_sent_off, is_move: false });
        }
        let known = Memory { slot: 2, has_weight: true };
        let choice = decide(settled(), Kind::Opening, false, |_| strays, || known, |_| true);
        assert_eq!(choice.slot, 2, "who was sent off stays off");
    }

    #[test]
    fn the_classic_way_remembers_everything() {
        for kind in KINDS {
            let choice = decide(settled(), kind, true, |_| WELL, || Memory::NONE, |_| true);
            assert_eq!(choice, Choice { slot: 0, remember: true, is_move: false });
        }
    }
}
