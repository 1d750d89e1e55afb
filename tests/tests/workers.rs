//! Workers hang, die again and again, grow old: clients notice as little as can be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::topology::Topology;
use steerage_lab::{process, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(30);

fn signal(pid: u32, signal: Signal) {
    kill_process(process::pid(pid).unwrap(), signal).unwrap();
}

/// Clients that each open a connection for every request.
fn newcomers(topology: &Topology, count: usize) -> Vec<Poller> {
    (0..count).map(|_| Poller::start(&topology.client, l7(), Reuse::Never).unwrap()).collect()
}

fn wait_for_samples(pollers: &[Poller], since: Instant, each: usize) {
    wait::for_condition("requests to be served", PATIENCE, || {
        pollers.iter().all(|poller| poller.since(since).len() > each)
    })
    .unwrap();
}

fn failed(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|sample| sample.answer.is_err()).collect()
}

/// Waits until none of `former` is among the workers, which are as many as before.
fn wait_replaced(stand: &Stand, former: &BTreeSet<u32>) -> BTreeSet<u32> {
    wait::until("the workers to be replaced", PATIENCE, || {
        let now: BTreeSet<u32> = stand.daemon.workers().ok()?.into_iter().collect();
        (now.len() == former.len() && now.is_disjoint(former)).then_some(now)
    })
    .unwrap()
}

#[test]
fn a_stopped_worker_loses_no_connection_that_it_had_not_accepted() {
    for io in ["auto", "epoll"] {
        let global: &'static str = match io {
            "auto" => "worker_hang = \"1s\"",
            _ => "worker_hang = \"1s\"\nio = \"epoll\"",
        };
        let stand = Stand::start(&Choices { workers: 3, global, ..Choices::default() }).unwrap();
        // More than one, so that connections come to the stopped worker too.
        let pollers = newcomers(&stand.topology, 6);
        wait_for_samples(&pollers, Instant::now(), 50);
        let victim = stand.daemon.workers().unwrap()[1];
        signal(victim, Signal::STOP);
        // The signal is on its way when the call returns: it may accept one more.
        wait::for_condition("the worker to have stopped", PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{victim}/stat")).unwrap();
            stat.rsplit(')').next().unwrap().trim().starts_with('T')
        })
        .unwrap();
        let stopped = Instant::now();
        // Those that it had accepted when it was stopped are lost with it, one of each client at most.
        wait::for_condition("the stopped worker to be taken out", PATIENCE, || {
            !stand.daemon.workers().unwrap().contains(&victim)
        })
        .unwrap();
        let taken_out = stopped.elapsed();
        wait::for_condition("its successor", PATIENCE, || {
            stand.daemon.workers().unwrap().len() == 3
        })
        .unwrap();
        wait_for_samples(&pollers, Instant::now(), 50);
        let (mut served, mut lost) = (0, Vec::new());
        for poller in pollers {
            // What was under way at that moment was heard of by nobody before; all later requests are
            // of connections that were opened afterwards.
            let since = poller.since(stopped);
            let late = since.iter().skip(1).filter(|sample| sample.answer.is_err());
            lost.extend(late.map(|sample| (sample.at - stopped, sample.answer.clone())));
            served += since.len();
        }
        assert!(lost.is_empty(), "with {io}: {lost:?}\n{}", stand.daemon.log());
        assert!(stand.daemon.log().contains("hung: nothing was heard of it"));
        println!(
            "{io}: {served} requests served, 0 lost; the stopped worker was taken out after {:.2} s",
            taken_out.as_secs_f64()
        );
    }
}

#[test]
fn a_worker_that_dies_again_and_again_is_given_up_and_the_others_serve() {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    let pollers = newcomers(&stand.topology, 2);
    let kept = stand.daemon.workers().unwrap()[0];
    while !stand.daemon.log().contains("given up") {
        let workers = stand.daemon.workers().unwrap();
        for victim in workers.into_iter().filter(|worker| *worker != kept) {
            signal(victim, Signal::KILL);
            wait::for_condition("it to be gone", PATIENCE, || !process::alive(victim)).unwrap();
        }
    }
    let given_up = Instant::now();
    wait_for_samples(&pollers, given_up, 50);
    for poller in pollers {
        let samples = poller.since(given_up);
        assert!(failed(&samples[1..]).is_empty(), "{:?}", failed(&samples));
    }
    assert_eq!(stand.daemon.workers().unwrap(), [kept]);

    // Neither does a listener that comes later wait for the one that is gone.
    let other = std::net::SocketAddr::from((steerage_lab::topology::BALANCER, 8081));
    let added = Choices::default()
        .config(&stand.scratch)
        .replace(&format!("bind = [\"{}\"]", l7()), &format!("bind = [\"{}\", \"{other}\"]", l7()));
    stand.reconfigure(&added).unwrap();
    for _ in 0..20 {
        assert_eq!(stand.connect(other).unwrap().get("/").unwrap().status, 200);
    }

    // Without any worker there is no use in staying.
    while stand.daemon.process().exited().is_none() {
        for victim in stand.daemon.workers().unwrap_or_default() {
            if kill_process(process::pid(victim).unwrap(), Signal::KILL).is_ok() {
                let _ = wait::for_condition("it to be gone", PATIENCE, || !process::alive(victim));
            }
        }
    }
    let log = stand.daemon.log();
    assert!(!stand.daemon.process().wait(PATIENCE).unwrap().success());
    assert!(log.contains("no worker is left"), "{log}");
}

#[test]
fn workers_that_are_replaced_by_age_cost_nobody_anything() {
    let choices =
        Choices { global: "worker_lifetime = \"10s\"\ndrain = \"5s\"", ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let first: BTreeSet<u32> = stand.daemon.workers().unwrap().into_iter().collect();
    let mut pollers = newcomers(&stand.topology, 2);
    for _ in 0..4 {
        pollers.push(Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap());
    }
    let second = wait_replaced(&stand, &first);
    let after = Instant::now();
    wait::for_condition("the old ones to have finished", PATIENCE, || {
        !first.iter().any(|worker| process::alive(*worker))
    })
    .unwrap();
    // Again, so that lines are seen to come back.
    let third = wait_replaced(&stand, &second);
    wait_for_samples(&pollers, after, 100);
    for poller in pollers {
        let samples = poller.stop();
        assert!(failed(&samples).is_empty(), "{:?}\n{}", failed(&samples), stand.daemon.log());
    }
    assert_eq!(third.len(), 2);
}

/// Sets how many files a worker may have open, as its own user: root alone may not here.
fn limit_files(worker: u32, files: usize) {
    let nobody = steerage::sys::account("nobody").unwrap().unwrap();
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args(["--pid", &worker.to_string(), &format!("--nofile={files}:")]);
    steerage_lab::command::output(prlimit.uid(nobody.uid).gid(nobody.gid)).unwrap();
}

#[test]
fn a_worker_without_descriptors_serves_whom_it_has_and_the_others_later() {
    const QUEUED: usize = 20;
    // On a ring the limit of the time holds at which the kernel was told to accept.
    let choices = Choices { workers: 1, global: "io = \"epoll\"", ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let worker = stand.daemon.workers().unwrap()[0];
    let mut known = stand.connect(l7()).unwrap();
    for _ in 0..4 {
        // Each backend has a connection then.
        assert_eq!(known.get("/").unwrap().status, 200);
    }
    let open = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
    let began = Instant::now();
    limit_files(worker, open + 4);
    let mut clients: Vec<_> = (0..QUEUED).map(|_| stand.connect(l7()).unwrap()).collect();
    let pausing = || stand.daemon.log().matches("can't accept connections: pausing").count();
    wait::for_condition("the worker to run out of descriptors", PATIENCE, || pausing() > 3)
        .unwrap();
    for _ in 0..20 {
        assert_eq!(known.get("/").unwrap().status, 200);
    }
    // It tries ten times a second, and not as fast as it can.
    let (times, elapsed) = (pausing(), began.elapsed());
    assert!(times as u128 <= elapsed.as_millis() / 100 + 2, "{times} times in {elapsed:?}");
    limit_files(worker, 10_000);
    for client in &mut clients {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    assert_eq!(stand.daemon.workers().unwrap(), [worker]);
}
