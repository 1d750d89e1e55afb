//! Every state against every event, and what no sequence of events may do.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy::DEFAULT;
const NOW: Ticks = Ticks(1000);

const EVENTS: [Event; 12] = [
    Event::Assigned,
    Event::ProbeOk,
    Event::ProbeFailed,
    Event::RequestOk,
    Event::RequestFailed { jitter: 128 },
    Event::Eject { cause: Cause::Share, jitter: 128 },
    Event::Tick,
    Event::TrialStarted,
    Event::Drain,
    Event::Maintain,
    Event::Enable,
    Event::Removed,
];

fn word(state: State) -> Word {
    let word = Word::default().with(28, 0xfff, 5).enter(state);
    match state {
        State::Ejected => {
            word.with_ejections(1).with_deadline(NOW.after(50)).with_cause(Cause::Share)
        }
        _ => word,
    }
}

/// The state after one event, from a fresh word of each state. One line a state, one column an
/// event, in the order of `EVENTS`.
#[test]
fn every_state_against_every_event() {
    use State::{
        Down as Dn, Draining as Dr, Ejected as Ej, Maintenance as Mt, Probation as Pr,
        Unknown as Uk, Unused as Un, Up,
    };
    #[rustfmt::skip]
    let table = [
        // state  assign probe+ probe- req+  req-  eject tick  trial drain maint enable removed
        (Un,     [Uk,    Un,    Un,    Un,   Un,   Un,   Un,   Un,   Un,   Un,   Un,    Un]),
        (Uk,     [Uk,    Up,    Uk,    Uk,   Uk,   Uk,   Uk,   Uk,   Dr,   Mt,   Uk,    Un]),
        (Up,     [Up,    Up,    Up,    Up,   Up,   Ej,   Up,   Up,   Dr,   Mt,   Up,    Un]),
        (Pr,     [Pr,    Up,    Dn,    Pr,   Pr,   Pr,   Pr,   Pr,   Dr,   Mt,   Pr,    Un]),
        (Ej,     [Ej,    Ej,    Ej,    Ej,   Ej,   Ej,   Ej,   Ej,   Dr,   Mt,   Ej,    Un]),
        (Dn,     [Dn,    Dn,    Dn,    Dn,   Dn,   Dn,   Dn,   Dn,   Dr,   Mt,   Dn,    Un]),
        (Dr,     [Dr,    Dr,    Dr,    Dr,   Dr,   Dr,   Dr,   Dr,   Dr,   Mt,   Uk,    Un]),
        (Mt,     [Mt,    Mt,    Mt,    Mt,   Mt,   Mt,   Mt,   Mt,   Dr,   Mt,   Uk,    Un]),
    ];
    for (from, expected) in table {
        for (event, to) in EVENTS.into_iter().zip(expected) {
            let after = transition(word(from), event, NOW, &POLICY);
            assert_eq!(after.state(), to, "{from:?} after {event:?}");
        }
    }
}

fn run(mut word: Word, events: &[(Event, Ticks)]) -> Word {
    for (event, now) in events {
        word = transition(word, *event, *now, &POLICY);
    }
    word
}

fn repeat(event: Event, times: usize) -> Vec<(Event, Ticks)> {
    vec![(event, NOW); times]
}

const FAIL: Event = Event::RequestFailed { jitter: 128 };
const EJECT: Event = Event::Eject { cause: Cause::InARow, jitter: 128 };

/// An ejection as workers bring it about: so many failures, and the claim.
fn failures() -> Vec<(Event, Ticks)> {
    let mut events = repeat(FAIL, 5);
    events.push((EJECT, NOW));
    events
}

#[test]
fn one_good_probe_starts_and_three_bad_ones_stop() {
    let up = run(word(State::Unknown), &repeat(Event::ProbeOk, 1));
    assert_eq!(up.state(), State::Up);
    assert_eq!(run(up, &repeat(Event::ProbeFailed, 2)).state(), State::Up);
    let down = run(up, &repeat(Event::ProbeFailed, 3));
    assert_eq!(down.state(), State::Down);
    assert_eq!(run(down, &repeat(Event::ProbeOk, 1)).state(), State::Down);
    assert_eq!(run(down, &repeat(Event::ProbeOk, 2)).state(), State::Up);
}

#[test]
fn a_service_without_probes_starts_up() {
    let policy = Policy { probed: false, ..POLICY };
    let word = transition(Word::default(), Event::Assigned, NOW, &policy);
    assert_eq!(word.state(), State::Up);
    // One whose probe is taken away does not stay down for ever.
    let down = self::word(State::Down);
    assert_eq!(transition(down, Event::Assigned, NOW, &policy).state(), State::Up);
}

#[test]
fn five_failures_in_a_row_may_eject_and_a_success_between_forbids_it() {
    let up = word(State::Up);
    let ejected = run(up, &failures());
    assert_eq!((ejected.state(), ejected.cause()), (State::Ejected, Cause::InARow));
    let failed = run(up, &repeat(FAIL, 9));
    assert_eq!((failed.state(), failed.request_failures()), (State::Up, 5), "not without a claim");
    assert_eq!(run(up, &[repeat(FAIL, 4), vec![(EJECT, NOW)]].concat()).state(), State::Up);
    let mut broken = repeat(FAIL, 5);
    broken.push((Event::RequestOk, NOW));
    broken.extend(repeat(FAIL, 4));
    broken.push((EJECT, NOW));
    assert_eq!(run(up, &broken).state(), State::Up);
    // A good probe is no answer to failing requests.
    let mut probed = repeat(FAIL, 4);
    probed.push((Event::ProbeOk, NOW));
    probed.extend([(FAIL, NOW), (EJECT, NOW)]);
    assert_eq!(run(up, &probed).state(), State::Ejected);
    let never = Policy { consecutive: 0, ..POLICY };
    assert_eq!(transition(up, EJECT, NOW, &never).state(), State::Up);
}

#[test]
fn an_ejection_holds_its_time_then_one_trial_decides() {
    let ejected = run(word(State::Up), &failures());
    for event in [Event::ProbeOk, Event::RequestOk, Event::Tick] {
        assert_eq!(run(ejected, &repeat(event, 50)).state(), State::Ejected, "{event:?}");
    }
    let end = ejected.deadline();
    let probation = transition(ejected, Event::Tick, end, &POLICY);
    assert_eq!(probation.state(), State::Probation);
    assert!(!probation.accepts_new());
    // A late success of a request from before is not the trial.
    assert_eq!(transition(probation, Event::RequestOk, end, &POLICY), probation);
    let trial = transition(probation, Event::TrialStarted, end, &POLICY);
    assert!(trial.trial_is_out());
    assert_eq!(transition(trial, Event::TrialStarted, end, &POLICY), trial, "one trial at a time");
    let up = transition(trial, Event::RequestOk, end, &POLICY);
    assert_eq!((up.state(), up.request_failures(), up.ejections()), (State::Up, 0, 1));
    assert_eq!(up.cause(), Cause::None);
    let again = transition(trial, FAIL, end, &POLICY);
    assert_eq!((again.state(), again.ejections()), (State::Ejected, 2));
    assert_eq!(again.cause(), Cause::Trial);
    assert!(end.until(again.deadline()) > NOW.until(end), "the second ejection is longer");
    // A trial that never came back is tried again.
    let lost = transition(trial, Event::Tick, trial.deadline(), &POLICY);
    assert!(lost.state() == State::Probation && !lost.trial_is_out());
}

#[test]
fn coming_back_from_down_within_an_ejection_ends_in_the_ejection() {
    let down = run(run(word(State::Up), &failures()), &repeat(Event::ProbeFailed, 3));
    assert_eq!(down.state(), State::Down);
    assert_eq!(run(down, &repeat(Event::ProbeOk, 2)).state(), State::Ejected);
    let later = down.deadline();
    let events = [(Event::ProbeOk, later), (Event::ProbeOk, later)];
    assert_eq!(run(down, &events).state(), State::Up);
    let expired = transition(down, Event::Tick, later, &POLICY);
    assert!(down.is_out_by_ejection(NOW) && !expired.is_out_by_ejection(later));
    assert_eq!(run(expired, &events).state(), State::Up);
}

#[test]
fn one_that_died_after_its_ejection_does_not_come_back_into_it() {
    let ejected = run(word(State::Up), &failures());
    let end = ejected.deadline();
    let at_end =
        |events: &[Event]| -> Vec<_> { events.iter().map(|event| (*event, end)).collect() };
    // Up again, with its past remembered for a while.
    let up = run(ejected, &at_end(&[Event::Tick, Event::ProbeOk]));
    let down = run(up, &at_end(&[Event::ProbeFailed; 3]));
    assert_eq!(run(down, &at_end(&[Event::ProbeOk; 2])).state(), State::Up);
    // And the one whose trial was out.
    let trial = run(ejected, &at_end(&[Event::Tick, Event::TrialStarted, Event::ProbeFailed]));
    assert_eq!(trial.state(), State::Down);
    assert_eq!(run(trial, &at_end(&[Event::ProbeOk; 2])).state(), State::Up);
}

#[test]
fn a_drained_backend_keeps_flows_only_while_it_lives() {
    let draining = run(word(State::Up), &repeat(Event::Drain, 1));
    assert!(draining.keeps_flows() && !draining.accepts_new());
    let dead = run(draining, &repeat(Event::ProbeFailed, 3));
    assert!(!dead.keeps_flows());
    assert!(run(dead, &repeat(Event::ProbeOk, 2)).keeps_flows());
    assert_eq!(run(dead, &repeat(Event::Enable, 1)).state(), State::Down);
}

#[test]
fn ejections_are_forgotten_after_a_quiet_time() {
    let ejected = run(word(State::Up), &failures());
    let end = ejected.deadline();
    let up = run(ejected, &[(Event::Tick, end), (Event::ProbeOk, end)]);
    assert_eq!(up.ejections(), 1);
    let warm = end.after(POLICY.slow_start_ticks);
    let quiet = warm.after(POLICY.ejection_ticks_max);
    let later = run(up, &[(Event::Tick, warm), (Event::Tick, quiet.after(Ticks::MASK))]);
    assert_eq!(later.ejections(), 1, "it is remembered until then");
    assert_eq!(run(up, &[(Event::Tick, warm), (Event::Tick, quiet)]).ejections(), 0);
}

#[test]
fn a_recovered_backend_warms_up_and_one_that_starts_does_not() {
    let started = run(word(State::Unknown), &repeat(Event::ProbeOk, 1));
    assert_eq!((started.is_warming(), started.warmth(NOW, 300)), (false, 256));
    let up = run(word(State::Down), &repeat(Event::ProbeOk, 2));
    assert!(up.is_warming());
    let all = POLICY.slow_start_ticks;
    let at = |part: u32| up.warmth(NOW.after(all * part / 4), all);
    assert_eq!([at(0), at(1), at(2), at(4)], [25, 82, 140, 256]);
    let admitted = |part| {
        let is_in = |hash: &u64| up.admits(mix(*hash), NOW.after(all * part / 4), all);
        (0..10_000u64).filter(is_in).collect::<Vec<_>>()
    };
    assert!((800..1150).contains(&admitted(0).len()), "{} of 10,000", admitted(0).len());
    assert!(admitted(0).iter().all(|hash| admitted(1).contains(hash)), "who is in stays in");
    assert_eq!(admitted(4).len(), 10_000);
    let before = transition(up, Event::Tick, NOW.after(299), &POLICY);
    assert!(before.is_warming());
    let after = transition(up, Event::Tick, NOW.after(300), &POLICY);
    assert!(!after.is_warming());
    // An ejection while it warms up is the next one, not the first again.
    let ejected = run(word(State::Up), &failures());
    let end = ejected.deadline();
    let again = [(Event::Tick, end), (Event::ProbeOk, end), (FAIL, end.after(400))];
    let up = run(ejected, &again[..2]);
    assert!(up.is_warming());
    let twice = transition(up, EVENTS[5], end.after(400), &POLICY);
    assert_eq!((twice.state(), twice.ejections()), (State::Ejected, 2));
    assert_eq!(twice.cause(), Cause::Share);
    let none = Policy { slow_start_ticks: 0, ..POLICY };
    let down = transition(word(State::Down), Event::ProbeOk, NOW, &none);
    assert!(!transition(down, Event::ProbeOk, NOW, &none).is_warming());
}

#[test]
fn a_freed_slot_begins_a_new_tenancy() {
    let freed = transition(word(State::Up), Event::Removed, NOW, &POLICY);
    assert_eq!((freed.state(), freed.epoch()), (State::Unused, 6));
    let next = transition(freed, Event::Assigned, NOW, &POLICY);
    assert_eq!((next.state(), next.epoch(), next.ejections()), (State::Unknown, 6, 0));
}

#[test]
fn a_panic_ignores_health_and_not_the_operator() {
    let serving = State::ALL.into_iter().filter(|state| word(*state).serves_in_panic());
    use State::{Down, Ejected, Probation, Unknown, Up};
    assert!(serving.eq([Unknown, Up, Probation, Ejected, Down]));
}

#[test]
fn ticks_wrap() {
    let late = Ticks(Ticks::MASK);
    let soon = late.after(3);
    assert!(soon.reached(late) && !late.reached(soon));
    assert_eq!(late.until(soon), 3);
    assert_eq!(soon.until(late), 0);
}

#[test]
fn the_spread_of_an_ejection_ends_at_a_fifth() {
    let base = POLICY.ejection_ticks;
    for (earlier, jitter, tenths) in [(0, 0, 8), (0, 255, 12), (3, 0, 8), (3, 255, 12)] {
        assert_eq!(ejection_ticks(earlier, jitter, &POLICY), (base << earlier) * tenths / 10);
    }
}

proptest! {
    /// Whatever happens in whatever order, from any bits at all.
    #[test]
    fn no_sequence_of_events_breaks_a_promise(
        raw in any::<u64>(),
        steps in proptest::collection::vec((0usize..EVENTS.len(), 0u32..200, any::<u8>()), 1..200),
    ) {
        let mut word = Word::from_raw(raw);
        let mut now = NOW;
        for (event, pause, jitter) in steps {
            now = now.after(pause);
            let event = match EVENTS[event] {
                Event::RequestFailed { .. } => Event::RequestFailed { jitter },
                Event::Eject { cause, .. } => Event::Eject { cause, jitter },
                other => other,
            };
            let next = transition(word, event, now, &POLICY);
            // A dead or removed backend never takes work, and what takes work keeps flows.
            if matches!(next.state(), State::Down | State::Unused | State::Maintenance) {
                prop_assert!(!next.accepts_new() && !next.keeps_flows());
            }
            prop_assert!(!next.accepts_new() || next.keeps_flows());
            // An ejection never passes its cap, and no success ends it early.
            if next.state() == State::Ejected && word.state() == State::Up {
                prop_assert!(now.until(next.deadline()) <= POLICY.ejection_ticks_max);
            }
            if word.state() == State::Ejected && !now.reached(word.deadline()) {
                prop_assert!(!next.accepts_new());
            }
            // No failure ejects without a claim; one that is being tried is out already.
            if next.state() == State::Ejected && word.state() == State::Up {
                prop_assert!(matches!(event, Event::Eject { .. }), "by {event:?}");
            }
            // A recovery leaves no streak behind.
            if next.state() == State::Up && word.state() != State::Up {
                prop_assert_eq!((next.request_failures(), next.probe_streak()), (0, 0));
            }
            // Only the slot's release changes the tenancy.
            if event != Event::Removed {
                prop_assert_eq!(next.epoch(), word.epoch());
            }
            word = next;
        }
    }

    #[test]
    fn ejections_grow_within_their_spread(earlier in 0u8..=15, jitter in any::<u8>()) {
        let ticks = ejection_ticks(earlier, jitter, &POLICY);
        let nominal = (100u64 << earlier).min(3000) as u32;
        prop_assert!(ticks >= nominal * 8 / 10 - 1 && ticks <= (nominal * 12 / 10 + 1).min(3000));
    }
}
