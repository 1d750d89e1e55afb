//! What an operator does in a year, in a minute: under constant load of every kind nothing is lost but what
//! was in a killed worker's hands, or open longer than a drain lasts; and nothing is left behind.
//!
//! `STEERAGE_YEAR=whole cargo test -p steerage-tests --test year` does all of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::topology::{self, CLIENT_LINK};
use steerage_lab::{daemon, process, wait};
use steerage_tests::stand::{Choices, Stand, l4, l7};
use steerage_tests::year::{Client, EchoServer, Kind, Loss};

const PATIENCE: Duration = Duration::from_secs(40);

/// `global.drain`.
const DRAIN: Duration = Duration::from_secs(4);

/// A worker that dies sooner after its start counts as one that cannot start.
const STEADY: Duration = Duration::from_secs(6);

/// How soon a client notices.
const NOTICE: Duration = Duration::from_secs(1);

/// How often each thing is done.
struct Year {
    reloads: usize,
    broken_files: usize,
    killed_workers: usize,
    killed_supervisors: usize,
    upgrades: usize,
    failing_upgrades: usize,
    drains: usize,
    storms: usize,
}

const WHOLE: Year = Year {
    reloads: 50,
    broken_files: 10,
    killed_workers: 20,
    killed_supervisors: 3,
    upgrades: 9,
    failing_upgrades: 1,
    drains: 5,
    storms: 3,
};

const SHORT: Year = Year {
    reloads: 12,
    broken_files: 3,
    killed_workers: 4,
    killed_supervisors: 1,
    upgrades: 3,
    failing_upgrades: 1,
    drains: 2,
    storms: 1,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Reload,
    BrokenFile,
    KillWorker,
    KillSupervisor,
    Upgrade,
    FailingUpgrade,
    Drain,
    Storm,
}

impl Year {
    /// All of it, each spread evenly.
    fn deeds(&self) -> Vec<Deed> {
        let counts = [
            (Deed::Reload, self.reloads),
            (Deed::BrokenFile, self.broken_files),
            (Deed::KillWorker, self.killed_workers),
            (Deed::KillSupervisor, self.killed_supervisors),
            (Deed::Upgrade, self.upgrades),
            (Deed::FailingUpgrade, self.failing_upgrades),
            (Deed::Drain, self.drains),
            (Deed::Storm, self.storms),
        ];
        let mut deeds: Vec<(f64, Deed)> = Vec::new();
        for (at, (deed, count)) in counts.into_iter().enumerate() {
            let shift = (at as f64 + 0.5) / counts.len() as f64;
            deeds.extend((0..count).map(|n| ((n as f64 + shift) / count as f64, deed)));
        }
        deeds.sort_by(|a, b| a.0.total_cmp(&b.0));
        deeds.into_iter().map(|(_, deed)| deed).collect()
    }
}

/// The operator: a stand, its present configuration, and what was done when.
struct Operator {
    stand: Stand,
    echo: SocketAddr,
    round: usize,
    bad: PathBuf,
    /// When workers were killed.
    kills: Vec<Instant>,
    /// When workers were told to finish.
    retirements: Vec<Instant>,
}

impl Operator {
    /// The configuration of a round.
    fn text(&self, round: usize) -> String {
        let mut text = daemon::global(&self.stand.scratch);
        let _ = writeln!(text, "workers = 2\nwatch = false\ndrain = \"{}s\"", DRAIN.as_secs());
        let mut listener = |name: &str, port: u16| {
            let address = SocketAddr::new(l7().ip(), port);
            let _ = write!(
                text,
                "[[listener]]\nname = \"{name}\"\nbind = [\"{address}\"]\nprotocol = \"http\"\n\
                 [[listener.route]]\npath = \"/who{}\"\nredirect = {{ to = \"/\", status = 302 }}\n\
                 [[listener.route]]\npath = \"/echo\"\nservice = \"echo\"\n\
                 [[listener.route]]\nservice = \"app\"\nmax_body = \"off\"\n",
                round % 3
            );
        };
        listener("web", l7().port());
        if round % 4 == 1 {
            listener("other", 8081);
        }
        let _ = write!(
            text,
            "[[vip]]\nname = \"app-tcp\"\naddress = \"{}\"\nprotocol = \"tcp\"\nmode = \"nat\"\n\
             interface = \"{CLIENT_LINK}\"\nservice = \"app\"\n\
             [[service]]\nname = \"echo\"\n[[service.backend]]\naddress = \"{}\"\n\
             [[service]]\nname = \"app\"\nprobe = {{ kind = \"http\", path = \"/health\", \
             interval = \"200ms\", timeout = \"150ms\" }}\n",
            l4(),
            self.echo
        );
        // The first two always; the others come and go.
        let numbers =
            [1, 2, 3, 4].into_iter().filter(|n| *n < 3 || round.wrapping_add(*n) % 3 != 0);
        for number in numbers {
            let address = topology::backend_socket(number as u8);
            let weight = 1 + (round + number) % 4;
            let _ =
                write!(text, "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
        text
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Reload => {
                self.round += 1;
                self.stand.reconfigure(&self.text(self.round)).unwrap();
            }
            Deed::BrokenFile => {
                let broken = self.text(self.round).replace("interval", "intervall");
                assert!(self.stand.reconfigure(&broken).is_err());
                self.stand.write_config(&self.text(self.round)).unwrap();
            }
            Deed::KillWorker => {
                // One that has not just been started: else it would be given up soon.
                let since = self.kills.last().into_iter().chain(&self.retirements).max().copied();
                if let Some(left) = since.and_then(|at| STEADY.checked_sub(at.elapsed())) {
                    std::thread::sleep(left);
                }
                let workers = self.stand.daemon.workers().unwrap();
                let victim = workers[self.kills.len() % workers.len()];
                self.kills.push(Instant::now());
                kill_process(process::pid(victim).unwrap(), Signal::KILL).unwrap();
                wait::for_condition("a new worker", PATIENCE, || {
                    let now = self.stand.daemon.workers().unwrap_or_default();
                    now.len() == 2 && !now.contains(&victim)
                })
                .unwrap();
            }
            Deed::KillSupervisor => {
                let pid = self.stand.daemon.pid();
                kill_process(process::pid(pid).unwrap(), Signal::KILL).unwrap();
                wait::for_condition("its end", PATIENCE, || {
                    self.stand.daemon.process().exited();
                    !process::alive(pid)
                })
                .unwrap();
                self.stand.daemon.leave_pins();
                self.retirements.push(Instant::now());
                self.stand.daemon = self.stand.successor().unwrap();
            }
            Deed::Upgrade => {
                self.retirements.push(Instant::now());
                self.stand.daemon.upgrade(None).unwrap();
            }
            Deed::FailingUpgrade => {
                assert!(self.stand.daemon.upgrade(Some(&self.bad)).is_err());
            }
            Deed::Drain => {
                let name = format!("app/{}", topology::backend_socket(1));
                self.stand.daemon.backend(&["drain", &name, "--no-wait"]).unwrap();
                self.stand.daemon.backend(&["undrain", &name]).unwrap();
            }
            Deed::Storm => {
                let pid = process::pid(self.stand.daemon.pid()).unwrap();
                for _ in 0..20 {
                    kill_process(pid, Signal::HUP).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Whether it was in the hands of a killed worker.
    fn was_killed(&self, at: Instant) -> bool {
        self.kills.iter().any(|kill| *kill <= at && at <= *kill + NOTICE)
    }

    /// Whether it was open for longer than the drain that it had to end within.
    fn was_drained(&self, loss: &Loss) -> bool {
        let is_over = |told: &Instant| *told >= loss.since && loss.at >= *told + DRAIN;
        self.retirements.iter().any(is_over)
    }

    fn left_behind(&self) -> Left {
        let pid = self.stand.daemon.pid();
        let count = |path: String| fs::read_dir(path).map_or(0, Iterator::count);
        let mut pins = BTreeSet::new();
        collect(&self.stand.pins(), &mut pins);
        let processes = self.stand.topology.balancer.pids().unwrap().len();
        let rss = process::resident_bytes(pid).unwrap();
        Left { descriptors: count(format!("/proc/{pid}/fd")), processes, pins, rss }
    }
}

/// What a daemon takes.
#[derive(Debug)]
struct Left {
    descriptors: usize,
    processes: usize,
    pins: BTreeSet<PathBuf>,
    rss: u64,
}

fn collect(directory: &Path, all: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, all);
        } else {
            all.insert(path);
        }
    }
}

#[test]
fn a_year_of_operations_loses_nothing_and_leaves_nothing_behind() {
    let is_whole = std::env::var_os("STEERAGE_YEAR").is_some_and(|how| how == "whole");
    let year = if is_whole { WHOLE } else { SHORT };
    let choices = Choices { weights: vec![1; 4], tcp_vip: true, ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let echo = SocketAddr::new(topology::backend_socket(1).ip(), 9090);
    let server = EchoServer::start(&stand.topology.backends[0], echo).unwrap();
    let bad = stand.scratch.write("bad", "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
    let (kills, retirements) = (Vec::new(), Vec::new());
    let mut operator =
        Operator { stand, echo: server.address(), round: 0, bad, kills, retirements };
    operator.act(Deed::Reload);
    operator.round = 0;
    operator.stand.reconfigure(&operator.text(0)).unwrap();
    operator.act(Deed::Upgrade);
    let settled = |operator: &mut Operator| {
        wait::for_condition("former workers to end", PATIENCE, || {
            operator.stand.daemon.process().exited();
            operator.stand.topology.balancer.pids().is_ok_and(|pids| pids.len() == 3)
        })
        .unwrap();
        operator.left_behind()
    };
    let before = settled(&mut operator);

    let netns = &operator.stand.topology.client;
    let pollers = [
        ("GET on kept connections", l7(), Reuse::KeepAlive),
        ("GET on kept connections", l7(), Reuse::KeepAlive),
        ("GET on new connections", l7(), Reuse::Never),
        ("GET on new connections", l7(), Reuse::Never),
        ("new L4 flows", l4(), Reuse::Never),
    ];
    let pollers = pollers.map(|(name, at, reuse)| (name, Poller::start(netns, at, reuse).unwrap()));
    let clients = [
        ("kept L4 flow", Kind::Flow, l4()),
        ("kept L4 flow", Kind::Flow, l4()),
        ("kept L4 flow", Kind::Flow, l4()),
        ("POST 150 KB", Kind::Upload, l7()),
        ("h2c, 8 at a time", Kind::Http2, l7()),
        ("tunnel", Kind::Tunnel, l7()),
        ("tunnel", Kind::Tunnel, l7()),
    ];
    let clients =
        clients.map(|(name, kind, at)| (name, kind, Client::start(netns, kind, at).unwrap()));

    let began = Instant::now();
    let deeds = year.deeds();
    for deed in &deeds {
        operator.act(*deed);
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{} operations in {:.0} s", deeds.len(), began.elapsed().as_secs_f64());
    println!("{:<24} {:>8} {:>8} {:>8} {:>8}", "client", "done", "killed", "drained", "lost");
    let mut unexcused = Vec::new();
    for (name, poller) in pollers {
        let samples = poller.stop();
        let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
        let is_excused =
            |sample: &&Sample| name != "new L4 flows" && operator.was_killed(sample.at);
        let (killed, lost): (Vec<&Sample>, Vec<&Sample>) =
            failed.iter().partition(|s| is_excused(s));
        let done = samples.len() - failed.len();
        println!("{name:<24} {done:>8} {:>8} {:>8} {:>8}", killed.len(), 0, lost.len());
        unexcused.extend(lost.iter().map(|sample| format!("{name}: {sample:?}")));
    }
    for (name, kind, client) in clients {
        let record = client.stop();
        let is_l7 = kind != Kind::Flow;
        let (killed, rest): (Vec<_>, Vec<_>) =
            record.losses.iter().partition(|loss| is_l7 && operator.was_killed(loss.at));
        let (drained, lost): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|loss| kind == Kind::Tunnel && operator.was_drained(loss));
        let (k, d, l) = (killed.len(), drained.len(), lost.len());
        println!("{name:<24} {:>8} {k:>8} {d:>8} {l:>8}", record.done);
        assert!(record.done > 100, "{name} did nothing");
        unexcused.extend(lost.iter().map(|loss| format!("{name}: {loss:?}")));
    }
    assert!(unexcused.is_empty(), "{unexcused:#?}\n{}", operator.stand.daemon.log());

    operator.stand.reconfigure(&operator.text(0)).unwrap();
    let after = settled(&mut operator);
    println!(
        "before: {} descriptors, {} processes, {} pins, {} KiB; after: {}, {}, {}, {} KiB",
        before.descriptors,
        before.processes,
        before.pins.len(),
        before.rss / 1024,
        after.descriptors,
        after.processes,
        after.pins.len(),
        after.rss / 1024
    );
    assert_eq!(after.pins, before.pins);
    // Connections of the prober are open now and then.
    assert!(after.descriptors <= before.descriptors + 8, "descriptors are left");
    assert!(after.rss < 2 * before.rss, "memory is left");
}
