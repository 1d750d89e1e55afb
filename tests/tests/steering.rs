//! New connections go to the worker that has the least to do, whatever becomes of the others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use steerage_lab::client::Connection;
use steerage_lab::topology::BALANCER;
use steerage_lab::{process, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(20);

/// Many more than workers: by hash they would hardly ever be spread evenly.
const CONNECTIONS: usize = 40;

const WORKERS: usize = 4;

fn stand(choices: Choices) -> Stand {
    Stand::start(&Choices { workers: WORKERS, ..choices }).unwrap()
}

/// Connections that have been served once and stay open.
fn open(stand: &Stand, address: SocketAddr, count: usize) -> Vec<Connection> {
    let open = |_| {
        let mut connection = stand.connect(address).unwrap();
        assert_eq!(connection.get("/").unwrap().status, 200);
        connection
    };
    (0..count).map(open).collect()
}

/// The open connections of each live worker of the daemon.
fn connections(status: &Value) -> BTreeMap<u64, u64> {
    let workers = status["workers"].as_array().unwrap().iter();
    let live = workers.filter(|worker| worker["live"] == true && worker["current"] == true);
    live.map(|worker| (worker["pid"].as_u64().unwrap(), worker["connections"].as_u64().unwrap()))
        .collect()
}

fn assert_even(stand: &Stand, connections_of: impl Fn(&Value) -> BTreeMap<u64, u64>) {
    let spread = connections_of(&stand.daemon.status().unwrap());
    let (least, most) = (spread.values().min().unwrap(), spread.values().max().unwrap());
    assert_eq!(spread.len(), WORKERS, "{spread:?}");
    assert!(most - least <= 1, "{spread:?}");
}

#[test]
fn connections_are_spread_evenly_also_over_listeners_that_come_later() {
    let stand = stand(Choices::default());
    let first = open(&stand, l7(), CONNECTIONS);
    assert_even(&stand, connections);

    let other = SocketAddr::from((BALANCER, 8081));
    let choices = Choices { workers: WORKERS, ..Choices::default() };
    let added = choices
        .config(&stand.scratch)
        .replace(&format!("bind = [\"{}\"]", l7()), &format!("bind = [\"{}\", \"{other}\"]", l7()));
    stand.reconfigure(&added).unwrap();
    let second = open(&stand, other, CONNECTIONS);
    assert_even(&stand, connections);
    drop((first, second));
}

#[test]
fn a_new_supervisors_workers_take_all_new_connections_evenly() {
    let mut stand = stand(Choices { global: "drain = \"60s\"", ..Choices::default() });
    let before = open(&stand, l7(), CONNECTIONS);
    stand.daemon.leave_pins();
    stand.daemon.process().kill().unwrap();
    // Without a supervisor the program goes on.
    let orphaned = open(&stand, l7(), CONNECTIONS);
    let successor = stand.successor().unwrap();
    let after = open(&stand, l7(), CONNECTIONS);
    let spread = connections(&successor.status().unwrap());
    assert_eq!(spread.len(), WORKERS, "{spread:?}");
    assert_eq!(spread.values().sum::<u64>(), CONNECTIONS as u64, "{spread:?}");
    assert!(spread.values().all(|n| *n == (CONNECTIONS / WORKERS) as u64), "{spread:?}");
    drop((before, orphaned, after));
}

#[test]
fn a_worker_that_died_gets_its_share_again() {
    let stand = stand(Choices::default());
    let victim = stand.daemon.workers().unwrap()[0];
    rustix::process::kill_process(process::pid(victim).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    wait::for_condition("a new worker", PATIENCE, || {
        let now = stand.daemon.workers().unwrap();
        now.len() == WORKERS && !now.contains(&victim)
    })
    .unwrap();
    let connections_open = open(&stand, l7(), CONNECTIONS);
    assert_even(&stand, connections);
    drop(connections_open);
}

#[test]
fn without_ebpf_the_kernels_hash_spreads_them() {
    let stand = stand(Choices { global: "bpf_dir = \"/tmp/no-bpffs\"", ..Choices::default() });
    let said = stand.daemon.log();
    assert_eq!(said.matches("spread over the workers by hash").count(), 1, "{said}");
    let all = open(&stand, l7(), CONNECTIONS);
    let spread = connections(&stand.daemon.status().unwrap());
    assert_eq!(spread.values().sum::<u64>(), CONNECTIONS as u64);
    assert!(spread.values().filter(|n| **n > 0).count() > 1, "{spread:?}");
    drop(all);
}
