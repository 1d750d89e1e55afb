//! A backend that closes kept connections under the next request costs no request, and none runs twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_tests::race::{self, Io, Kind, Outcome, Plan};

/// A body that is held until it need not be sent again.
const SHORT: usize = 16;

/// One that is not.
const LONG: usize = 200_000;

#[test]
fn posts_lost_on_a_stale_connection_are_sent_again_by_proof_and_never_run_twice() {
    let plan = Plan { requests: 1500, clients: 32, body_bytes: SHORT, seed: 1 };
    assert_all_proven(&run(Kind::Steerage(Io::Auto), plan));
}

#[test]
fn so_they_are_by_epoll() {
    let plan = Plan { requests: 600, clients: 32, body_bytes: SHORT, seed: 2 };
    assert_all_proven(&run(Kind::Steerage(Io::Epoll), plan));
}

/// A FIN is the same proof under TLS, with `close_notify` before it or without.
#[test]
fn so_they_are_over_tls() {
    let plan = Plan { requests: 1000, clients: 32, body_bytes: SHORT, seed: 4 };
    assert_all_proven(&run(Kind::SteerageTls(Io::Auto), plan));
    let plan = Plan { requests: 600, clients: 32, body_bytes: SHORT, seed: 5 };
    assert_all_proven(&run(Kind::SteerageTls(Io::Epoll), plan));
}

#[test]
fn posts_too_long_to_be_held_may_be_lost_but_never_run_twice() {
    let plan = Plan { requests: 300, clients: 16, body_bytes: LONG, seed: 3 };
    let outcome = run(Kind::Steerage(Io::Auto), plan);
    assert_eq!(outcome.count("replays.stale_proven"), 0, "{outcome:#?}");
}

fn assert_all_proven(outcome: &Outcome) {
    assert_eq!(outcome.count("refusals.body_gone"), 0, "{outcome:#?}");
    // There was a race: dozens of requests met a FIN on their way.
    assert!(outcome.count("replays.stale_proven") > 10, "{outcome:#?}");
}

/// Runs the race and looks at what holds for every request.
fn run(kind: Kind, plan: Plan) -> Outcome {
    let outcome = race::run(kind, plan).unwrap();
    assert_eq!(outcome.doubled, 0, "{outcome:#?}");
    assert_eq!(outcome.executed_yet_failed, outcome.closed_on_executed, "{outcome:#?}");
    assert_eq!(outcome.not_executed, 0, "{outcome:#?}");
    // `reset`: nothing was received, but the body is gone.
    let lost = outcome.heard("502 stale_unproven") + outcome.heard("502 reset");
    assert_eq!(outcome.failed(), lost, "{outcome:#?}");
    // No proof, no replay: what the backend had received when it closed, executed or not.
    let unproven = outcome.count("refusals.unproven");
    let received = outcome.closed_on_request + outcome.closed_on_executed;
    assert!(unproven <= received, "{outcome:#?}");
    assert_eq!(lost, unproven + outcome.count("refusals.body_gone"), "{outcome:#?}");
    let failures = outcome.counts.keys().find(|name| name.starts_with("failures."));
    assert_eq!(failures, None, "a stale connection is nobody's failure: {outcome:#?}");
    outcome
}
