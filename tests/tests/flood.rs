//! Real clients reach a vip through a SYN flood, and the flood reaches nobody. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use steerage_tests::flooded::{Case, Outcome, Rates, play};

const RATES: Rates = Rates { real: 200, flood: 10_000, above: 2000, span: Duration::from_secs(3) };

fn outcome(case: Case) -> Outcome {
    let outcome = play(case, &RATES).unwrap();
    println!("{case:?}: {:?}, {:?}", outcome.failed, outcome.reasons);
    assert!(outcome.asked > 300 && outcome.flooded > 10_000, "{}", outcome.asked);
    outcome
}

/// What a queue of the machine may lose beside.
fn assert_served(outcome: &Outcome) {
    let failed: usize = outcome.failed.values().sum();
    assert!(failed * 100 <= outcome.asked, "{:?} of {}", outcome.failed, outcome.asked);
}

#[test]
fn clients_prove_themselves_and_are_served_while_a_flood_from_anywhere_is_not() {
    let outcome = outcome(Case::Challenged);
    assert_served(&outcome);
    assert!(outcome.reason("challenged") * 10 > outcome.flooded * 7, "{outcome:?}");
    // Each of the real clients' addresses, once.
    assert!((190..=210).contains(&outcome.reason("proven")), "{outcome:?}");
    // What came before the flood showed itself: some windows' worth.
    let passed = outcome.flows.saturating_sub(outcome.asked as u64);
    assert!(passed < 3000, "{outcome:?}");
    assert!(outcome.table.1 < 3000 + outcome.asked as u64, "{outcome:?}");
}

#[test]
fn one_that_floods_is_held_to_its_rate_and_the_others_notice_nothing() {
    let outcome = outcome(Case::OneLimited);
    assert_served(&outcome);
    assert!(outcome.reason("syn_rate") * 10 > outcome.flooded * 7, "{outcome:?}");
    let passed = outcome.flows.saturating_sub(outcome.asked as u64);
    assert!(passed < 2000, "{outcome:?}");
}
