//! More clients than there is room for: nobody who was let in loses anything, and the others are served
//! when there is room.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use steerage_lab::client::Connection;
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::{command, process, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(30);

fn signal(pid: u32, signal: Signal) {
    kill_process(process::pid(pid).unwrap(), signal).unwrap();
}

/// Whether the connection is served; `false` if it is refused for its address's number of them.
fn is_served(connection: &mut Connection) -> bool {
    match connection.get("/").unwrap().status {
        200 => true,
        429 => false,
        other => panic!("status {other}"),
    }
}

/// Opens connections until one is refused; gives those that are served.
fn fill(stand: &Stand) -> Vec<Connection> {
    let mut served = Vec::new();
    loop {
        let mut connection = stand.connect(l7()).unwrap();
        if !is_served(&mut connection) {
            return served;
        }
        served.push(connection);
    }
}

#[test]
fn an_address_has_its_number_of_connections_over_all_workers_whoever_dies() {
    const LIMIT: usize = 7;
    let choices = Choices { workers: 3, global: "drain = \"60s\"", ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    let limited = std::fs::read_to_string(&stand.config).unwrap().replace(
        "protocol = \"http\"\n",
        &format!("protocol = \"http\"\nlimits = {{ connections_per_address = {LIMIT} }}\n"),
    );
    stand.reconfigure(&limited).unwrap();
    let mut open = fill(&stand);
    assert_eq!(open.len(), LIMIT);
    // Whose connection ends has its place back, wherever the next one comes in.
    for _ in 0..5 {
        open.remove(0);
        let next = wait::until("a place to be free", PATIENCE, || {
            let mut next = stand.connect(l7()).unwrap();
            is_served(&mut next).then_some(next)
        });
        open.push(next.unwrap());
        assert!(fill(&stand).is_empty());
    }
    // A worker that is killed leaves no number behind.
    let victim = stand.daemon.workers().unwrap()[0];
    signal(victim, Signal::KILL);
    wait::for_condition("its successor", PATIENCE, || {
        let workers = stand.daemon.workers().unwrap();
        workers.len() == 3 && !workers.contains(&victim)
    })
    .unwrap();
    open.retain_mut(|connection| connection.get("/").is_ok());
    let lost = LIMIT - open.len();
    open.extend(fill(&stand));
    assert_eq!(open.len(), LIMIT, "{lost} were the killed worker's");
    // The workers of a daemon that is followed finish what they have, and it counts.
    let upload =
        b"POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for connection in &mut open[..3] {
        connection.send(upload).unwrap();
    }
    stand.daemon.upgrade(None).unwrap();
    wait::for_condition("those without a request to be closed", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        let workers = status["workers"].as_array().unwrap().clone();
        let former = workers.iter().filter(|worker| worker["current"] == false);
        former.map(|worker| worker["connections"].as_u64().unwrap()).sum::<u64>() == 3
    })
    .unwrap();
    assert_eq!(fill(&stand).len(), LIMIT - 3);
    for connection in &mut open[..3] {
        connection.send(b"0\r\n\r\n").unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
    }
}

#[test]
fn what_workers_have_that_a_dead_daemon_left_counts_until_they_end() {
    const LIMIT: usize = 5;
    let choices = Choices { global: "drain = \"60s\"", ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    let limited = std::fs::read_to_string(&stand.config).unwrap().replace(
        "protocol = \"http\"\n",
        &format!("protocol = \"http\"\nlimits = {{ connections_per_address = {LIMIT} }}\n"),
    );
    stand.reconfigure(&limited).unwrap();
    let mut busy: Vec<Connection> = (0..3).map(|_| stand.connect(l7()).unwrap()).collect();
    let upload =
        b"POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for connection in &mut busy {
        connection.send(upload).unwrap();
    }
    wait::for_condition("the uploads to be under way", PATIENCE, || {
        let backends = stand.daemon.status().unwrap()["services"][0]["backends"].clone();
        let active =
            backends.as_array().unwrap().iter().map(|b| b["l7"]["active"].as_u64().unwrap());
        active.sum::<u64>() == 3
    })
    .unwrap();
    let orphans = stand.daemon.workers().unwrap();
    stand.daemon.leave_pins();
    stand.daemon.process().kill().unwrap();
    let successor = stand.successor().unwrap();
    // New connections come to the new workers alone once the orphans drain.
    wait::for_condition("the orphans to drain", PATIENCE, || {
        successor.workers().unwrap().iter().all(|worker| !orphans.contains(worker))
    })
    .unwrap();
    let mut open = fill(&stand);
    assert_eq!(open.len(), LIMIT - busy.len());
    for orphan in &orphans {
        signal(*orphan, Signal::KILL);
    }
    wait::for_condition("their places to be free", PATIENCE, || {
        open.extend(fill(&stand));
        open.len() == LIMIT
    })
    .unwrap();
}

/// Sets how many files a worker may have open, as its own user: root alone may not here.
fn limit_files(worker: u32, files: usize) {
    let nobody = steerage::sys::account("nobody").unwrap().unwrap();
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &worker.to_string(), &format!("--nofile={files}:")]);
    command::output(prlimit.uid(nobody.uid).gid(nobody.gid)).unwrap();
}

#[test]
fn under_load_a_worker_without_descriptors_loses_no_request_that_it_has_let_in() {
    for io in ["io = \"epoll\"", "io = \"auto\""] {
        let stand =
            Stand::start(&Choices { workers: 1, global: io, ..Choices::default() }).unwrap();
        let worker = stand.daemon.workers().unwrap()[0];
        let client = &stand.topology.client;
        let kept: Vec<Poller> =
            (0..4).map(|_| Poller::start(client, l7(), Reuse::KeepAlive).unwrap()).collect();
        let all_go_on = |pollers: &[Poller]| {
            let now = Instant::now();
            wait::for_condition("requests to be served", PATIENCE, || {
                pollers.iter().all(|poller| poller.since(now).len() > 100)
            })
            .unwrap();
        };
        all_go_on(&kept);
        let open = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
        limit_files(worker, open);
        // They connect, for the kernel does that, and wait; none is refused and none is reset.
        let mut waiting: Vec<_> = (0..50).map(|_| stand.connect(l7()).unwrap()).collect();
        for connection in &mut waiting {
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        if io.contains("epoll") {
            wait::for_condition("the worker to say so", PATIENCE, || {
                stand.daemon.log().contains("can't accept connections: pausing")
            })
            .unwrap();
        }
        all_go_on(&kept);
        limit_files(worker, 10_000);
        for connection in &mut waiting {
            assert_eq!(connection.response().unwrap().status, 200, "with {io}");
        }
        for poller in kept {
            let samples = poller.stop();
            let failed: Vec<_> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
            assert!(failed.is_empty(), "with {io}: {failed:?}");
        }
        assert_eq!(stand.daemon.workers().unwrap(), [worker], "it is still the same");
    }
}

/// Has system calls of a process fail, for as long as it lives.
struct Fault(Child);

impl Fault {
    fn inject(pid: u32, call: &str, error: &str) -> Self {
        let child = Command::new("strace")
            .args(["-qq", "-p", &pid.to_string(), "-o", "/dev/null"])
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error={error}")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let fault = Self(child);
        wait::for_condition("the tracer to be there", PATIENCE, || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:")).unwrap();
            !tracer.trim_end().ends_with("\t0")
        })
        .unwrap();
        fault
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // It lets go of the process at SIGTERM, and leaves it as it was.
        let _ = process::pid(self.0.id()).map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.0.wait();
    }
}

#[test]
fn a_worker_without_memory_for_connections_serves_whom_it_has_and_the_others_later() {
    let choices = Choices { workers: 1, global: "io = \"epoll\"", ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let worker = stand.daemon.workers().unwrap()[0];
    let mut known = stand.connect(l7()).unwrap();
    assert_eq!(known.get("/").unwrap().status, 200);
    for error in ["ENOMEM", "ENOBUFS", "ENFILE"] {
        let before = stand.daemon.log().matches("can't accept connections: pausing").count();
        let fault = Fault::inject(worker, "accept4", error);
        let mut clients: Vec<_> = (0..10).map(|_| stand.connect(l7()).unwrap()).collect();
        wait::for_condition("the worker to say so", PATIENCE, || {
            stand.daemon.log().matches("can't accept connections: pausing").count() > before + 1
        })
        .unwrap();
        assert_eq!(known.get("/").unwrap().status, 200, "{error}");
        drop(fault);
        for client in &mut clients {
            assert_eq!(client.get("/").unwrap().status, 200, "{error}");
        }
    }
    assert_eq!(stand.daemon.workers().unwrap(), [worker]);
}

/// How often a connection found the queue of its listening socket full, on the balancer's host.
fn overflows(stand: &Stand) -> u64 {
    let mut nstat = stand.topology.balancer.command("nstat");
    let text = command::output(nstat.args(["-asz", "TcpExtListenOverflows"])).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("TcpExtListenOverflows"));
    value.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap()
}

#[test]
fn a_full_listen_queue_is_served_to_the_last_when_its_worker_goes_on() {
    const QUEUE: usize = 8;
    let choices = Choices { workers: 1, global: "worker_hang = \"off\"", ..Choices::default() };
    let stand = Stand::start_with(&choices, |topology| {
        let mut sysctl = topology.balancer.command("sysctl");
        command::output(sysctl.args(["-w", &format!("net.core.somaxconn={QUEUE}")])).map(drop)
    })
    .unwrap();
    let worker = stand.daemon.workers().unwrap()[0];
    signal(worker, Signal::STOP);
    let before = overflows(&stand);
    let served = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3 * QUEUE)
            .map(|_| scope.spawn(|| stand.connect(l7()).and_then(|mut open| Ok(open.get("/")?))))
            .collect();
        let full =
            wait::for_condition("the queue to overflow", PATIENCE, || overflows(&stand) > before);
        signal(worker, Signal::CONT);
        full.unwrap();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for answer in served {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(stand.daemon.workers().unwrap(), [worker]);
}

#[test]
fn accepting_pauses_at_the_limit_of_connections_and_goes_on_when_one_ends() {
    const LIMIT: usize = 6;
    let choices = Choices { workers: 2, global: "max_connections = 6", ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let upload =
        b"POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let connections = |stand: &Stand| {
        let status = stand.daemon.status().unwrap();
        let workers = status["workers"].as_array().unwrap().clone();
        workers.iter().map(|worker| worker["connections"].as_u64().unwrap()).sum::<u64>() as usize
    };
    // All of them are at a request: none can be closed for another.
    let mut busy: Vec<Connection> = Vec::new();
    while connections(&stand) < LIMIT {
        let mut connection = stand.connect(l7()).unwrap();
        connection.send(upload).unwrap();
        busy.push(connection);
    }
    let mut waiting: Vec<Connection> = (0..4).map(|_| stand.connect(l7()).unwrap()).collect();
    for connection in &mut waiting {
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    wait::for_condition("both workers to be full", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        status["workers"].as_array().unwrap().iter().all(|worker| worker["full"] == true)
    })
    .unwrap();
    assert_eq!(connections(&stand), LIMIT);
    for connection in &mut busy {
        connection.send(b"0\r\n\r\n").unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
    }
    // Those who wait are served in the place of those who have nothing to ask.
    for connection in &mut waiting {
        assert_eq!(connection.response().unwrap().status, 200);
    }
}
