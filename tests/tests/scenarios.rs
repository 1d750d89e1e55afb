//! Backends that misbehave, under load by both planes: what is asserted are counts and order; times
//! are printed by `cargo xtask bench scenarios`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_common::health::State;
use steerage_tests::load::Fault;
use steerage_tests::scenarios::{FLAPS, Outcome, Rates, Scenario, Setting};

const RATES: Rates = Rates { l7: 200, l4: 120 };

/// Failures in a row that eject a backend, as the setting has it, and the requests that can be under
/// way at it when the last of them comes.
const EJECTING: usize = 5 + 5;

fn play(setting: &mut Setting, scenario: Scenario) -> Outcome {
    let outcome = scenario.play(setting).unwrap_or_else(|error| panic!("{scenario:?}: {error:#}"));
    println!("{scenario:?}: {outcome:?}");
    assert_eq!(outcome.others, 0, "{scenario:?}: the healthy stay in");
    assert_eq!(outcome.states.last(), Some(&State::Up), "{scenario:?}");
    assert!(outcome.l7.asked > 50 && outcome.l4.asked > 50, "{scenario:?}");
    assert_eq!(outcome.l7.failed_after_recovery, 0, "{scenario:?}");
    assert_eq!(outcome.l4.failed_after_recovery, 0, "{scenario:?}");
    outcome
}

/// No ejection ends but in its probation, or with a death.
fn assert_ejections_hold(outcome: &Outcome) {
    for pair in outcome.states.windows(2) {
        if pair[0] == State::Ejected {
            assert!(matches!(pair[1], State::Probation | State::Down), "{:?}", outcome.states);
        }
    }
}

#[test]
fn one_that_misbehaves_is_left_by_both_planes_and_let_in_again() {
    let mut setting = Setting::build(4, 0, RATES).unwrap();
    for scenario in Scenario::ALL.into_iter().filter(|scenario| *scenario != Scenario::AllDown) {
        let outcome = play(&mut setting, scenario);
        assert_ejections_hold(&outcome);
        // New flows go nowhere that is out; nor do requests, but for the one that is a trial.
        assert_eq!(outcome.l4.leaked, 0, "{scenario:?}");
        assert!(outcome.l7.leaked <= outcome.ejections, "{scenario:?}: {outcome:?}");
        if scenario == Scenario::Flapping {
            assert!(outcome.transitions <= FLAPS / 2, "its ejections grow: {outcome:?}");
        } else if scenario != Scenario::FailingRequests {
            assert_eq!(outcome.transitions, 2, "{scenario:?}: out and in");
        }
        match scenario {
            Scenario::Slow | Scenario::FailingProbes => {
                assert_eq!(outcome.states, [State::Down, State::Up], "{scenario:?}");
                assert_eq!(outcome.l7.failures(), 0, "{scenario:?}");
            }
            Scenario::Resetting | Scenario::Failing => {
                assert_eq!(outcome.states[0], State::Ejected, "{scenario:?}");
                assert!(outcome.l7.failures() <= EJECTING, "{scenario:?}");
            }
            Scenario::FailingRequests => {
                assert!(outcome.ejections >= 3, "{outcome:?}");
                let times_in = outcome.transitions / 2;
                let most = EJECTING * times_in + outcome.ejections;
                assert!(outcome.l7.failures() <= most, "{outcome:?}");
            }
            Scenario::Recovering => assert!(outcome.l7.failures() <= EJECTING, "{outcome:?}"),
            Scenario::Flapping
            | Scenario::Blackholed
            | Scenario::AllDown
            | Scenario::AllButOneDown => {}
        }
    }
}

#[test]
fn in_a_panic_both_planes_ignore_health_and_nobody_waits_in_vain() {
    let mut setting = Setting::build(4, 50, RATES).unwrap();
    let all = play(&mut setting, Scenario::AllDown);
    // Refused by the dead themselves, not dropped on the way.
    assert!(all.l7.failed.keys().all(|fault| matches!(fault, Fault::Status(502))), "{all:?}");
    let ends = |fault: &Fault| matches!(fault, Fault::Refused | Fault::Broken);
    assert!(all.l4.failed.keys().all(ends), "{all:?}");
    assert!(all.l7.failures() > 0 && all.l4.failures() >= 50, "{all:?}");
    let few = play(&mut setting, Scenario::AllButOneDown);
    assert!(few.l4.leaked > 0, "the dead have their share: {few:?}");
    assert!(few.l4.failures() < few.l4.asked, "{few:?}");
    assert!(few.l4.failed.keys().all(ends), "{few:?}");
}
