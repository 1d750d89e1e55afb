//! One health truth: what a probe or a request finds out steers requests and packets alike.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, l7, name};

const PATIENCE: Duration = Duration::from_secs(10);

/// So long no failure and no answer of the dead one may be seen.
const CALM: Duration = Duration::from_millis(300);

fn stand() -> Stand {
    let choices = Choices { weights: vec![1, 1, 1], tcp_vip: true, ..Choices::default() };
    Stand::start(&choices).unwrap()
}

/// Waits until only others than `gone` answer, and all of it succeeds.
fn wait_for_calm(pollers: &[&Poller], gone: &str) {
    wait::for_condition(format!("both planes to leave {gone}"), PATIENCE, || {
        pollers.iter().all(|poller| {
            let since = Instant::now().checked_sub(CALM).unwrap();
            let recent = poller.since(since);
            recent.len() > 10 && recent.iter().all(|s| s.answer.as_ref().is_ok_and(|n| n != gone))
        })
    })
    .unwrap();
}

fn wait_for_answers(pollers: &[&Poller], of: &str) {
    let since = Instant::now();
    wait::for_condition(format!("answers of {of} on both planes"), PATIENCE, || {
        pollers.iter().all(|poller| poller.heard(of, since))
    })
    .unwrap();
}

#[test]
fn a_killed_backend_costs_at_most_the_request_in_its_hands_and_both_planes_leave_it_and_come_back()
{
    let mut stand = stand();
    let requests = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    let connections = Poller::start(&stand.topology.client, l4(), Reuse::Never).unwrap();
    let both = [&requests, &connections];
    let victim = name(2);
    wait_for_answers(&both, &victim);

    let death = Instant::now();
    stand.kill_backend(2);
    wait_for_calm(&both, &victim);
    let failed = |poller: &Poller| {
        poller.since(death).into_iter().filter(|s| s.answer.is_err()).collect::<Vec<_>>()
    };
    let lost = failed(&requests);
    assert!(lost.len() <= 1, "requests failed: {lost:?}");
    assert!(!requests.samples().iter().any(|sample| sample.again), "the client's connection ended");
    let backend = &stand.daemon.status().unwrap()["services"][0]["backends"][1];
    assert_eq!(backend["accepts_new"], false, "{backend}");

    let birth = Instant::now();
    stand.revive_backend(2).unwrap();
    wait_for_answers(&both, &victim);
    for poller in [requests, connections] {
        let failed: Vec<_> =
            poller.stop().into_iter().filter(|s| s.at > birth && s.answer.is_err()).collect();
        assert!(failed.is_empty(), "failed while the backend came back: {failed:?}");
    }
}

#[test]
fn a_failing_health_check_alone_steers_both_planes_away_without_one_failure() {
    let stand = stand();
    let requests = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    let connections = Poller::start(&stand.topology.client, l4(), Reuse::Never).unwrap();
    let both = [&requests, &connections];
    wait_for_answers(&both, &name(1));
    stand.backend(1).set_health(500);
    wait_for_calm(&both, &name(1));
    stand.backend(1).set_health(200);
    wait_for_answers(&both, &name(1));
    for poller in [requests, connections] {
        let failed: Vec<_> = poller.stop().into_iter().filter(|s| s.answer.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[test]
fn a_tcp_flow_stays_with_its_backend_while_others_come_and_go() {
    let mut stand = stand();
    let mut client = stand.connect(l4()).unwrap();
    let own = client.get("/").unwrap().text();
    let other = (1..=3).find(|number| name(*number) != own.trim_end()).unwrap();
    stand.kill_backend(other);
    stand.daemon.wait_available(2).unwrap();
    for _ in 0..50 {
        assert_eq!(client.get("/").unwrap().text(), own);
    }
    stand.revive_backend(other).unwrap();
    stand.daemon.wait_available(3).unwrap();
    for _ in 0..50 {
        assert_eq!(client.get("/").unwrap().text(), own);
    }
}
