//! What goes wrong in a daemon that serves: each time it says so, and clients notice nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::{command, daemon, process, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(20);

/// Something that goes wrong.
struct Day {
    name: &'static str,
    /// Does it; gives what an operator who was at it was told.
    happens: fn(&mut Stand) -> String,
    /// Parts of that.
    told: &'static [&'static str],
    /// Parts of the daemon's log.
    logged: &'static [&'static str],
    /// Puts things right.
    mended: fn(&mut Stand),
}

/// `steerage` with these words, to a daemon whose file may not be readable; gives what it says as it fails.
fn refused(stand: &Stand, words: &[&str]) -> String {
    let mut command = std::process::Command::new(daemon::binary().unwrap());
    let socket = stand.scratch.join("admin.sock");
    let output = command::finish(command.args(words).arg("--admin").arg(socket)).unwrap();
    assert!(!output.status.success(), "{words:?} went well");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(stand: &Stand) -> String {
    Choices::default().config(&stand.scratch).replacen("[global]\n", "[global]\nwatch = false\n", 1)
}

fn rewrite(stand: &mut Stand) {
    let text = text(stand);
    stand.write_config(&text).unwrap();
}

fn days() -> Vec<Day> {
    vec![
        Day {
            name: "the configuration file is gone at a reload",
            happens: |stand| {
                fs::remove_file(&stand.config).unwrap();
                refused(stand, &["reload"])
            },
            told: &["steerage.toml: cannot be read: No such file", "check the path"],
            logged: &["the configuration is not taken: the one in force stays"],
            mended: rewrite,
        },
        Day {
            name: "the file is no text",
            happens: |stand| {
                fs::write(&stand.config, [0xff, 0xfe, 0]).unwrap();
                refused(stand, &["reload"])
            },
            told: &["steerage.toml: cannot be read: ", "UTF-8"],
            logged: &["the configuration is not taken: the one in force stays"],
            mended: rewrite,
        },
        Day {
            name: "the file is wrong",
            happens: |stand| {
                let wrong = text(stand).replace("[[service]]", "[[service]]\nwieght = 1");
                stand.write_config(&wrong).unwrap();
                refused(stand, &["reload"])
            },
            told: &["unknown field `wieght`"],
            logged: &["the configuration is not taken: the one in force stays"],
            mended: rewrite,
        },
        Day {
            name: "a new listener's port is another's",
            happens: |stand| {
                let bind = || std::net::TcpListener::bind("127.0.0.1:8099");
                let other = stand.topology.balancer.enter(bind).unwrap().unwrap();
                let more = "bind = [\"127.0.0.1:8099\", ";
                stand.write_config(&text(stand).replacen("bind = [", more, 1)).unwrap();
                let said = refused(stand, &["reload"]);
                drop(other);
                said
            },
            told: &["listener \"web\": cannot bind 127.0.0.1:8099", "`ss -ltnp` names it"],
            logged: &["the configuration is not taken: the one in force stays"],
            mended: rewrite,
        },
        Day {
            name: "a vip is on a link that is not there",
            happens: |stand| {
                let vip = "[[vip]]\nname = \"late\"\naddress = \"192.0.2.10:80\"\n\
                    protocol = \"tcp\"\nmode = \"nat\"\ninterface = \"nosuch0\"\n\
                    service = \"app\"\n[[service]]";
                stand.write_config(&text(stand).replacen("[[service]]", vip, 1)).unwrap();
                refused(stand, &["reload"])
            },
            told: &["vip \"late\": this host has no link named \"nosuch0\"", "`ip link` lists"],
            logged: &["the configuration is not taken: the one in force stays"],
            mended: rewrite,
        },
        Day {
            name: "the binary is gone, and then a worker dies",
            happens: |stand| {
                fs::remove_file(copy(stand)).unwrap();
                let former = stand.daemon.workers().unwrap();
                // A request that it is at is lost with it: clients come again.
                kill_process(process::pid(former[0]).unwrap(), Signal::KILL).unwrap();
                wait::for_condition("its successor", PATIENCE, || {
                    let now = stand.daemon.workers().unwrap();
                    now.len() == former.len() && !now.contains(&former[0])
                })
                .unwrap();
                refused(stand, &["upgrade"])
            },
            told: &["cannot be started: No such file", "this daemon serves on"],
            logged: &[
                "worker died: its successor takes its sockets over",
                "signal: 9 (SIGKILL); somebody killed it, or the kernel did for want of memory",
                "upgrade failed: this daemon serves on",
            ],
            mended: |stand| {
                fs::copy(daemon::binary().unwrap(), copy(stand)).unwrap();
            },
        },
        Day {
            name: "an upgrade's binary is of another program",
            happens: |stand| refused(stand, &["upgrade", "--binary", "/bin/true"]),
            told: &["/bin/true: ended (exit status: 0) before it was ready", "serves on"],
            logged: &["upgrade failed: this daemon serves on"],
            mended: |_| {},
        },
        Day {
            name: "a backend that was never there is to go",
            happens: |stand| refused(stand, &["backend", "remove", "app/10.9.9.9:80"]),
            told: &["no service has the backend app/10.9.9.9:80", "names them all"],
            logged: &[],
            mended: |_| {},
        },
    ]
}

/// The binary that the daemon was started from.
fn copy(stand: &Stand) -> std::path::PathBuf {
    stand.scratch.join("steerage-copy")
}

#[test]
fn on_a_bad_day_clients_notice_nothing_and_operators_are_told() {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    // From a binary of its own, that can go.
    fs::copy(daemon::binary().unwrap(), copy(&stand)).unwrap();
    stand.daemon.terminate().unwrap();
    rewrite(&mut stand);
    let log = stand.scratch.join("own.log");
    let balancer = &stand.topology.balancer;
    let (binary, command) = (daemon::binary().unwrap(), balancer.command(copy(&stand)));
    stand.daemon = daemon::Daemon::spawn(command, &binary, &stand.config, &log).unwrap();
    stand.daemon.wait_ready().unwrap();
    stand.daemon.wait_available(2).unwrap();
    let client = &stand.topology.client;
    let loads = [Reuse::KeepAlive, Reuse::KeepAlive, Reuse::Never]
        .map(|reuse| Poller::start(client, l7(), reuse).unwrap());
    let killed = ["the binary is gone, and then a worker dies"];
    let mut lost_at_most = 0;
    for day in days() {
        let before = stand.daemon.log().len();
        let told = (day.happens)(&mut stand);
        let log = stand.daemon.log().split_off(before);
        (day.mended)(&mut stand);
        println!("{}\n  {}", day.name, told.trim());
        for part in day.told {
            assert!(told.contains(part), "{}: {part:?} is missing in:\n{told}", day.name);
        }
        for part in day.logged {
            assert!(log.contains(part), "{}: {part:?} is missing in:\n{log}", day.name);
        }
        lost_at_most += if killed.contains(&day.name) { loads.len() } else { 0 };
        let now = Instant::now();
        wait::for_condition("requests to be served", PATIENCE, || {
            loads.iter().all(|load| load.since(now).len() > 20)
        })
        .unwrap();
    }
    let lost: usize = loads
        .into_iter()
        .map(|load| load.stop().iter().filter(|sample| sample.answer.is_err()).count())
        .sum();
    assert!(lost <= lost_at_most, "{lost} requests were lost");
}
