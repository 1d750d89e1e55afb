//! Who serves while others can't: the next tier, this host itself, and whoever has just recovered a little
//! at first. On both planes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use steerage_lab::client::curl;
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::topology::VIP;
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

#[test]
fn what_no_backend_takes_is_dropped_or_this_host_s_own() {
    let choices = Choices {
        tcp_vip: true,
        service: "panic_percent = 0\nprobe = { kind = \"http\", path = \"/health\", interval = \"200ms\", \
                  timeout = \"100ms\", rise = 2, fall = 2 }\n",
        ..Choices::default()
    };
    let mut stand = Stand::start_with(&choices, |topology| {
        // Packets of this host's own are answered by it: with a reset, as nobody listens there.
        topology.balancer.ip(&format!("address add {VIP}/32 dev lo")).map(drop)
    })
    .unwrap();
    stand.kill_backend(1);
    stand.kill_backend(2);
    stand.daemon.wait_available(0).unwrap();
    let ask = |stand: &Stand| {
        let url = format!("http://{VIP}/");
        curl(&stand.topology.client, &["--max-time", "2", &url]).unwrap().exit
    };
    const REFUSED: i32 = 7;
    const TIMED_OUT: i32 = 28;
    assert_eq!(ask(&stand), TIMED_OUT);
    let text = choices.config(&stand.scratch);
    let passes = text.replace("mode = \"nat\"", "mode = \"nat\"\nno_backend = \"pass\"");
    assert_ne!(passes, text);
    stand.reconfigure(&passes).unwrap();
    assert_eq!(ask(&stand), REFUSED);
    stand.revive_backend(1).unwrap();
    stand.daemon.wait_available(1).unwrap();
    assert_eq!(ask(&stand), 0);
}

#[test]
fn whoever_recovers_gets_a_tenth_of_its_share_at_first_on_both_planes() {
    let choices = Choices {
        tcp_vip: true,
        service: "balance = \"round_robin\"\nslow_start = \"1d\"\nprobe = { kind = \"http\", \
                  path = \"/health\", interval = \"200ms\", timeout = \"100ms\", rise = 2, fall = 2 }\n",
        ..Choices::default()
    };
    let mut stand = Stand::start(&choices).unwrap();
    let mut requests = stand.connect(l7()).unwrap();
    // Of 300 connections and 300 requests.
    let mut shares = |stand: &Stand| {
        let is_first = |text: String| usize::from(text.trim_end() == name(1));
        let at_l4 = (0..300).map(|_| stand.connect(l4()).unwrap().get("/").unwrap().text());
        let at_l7 = (0..300).map(|_| requests.get("/").unwrap().text());
        [at_l4.map(is_first).sum::<usize>(), at_l7.map(is_first).sum()]
    };
    let before = shares(&stand);
    assert!(before.iter().all(|share| (90..210).contains(share)), "{before:?}");
    stand.kill_backend(1);
    stand.daemon.wait_available(1).unwrap();
    stand.revive_backend(1).unwrap();
    stand.daemon.wait_available(2).unwrap();
    let after = shares(&stand);
    assert!(after.iter().all(|share| (1..60).contains(share)), "{after:?}");
}
