//! Another binary in the running daemon's place: clients, flows and operators notice nothing, and a binary
//! that does not get ready changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use steerage_lab::pattern::Pattern;
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::{command, daemon, process, wait};
use steerage_tests::stand::{Choices, Stand, l4, l7};

const PATIENCE: Duration = Duration::from_secs(40);

fn stand() -> Stand {
    let global = "drain = \"20s\"\nupgrade_timeout = \"2s\"\n";
    Stand::start(&Choices { tcp_vip: true, global, ..Choices::default() }).unwrap()
}

/// Load of each kind, for as long as the value lives.
struct Load(Vec<(&'static str, Poller)>);

impl Load {
    fn start(stand: &Stand) -> Self {
        let client = &stand.topology.client;
        let kinds = [
            ("kept connections", l7(), Reuse::KeepAlive),
            ("kept connections", l7(), Reuse::KeepAlive),
            ("new connections", l7(), Reuse::Never),
            ("new connections", l7(), Reuse::Never),
            ("new flows", l4(), Reuse::Never),
            ("a kept flow", l4(), Reuse::KeepAlive),
        ];
        let start = |(kind, address, reuse)| (kind, Poller::start(client, address, reuse).unwrap());
        Self(kinds.into_iter().map(start).collect())
    }

    fn assert_none_failed(self) {
        for (kind, poller) in self.0 {
            let samples = poller.stop();
            let failed: Vec<&Sample> = samples.iter().filter(|s| s.answer.is_err()).collect();
            assert!(failed.is_empty(), "{kind}: {} of {}: {failed:?}", failed.len(), samples.len());
            assert!(samples.len() > 100, "{kind}: only {} requests", samples.len());
        }
    }
}

fn script(stand: &Stand, name: &str, text: &str) -> PathBuf {
    let path = stand.scratch.write(name, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The processes of the daemon and of its workers that run.
fn processes(stand: &Stand) -> Vec<u32> {
    let mut all = stand.daemon.workers().unwrap();
    all.push(stand.daemon.pid());
    all
}

/// Responses of the backends, and how many of them were timed.
#[derive(Debug, Default)]
struct Counted {
    responses: u64,
    timed: u64,
}

impl Counted {
    /// What is counted now, which is never less than it was.
    fn next(&self, stand: &Stand) -> Self {
        let status = stand.daemon.status().unwrap();
        let services = status["services"].as_array().unwrap().iter();
        let backends = services.flat_map(|service| service["backends"].as_array().unwrap());
        let mut next = Self::default();
        for l7 in backends.map(|backend| &backend["l7"]) {
            let classes = l7["responses"].as_array().unwrap().iter();
            next.responses += classes.map(|class| class["count"].as_u64().unwrap()).sum::<u64>();
            next.timed += l7["total"]["count"].as_u64().unwrap();
        }
        assert!(next.responses >= self.responses && next.timed >= self.timed, "{self:?}, {next:?}");
        next
    }
}

#[test]
fn five_upgrades_under_load_lose_no_request_and_no_flow() {
    let mut stand = stand();
    let load = Load::start(&stand);
    // It goes on in the first worker for as long as that may drain.
    let length = 64 << 20;
    let mut download = stand.connect(l7()).unwrap();
    download.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    let generation = |stand: &Stand| stand.daemon.status().unwrap()["generation"].as_u64().unwrap();
    let (first, begun) = (processes(&stand), generation(&stand));
    let mut counted = Counted::default();
    for round in 0..5 {
        let former = stand.daemon.pid();
        counted = counted.next(&stand);
        // Three times by command, then by signal.
        if round < 3 {
            let binary = (round == 1).then(|| daemon::binary().unwrap());
            stand.daemon.upgrade(binary.as_deref()).unwrap();
        } else {
            kill_process(process::pid(former).unwrap(), Signal::USR2).unwrap();
            wait::for_condition("another supervisor", PATIENCE, || {
                stand.daemon.status().is_ok_and(|status| status["pid"] != former)
            })
            .unwrap();
            stand.daemon.find_follower().unwrap();
        }
        assert_ne!(stand.daemon.pid(), former);
        stand.daemon.wait_available(2).unwrap();
        let held = fs::read_to_string(stand.scratch.join("steerage.pid")).unwrap();
        assert_eq!(held.trim(), stand.daemon.pid().to_string());
    }
    counted.next(&stand);
    assert!(generation(&stand) > begun, "tables went on where they were");
    let body = download.response().unwrap();
    assert_eq!(body.digest, Pattern::digest(length));
    load.assert_none_failed();
    // It can be changed, and stopped, as if it had been started so.
    stand.daemon.ask(&["config", "set", "service.app.panic_percent", "10"]).unwrap();
    drop(download);
    wait::for_condition("the first daemon and its workers to end", PATIENCE, || {
        stand.daemon.process().exited().is_some() && !first.iter().any(|id| process::alive(*id))
    })
    .unwrap();
}

#[test]
fn a_binary_that_does_not_get_ready_changes_nothing_and_is_told_about() {
    let mut stand = stand();
    let load = Load::start(&stand);
    let before = processes(&stand);
    let file = fs::read_to_string(&stand.config).unwrap();
    let text = script(&stand, "text", "no program\n");
    let dies = script(&stand, "dies", "#!/bin/sh\nexit 3\n");
    let hangs = script(&stand, "hangs", "#!/bin/sh\nexec sleep 600\n");
    for (binary, expected) in [
        (Path::new("/nonexistent/steerage"), "cannot be started"),
        (&text, "cannot be started"),
        (&dies, "exit status: 3"),
        (&hangs, "not ready after 2s"),
    ] {
        let said = format!("{:#}", stand.daemon.upgrade(Some(binary)).unwrap_err());
        assert!(said.contains(expected) && said.contains("serves on"), "{said}");
    }
    // The file names what this host does not have: the next daemon says it.
    for (from, to, expected) in [
        ("[[service]]", "[[service]]\ncolour = 1\n", "unknown field `colour`"),
        ("user = \"nobody\"", "user = \"of-no-such-name\"", "of-no-such-name"),
        ("instance = \"", "instance = \"other-", "global.instance is \"other-"),
    ] {
        let wrong = file.replacen(from, to, 1);
        assert_ne!(wrong, file, "{from}");
        stand.write_config(&wrong).unwrap();
        let socket = stand.scratch.join("admin.sock");
        let mut upgrade = std::process::Command::new(daemon::binary().unwrap());
        upgrade.args(["upgrade", "--admin"]).arg(socket);
        let said = format!("{:#}", command::output(&mut upgrade).unwrap_err());
        assert!(said.contains(expected) && said.contains("serves on"), "{said}");
        stand.write_config(&file).unwrap();
    }
    assert_eq!(processes(&stand), before);
    load.assert_none_failed();
    // And the next one does get ready.
    stand.daemon.upgrade(None).unwrap();
    assert_ne!(processes(&stand), before);
}

#[test]
fn an_upgrade_may_change_what_needs_a_restart() {
    let mut stand = stand();
    let load = Load::start(&stand);
    let file = fs::read_to_string(&stand.config).unwrap();
    for workers in [3, 1, 2] {
        let changed = file.replacen("workers = 2", &format!("workers = {workers}"), 1);
        fs::write(&stand.config, changed).unwrap();
        stand.daemon.upgrade(None).unwrap();
        let current = |stand: &Stand| {
            let status = stand.daemon.status().unwrap();
            let all = status["workers"].as_array().unwrap().clone();
            all.iter().filter(|worker| worker["current"] == true).count()
        };
        assert_eq!(current(&stand), workers);
        stand.daemon.wait_available(2).unwrap();
    }
    load.assert_none_failed();
}
