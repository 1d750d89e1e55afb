//! The next tier serves while the former has nobody, on both planes, and hands back what is new.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a while went by in which nobody but these answered, and each of them did.
fn wait_for_only(pollers: &[&Poller], names: &[String]) {
    let since = Instant::now();
    wait::for_condition(format!("only {names:?} to answer on both planes"), PATIENCE, || {
        let from = since.max(Instant::now().checked_sub(Duration::from_millis(500)).unwrap());
        pollers.iter().all(|poller| {
            let recent = poller.since(from);
            let is_theirs =
                recent.iter().all(|s| s.answer.as_ref().is_ok_and(|n| names.contains(n)));
            recent.len() > 10 && is_theirs && names.iter().all(|name| poller.heard(name, from))
        })
    })
    .unwrap();
}

#[test]
fn a_dead_tier_is_stood_in_for_by_the_next_and_takes_new_work_again_when_it_is_back() {
    let choices = Choices {
        weights: vec![1, 1, 1, 1],
        tiers: vec![0, 0, 1, 1],
        tcp_vip: true,
        ..Choices::default()
    };
    let mut stand = Stand::start(&choices).unwrap();
    let (first, second) = ([name(1), name(2)], [name(3), name(4)]);
    let requests = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    let connections = Poller::start(&stand.topology.client, l4(), Reuse::Never).unwrap();
    let both = [&requests, &connections];
    wait_for_only(&both, &first);
    stand.kill_backend(1);
    wait_for_only(&both, &first[1..]);
    stand.kill_backend(2);
    wait_for_only(&both, &second);

    let mut client = stand.connect(l4()).unwrap();
    let own = client.get("/").unwrap().text();
    assert!(second.contains(&own.trim_end().to_owned()), "{own}");
    let birth = Instant::now();
    stand.revive_backend(1).unwrap();
    stand.revive_backend(2).unwrap();
    wait_for_only(&both, &first);
    for _ in 0..50 {
        assert_eq!(client.get("/").unwrap().text(), own, "a flow of the second tier stays there");
    }
    for poller in [requests, connections] {
        let failed: Vec<_> =
            poller.stop().into_iter().filter(|s| s.at > birth && s.answer.is_err()).collect();
        assert!(failed.is_empty(), "failed while the first tier came back: {failed:?}");
    }
}
