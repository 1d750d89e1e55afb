//! Processes die; the service does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::{command, process, wait};
use steerage_tests::stand::{Choices, Stand, l4, l7};

const PATIENCE: Duration = Duration::from_secs(10);

/// Keep-alive clients: enough that each of two workers has some, but for one case in 2^15.
const CLIENTS: usize = 16;

/// Which worker serves which client port, as the kernel knows it.
fn owners(stand: &Stand) -> BTreeMap<u16, u32> {
    let mut ss = stand.topology.balancer.command("ss");
    ss.args(["-Htnp", "state", "established", "sport", "=", ":8080"]);
    let text = command::output(&mut ss).unwrap();
    let mut owners = BTreeMap::new();
    for line in text.lines() {
        let peer =
            line.split_whitespace().nth(3).and_then(|peer| peer.rsplit(':').next()?.parse().ok());
        let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
        if let (Some(peer), Some(pid)) = (peer, pid) {
            owners.insert(peer, pid);
        }
    }
    owners
}

#[test]
fn a_killed_worker_costs_the_others_nothing_and_is_replaced() {
    let stand = Stand::start(&Choices::default()).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| stand.connect(l7()).unwrap()).collect();
    for client in &mut clients {
        client.get("/").unwrap();
    }
    let owners = owners(&stand);
    let workers: BTreeSet<u32> = stand.daemon.workers().unwrap().into_iter().collect();
    assert_eq!(owners.values().copied().collect::<BTreeSet<_>>(), workers, "{owners:?}");
    let victim = *workers.first().unwrap();
    let newcomers = Poller::start(&stand.topology.client, l7(), Reuse::Never).unwrap();

    let (stopped, killed) = (AtomicBool::new(false), AtomicBool::new(false));
    let (ended, served_again) = std::thread::scope(|scope| {
        let loads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let (stopped, killed) = (&stopped, &killed);
                scope.spawn(move || {
                    let port = client.local_address().unwrap().port();
                    let mut after = 0;
                    while !stopped.load(Ordering::SeqCst) {
                        match client.get("/") {
                            Ok(response) => assert_eq!(response.status, 200),
                            Err(_) => return (port, true, after),
                        }
                        after += u32::from(killed.load(Ordering::SeqCst));
                    }
                    (port, false, after)
                })
            })
            .collect();
        let death = Instant::now();
        kill_process(process::pid(victim).unwrap(), Signal::KILL).unwrap();
        killed.store(true, Ordering::SeqCst);
        let replaced = wait::for_condition("a new worker", PATIENCE, || {
            let now: BTreeSet<u32> = stand.daemon.workers().unwrap().into_iter().collect();
            now.len() == 2 && !now.contains(&victim)
        });
        let served_again = death.elapsed();
        stopped.store(true, Ordering::SeqCst);
        replaced.unwrap();
        let ended: Vec<_> = loads.into_iter().map(|load| load.join().unwrap()).collect();
        (ended, served_again)
    });
    let others_failed = ended.iter().filter(|(port, failed, _)| *failed && owners[port] != victim);
    assert_eq!(others_failed.count(), 0, "requests of other workers failed: {ended:?} {owners:?}");
    let others_served: u32 = ended.iter().filter(|(p, ..)| owners[p] != victim).map(|e| e.2).sum();
    assert!(others_served > 0, "the other worker was not under load");

    // New connections: at most the one request that the victim was answering can be lost.
    let after = Instant::now();
    wait::for_condition("new connections served", PATIENCE, || newcomers.since(after).len() > 50)
        .unwrap();
    let failed: Vec<_> = newcomers.stop().into_iter().filter(|s| s.answer.is_err()).collect();
    assert!(failed.len() <= 1, "{failed:?}");
    println!(
        "{others_served} requests of the other worker went on; a new worker was there after {:.1} ms",
        served_again.as_secs_f64() * 1e3
    );
}

#[test]
fn both_planes_go_on_without_a_supervisor_and_a_new_one_takes_over() {
    let mut stand = Stand::start(&Choices { tcp_vip: true, ..Choices::default() }).unwrap();
    let requests = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    let connections = Poller::start(&stand.topology.client, l4(), Reuse::Never).unwrap();
    let mut flow = stand.connect(l4()).unwrap();
    let own = flow.get("/").unwrap().text();
    let orphans = stand.daemon.workers().unwrap();

    stand.daemon.leave_pins();
    stand.daemon.process().kill().unwrap();
    let death = Instant::now();
    wait::for_condition("both planes to go on", PATIENCE, || {
        [&requests, &connections].iter().all(|poller| poller.since(death).len() > 200)
    })
    .unwrap();
    assert_eq!(flow.get("/").unwrap().text(), own);
    assert!(orphans.iter().all(|worker| process::alive(*worker)));

    let successor = stand.successor().unwrap();
    wait::for_condition("the orphans to drain", Duration::from_secs(40), || {
        !orphans.iter().any(|worker| process::alive(*worker))
    })
    .unwrap();
    let takeover = Instant::now();
    wait::for_condition("both planes to go on", PATIENCE, || {
        [&requests, &connections].iter().all(|poller| poller.since(takeover).len() > 50)
    })
    .unwrap();
    assert_eq!(flow.get("/").unwrap().text(), own, "the flow moved");
    for poller in [requests, connections] {
        let failed: Vec<_> = poller.stop().into_iter().filter(|s| s.answer.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    drop(successor);
}

#[test]
fn sigterm_lets_requests_finish_and_leaves_no_process() {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    let workers = stand.daemon.workers().unwrap();
    let mut slow = stand.connect(l7()).unwrap();
    slow.send(b"GET /delay/700 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let before = (1..=2).map(|n| stand.backend(n).requests()).sum::<u64>();
    wait::for_condition("the request to reach a backend", PATIENCE, || {
        before > 0 || (1..=2).map(|n| stand.backend(n).requests()).sum::<u64>() > 0
    })
    .unwrap();
    let asked = Instant::now();
    stand.daemon.process().signal(Signal::TERM).unwrap();
    let refused = wait::for_condition("new connections to be refused", PATIENCE, || {
        stand.connect(l7()).is_err()
    });
    refused.unwrap();
    let response = slow.response().unwrap();
    assert_eq!(response.status, 200, "the request under way was cut off");
    let status = stand.daemon.process().wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}\n{}", stand.daemon.log());
    println!("ended {:.0} ms after SIGTERM", asked.elapsed().as_secs_f64() * 1e3);
    assert!(!workers.iter().any(|worker| process::alive(*worker)));
    assert!(!stand.scratch.join("steerage.pid").exists());
    assert!(!stand.scratch.join("admin.sock").exists());
}

#[test]
fn workers_run_without_privileges() {
    let stand = Stand::start(&Choices::default()).unwrap();
    for worker in stand.daemon.workers().unwrap() {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        assert!(!field("Uid:").starts_with('0'), "{}", field("Uid:"));
        assert_eq!(u64::from_str_radix(&field("CapEff:"), 16), Ok(0));
        assert_eq!(field("NoNewPrivs:"), "1");
    }
}
