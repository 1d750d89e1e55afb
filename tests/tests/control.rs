//! An operator changes a running daemon without its file: what is asked for is in force when the command
//! ends, holds until the file is read again, and is checked as the file is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use steerage_lab::daemon;
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::topology;
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

/// Four backends run; the first two are configured.
fn stand() -> Stand {
    let choices = Choices { weights: vec![1; 4], tcp_vip: true, ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let two = Choices { weights: vec![1; 2], tcp_vip: true, ..Choices::default() };
    let text = two.config(&stand.scratch).replace("weight = 1", "weight = 1   # half");
    stand.reconfigure(&text).unwrap();
    stand
}

/// How many of `count` requests each backend serves.
fn shares(stand: &Stand, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    let mut client = stand.connect(l7()).unwrap();
    for _ in 0..count {
        let served = client.get("/who").unwrap().text();
        *shares.entry(served.split_whitespace().next().unwrap_or_default().into()).or_default() +=
            1;
    }
    shares
}

/// Backends and the weights that their shares of the requests are of. Other clients take turns too, so
/// shares are near the weights and not exact.
fn assert_shares(stand: &Stand, weights: &[(u8, usize)]) {
    const REQUESTS: usize = 120;
    let total: usize = weights.iter().map(|(_, weight)| weight).sum();
    let found = shares(stand, REQUESTS);
    assert_eq!(found.len(), weights.len(), "{found:?}");
    for (number, weight) in weights {
        let share = found.get(&name(*number)).copied().unwrap_or(0);
        assert!(share.abs_diff(REQUESTS * weight / total) <= REQUESTS / 8, "{found:?}");
    }
}

#[test]
fn backends_come_and_go_and_change_weight_by_command_and_no_request_is_lost() {
    let stand = stand();
    let file = fs::read_to_string(&stand.config).unwrap();
    let client = &stand.topology.client;
    let load = Poller::start(client, l7(), Reuse::KeepAlive).unwrap();
    let vip = Poller::start(client, l4(), Reuse::Never).unwrap();
    let at = |number: u8| format!("app/{}", topology::backend_socket(number));
    assert_shares(&stand, &[(1, 1), (2, 1)]);

    let said = stand.daemon.backend(&["add", &at(3), "--weight", "2"]).unwrap();
    assert!(said.contains(&format!("+ service \"app\": backend {}", topology::backend_socket(3))));
    assert_shares(&stand, &[(1, 1), (2, 1), (3, 2)]);
    stand.daemon.backend(&["weight", &at(1), "3"]).unwrap();
    assert_shares(&stand, &[(1, 3), (2, 1), (3, 2)]);
    stand.daemon.backend(&["remove", &at(2)]).unwrap();
    assert_shares(&stand, &[(1, 3), (3, 2)]);
    assert_eq!(fs::read_to_string(&stand.config).unwrap(), file, "the file is as it was");

    let diff = stand.daemon.ask(&["config", "diff"]).unwrap();
    assert!(
        diff.contains("weight: 3 -> 1") && diff.contains("- service \"app\": backend"),
        "{diff}"
    );
    stand.daemon.ask(&["config", "rollback"]).unwrap();
    assert_shares(&stand, &[(1, 3), (2, 1), (3, 2)]);
    stand.daemon.ask(&["reload"]).unwrap();
    assert_shares(&stand, &[(1, 1), (2, 1)]);

    for samples in [load.stop(), vip.stop()] {
        let lost: Vec<_> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
        assert!(samples.len() > 20 && lost.is_empty(), "{lost:?} of {}", samples.len());
    }
}

#[test]
fn what_is_persisted_is_in_the_file_and_nothing_else_is_changed_there() {
    let mut stand = stand();
    let file = fs::read_to_string(&stand.config).unwrap();
    let first = topology::backend_socket(1).to_string();
    // This is not to be persisted by the next.
    stand.daemon.ask(&["config", "set", "service.app.panic_percent", "10"]).unwrap();
    stand.daemon.backend(&["weight", &first, "9", "--persist"]).unwrap();
    let expected = file.replacen("weight = 1   # half", "weight = 9   # half", 1);
    assert_eq!(fs::read_to_string(&stand.config).unwrap(), expected);
    let text = stand.daemon.ask(&["config", "text"]).unwrap();
    assert!(text.contains("panic_percent = 10"), "{text}");
    assert_eq!(stand.daemon.terminate().unwrap().code(), Some(0));
    stand.daemon = stand.successor().unwrap();
    stand.daemon.wait_available(2).unwrap();
    assert_shares(&stand, &[(1, 9), (2, 1)]);
}

#[test]
fn what_cannot_be_changes_nothing_and_is_said() {
    let stand = stand();
    let before = stand.daemon.ask(&["config", "text"]).unwrap();
    let generation = stand.daemon.status().unwrap()["generation"].clone();
    let bad = stand.scratch.write("bad.toml", &before.replace("round_robin", "robin")).unwrap();
    for (arguments, expected) in [
        (vec!["config", "set", "global.log.level", "loud"], "level: unknown variant `loud`"),
        (vec!["config", "set", "global.colour", "1"], "unknown field `colour`"),
        (vec!["config", "set", "service.none.slow_start", "1s"], "\"none\" is no table"),
        (vec!["config", "apply", bad.to_str().unwrap()], "unknown variant `robin`"),
        (vec!["config", "rollback", "77"], "there is no revision 77"),
        (vec!["backend", "add", "app/10.9.9.9:80", "--weight", "257"], "from 0 to 256"),
        (vec!["backend", "add", "none/10.9.9.9:80"], "no service \"none\""),
        (vec!["backend", "remove", "app/10.9.9.9:80"], "no service has the backend"),
    ] {
        let said = format!("{:#}", stand.daemon.ask(&arguments).unwrap_err());
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(stand.daemon.ask(&["config", "text"]).unwrap(), before);
    assert_eq!(stand.daemon.status().unwrap()["generation"], generation);
}

#[test]
fn the_log_s_level_changes_at_once() {
    let mut stand = stand();
    assert!(!stand.daemon.log().contains("DEBUG"));
    stand.daemon.ask(&["config", "set", "global.log.level", "debug"]).unwrap();
    // A worker tells at that level that it could not connect, or lost a connection.
    stand.kill_backend(1);
    wait::for_condition("a line of that level", PATIENCE, || {
        let _ = stand.curl("/who", &[]);
        stand.daemon.log().contains("DEBUG")
    })
    .unwrap();
    let revisions = stand.daemon.ask(&["config", "revisions"]).unwrap();
    assert!(revisions.contains("set global.log.level = debug"), "{revisions}");
}

#[test]
fn options_and_variables_hold_whatever_the_file_says() {
    let choices = Choices { weights: vec![1, 1], ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    stand.daemon.leave_pins();
    stand.daemon.terminate().unwrap();
    let binary = daemon::binary().unwrap();
    let run = stand.scratch.join("run.log");
    let mut wrapped = stand.topology.balancer.command("sh");
    let script = "export STEERAGE_GLOBAL_DRAIN=7s STEERAGE_SERVICE_APP_PANIC_PERCENT=11; \
                  exec \"$0\" \"$@\" --set global.drain=6s --set listener.web.timeouts.idle=5s";
    wrapped.args(["-c", script]).arg(&binary);
    stand.daemon = daemon::Daemon::spawn(wrapped, &binary, &stand.config, &run).unwrap();
    stand.daemon.wait_ready().unwrap();
    let shown = |stand: &Stand| -> serde_json::Value {
        serde_json::from_str(&stand.daemon.ask(&["config", "show"]).unwrap()).unwrap()
    };
    let assert_held = |stand: &Stand| {
        let config = shown(stand);
        assert_eq!(config["global"]["drain"]["secs"], 6, "{}", config["global"]);
        assert_eq!(config["listeners"][0]["timeouts"]["idle"]["secs"], 5);
        assert_eq!(config["services"][0]["panic_percent"], 11);
    };
    assert_held(&stand);
    // Over reloads, changes by an operator, and the next binary.
    let file = fs::read_to_string(&stand.config).unwrap();
    let other = file.replacen("[global]\n", "[global]\ndrain = \"20s\"\n", 1);
    stand.reconfigure(&other).unwrap();
    assert_held(&stand);
    stand.daemon.ask(&["config", "set", "service.app.panic_percent", "40"]).unwrap();
    assert_held(&stand);
    stand.daemon.upgrade(None).unwrap();
    assert_held(&stand);
    // A listener that an option names must stay.
    let without = other.replace("name = \"web\"", "name = \"front\"");
    let said = stand.reconfigure(&without).unwrap_err().to_string();
    assert!(said.contains("--set listener.web.timeouts.idle"), "{said}");
    assert_held(&stand);
}
