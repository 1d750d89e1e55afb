//! What a course came to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use steerage_common::health::State;

use super::watch::Change;
use crate::load::{Fault, Shot};
use crate::moody::SLOWNESS;
use crate::stand::name;

/// Everything that is read.
#[derive(Debug)]
pub struct Seen {
    /// When the backends fell ill.
    pub onset: Instant,
    /// When the first of them was well again.
    pub recovery: Instant,
    /// When all were.
    pub recovered: Instant,
    /// Who.
    pub victims: std::ops::RangeInclusive<u8>,
    /// Changes of all backends since the onset.
    pub changes: Vec<Change>,
    /// By the listener.
    pub requests: Vec<Shot>,
    /// By the vip.
    pub connections: Vec<Shot>,
}

/// What one plane's client had of it.
#[derive(Clone, Debug, Default)]
pub struct PlaneOutcome {
    /// From the onset until the last request fell due that the ill touched, before one of them was let in
    /// or tried again.
    pub away: Duration,
    /// From the recovery until the first request fell due that one of them answered.
    pub back: Duration,
    /// Requests from the onset to the end.
    pub asked: usize,
    /// Those that got no answer.
    pub failed: BTreeMap<Fault, usize>,
    /// Those that fell due and touched the ill while every look saw them out.
    pub leaked: usize,
    /// Those due when all were well again that got no answer.
    pub failed_after_recovery: usize,
}

impl PlaneOutcome {
    /// All that got no answer.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failed.values().sum()
    }
}

/// What all had of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the onset until the first of the ill was seen out.
    pub out: Option<Duration>,
    /// From the recovery until the last of them was seen in.
    pub back: Option<Duration>,
    /// The states of the first of the ill since the onset, one after the other.
    pub states: Vec<State>,
    /// How often any of the ill was ejected.
    pub ejections: usize,
    /// How often the bit of one of them changed: of the one with the most changes.
    pub transitions: usize,
    /// Changes of the bits of the healthy.
    pub others: usize,
    /// By the listener.
    pub l7: PlaneOutcome,
    /// By the vip.
    pub l4: PlaneOutcome,
}

impl Outcome {
    pub(super) fn read(seen: &Seen) -> Self {
        let of = |backend: u8| seen.changes.iter().filter(move |change| change.backend == backend);
        let flips = |backend: u8| {
            // All were in at the onset.
            let mut bits = vec![true];
            bits.extend(of(backend).map(|change| change.accepts_new));
            bits.dedup();
            bits.len() - 1
        };
        let ill = |change: &&Change| seen.victims.contains(&change.backend);
        let mut states: Vec<State> = of(*seen.victims.start()).map(|change| change.state).collect();
        states.dedup();
        let out = seen.changes.iter().filter(ill).find(|change| !change.accepts_new);
        let back = seen.changes.iter().filter(ill).rfind(|change| change.accepts_new);
        let healthy = seen.changes.iter().map(|change| change.backend);
        let mut healthy: Vec<u8> =
            healthy.filter(|backend| !seen.victims.contains(backend)).collect();
        healthy.dedup();
        Self {
            out: out.map(|change| change.seen - seen.onset),
            back: back.map(|change| change.seen.saturating_duration_since(seen.recovery)),
            states,
            ejections: seen.victims.clone().map(|victim| ejections(of(victim))).sum(),
            transitions: seen.victims.clone().map(flips).max().unwrap_or(0),
            others: healthy.into_iter().map(flips).sum(),
            l7: plane(seen, &seen.requests),
            l4: plane(seen, &seen.connections),
        }
    }
}

/// Rises of the number, which a change of state alone might hide.
fn ejections<'a>(changes: impl Iterator<Item = &'a Change>) -> usize {
    let (mut before, mut rises) = (0, 0);
    for change in changes {
        rises += usize::from(change.ejections.saturating_sub(before));
        before = change.ejections;
    }
    rises
}

fn plane(seen: &Seen, shots: &[Shot]) -> PlaneOutcome {
    let names: Vec<String> = seen.victims.clone().map(name).collect();
    let is_of_ill = |shot: &&Shot| shot.answer.as_ref().is_ok_and(|answer| names.contains(answer));
    let touched = |shot: &&Shot| shot.answer.is_err() || is_of_ill(shot) || shot.took >= SLOWNESS;
    let asked: Vec<&Shot> = shots.iter().filter(|shot| shot.due >= seen.onset).collect();
    let ill = asked.iter().copied().filter(|shot| shot.due < seen.recovery);
    let first_return = seen
        .changes
        .iter()
        .filter(|change| seen.victims.contains(&change.backend))
        .find(|change| change.accepts_new || change.state == State::Probation)
        .map_or(seen.recovery, |change| change.after.min(seen.recovery));
    let outs = outs(seen);
    let is_out = |due: Instant| outs.iter().any(|(from, to)| (*from..*to).contains(&due));
    let away = ill.clone().filter(touched).rfind(|shot| shot.due < first_return);
    let back = asked.iter().copied().filter(is_of_ill).find(|shot| shot.due >= seen.recovery);
    let mut failed = BTreeMap::new();
    for fault in asked.iter().filter_map(|shot| shot.answer.as_ref().err()) {
        *failed.entry(*fault).or_default() += 1;
    }
    let after = |shot: &&&Shot| shot.due >= seen.recovered && shot.answer.is_err();
    PlaneOutcome {
        away: away.map_or(Duration::ZERO, |shot| shot.due - seen.onset),
        back: back.map_or(Duration::ZERO, |shot| shot.due - seen.recovery),
        failed,
        leaked: ill.filter(touched).filter(|shot| is_out(shot.due)).count(),
        failed_after_recovery: asked.iter().filter(after).count(),
        asked: asked.len(),
    }
}

/// When every look saw all of the ill out.
fn outs(seen: &Seen) -> Vec<(Instant, Instant)> {
    let mut is_in: BTreeMap<u8, bool> =
        seen.victims.clone().map(|backend| (backend, true)).collect();
    let (mut outs, mut from) = (Vec::new(), None);
    for change in seen.changes.iter().filter(|change| seen.victims.contains(&change.backend)) {
        is_in.insert(change.backend, change.accepts_new);
        let all_out = is_in.values().all(|is_in| !is_in);
        match (from, all_out) {
            (None, true) => from = Some(change.seen),
            (Some(since), false) => {
                outs.push((since, change.after));
                from = None;
            }
            _ => {}
        }
    }
    if let Some(since) = from {
        outs.push((since, seen.recovery));
    }
    outs
}
