//! A backend that closes kept connections under the next request costs no request, and none runs twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_tests::race::{self, Io, Kind, Plan};

#[test]
fn posts_lost_on_a_stale_connection_are_sent_again_by_proof_and_never_run_twice() {
    race_with(Io::Auto, Plan { requests: 1500, clients: 32, seed: 1 });
}

#[test]
fn so_they_are_by_epoll() {
    race_with(Io::Epoll, Plan { requests: 600, clients: 32, seed: 2 });
}

fn race_with(io: Io, plan: Plan) {
    let outcome = race::run(Kind::Steerage(io), plan).unwrap();
    assert_eq!(outcome.doubled, 0, "{outcome:#?}");
    assert_eq!(outcome.executed_yet_failed, 0, "{outcome:#?}");
    assert_eq!(outcome.not_executed, 0, "{outcome:#?}");
    // No proof, no replay: what the backend had received when it closed.
    let unproven = outcome.heard("502 stale_unproven");
    assert_eq!(outcome.failed(), unproven, "{outcome:#?}");
    assert!(unproven <= outcome.closed_on_request, "{outcome:#?}");
    assert_eq!(outcome.count("refusals.unproven"), unproven, "{outcome:#?}");
    // There was a race: dozens of requests met a FIN on their way.
    assert!(outcome.count("replays.stale_proven") > 10, "{outcome:#?}");
    let failures = outcome.counts.keys().find(|name| name.starts_with("failures."));
    assert_eq!(failures, None, "a stale connection is nobody's failure: {outcome:#?}");
}
