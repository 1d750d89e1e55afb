//! What the command line shows of a running daemon while it runs: `steerage top`, `steerage logs`, and JSON.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use steerage_lab::process::Process;
use steerage_lab::{command, daemon, topology, wait};
use steerage_tests::python;
use steerage_tests::stand::{Choices, Stand};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn top_shows_backends_in_a_terminal_and_drains_them() {
    let stand = Stand::start(&Choices::default()).unwrap();
    let mut top = Command::new(python::interpreter());
    top.arg(python::client("terminal.py")).arg(daemon::binary().unwrap());
    let output = command::finish(top.args(["top", "-c"]).arg(&stand.config)).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("all good"), "{said}\n{error}");
    let status = stand.daemon.status().unwrap();
    assert_eq!(status["services"][0]["backends"][1]["state"], "draining");
    // Without a terminal it is one look.
    let once = stand.daemon.ask(&["top"]).unwrap();
    assert!(once.contains("SERVICE") && once.contains("draining"), "{once}");
    assert!(!once.contains('\u{1b}'), "{once}");
}

#[test]
fn logs_prints_lines_of_requests_as_they_come_also_after_an_upgrade() {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    let refused = stand.daemon.ask(&["logs", "-f"]).unwrap_err().to_string();
    assert!(refused.contains("the access log is off"), "{refused}");
    let file = stand.scratch.join("access.log");
    stand
        .daemon
        .ask(&["config", "set", "global.access_log", file.to_str().unwrap(), "--persist"])
        .unwrap();
    let mut follow = Command::new(daemon::binary().unwrap());
    follow.args(["logs", "-f", "-c"]).arg(&stand.config);
    let follower = Process::spawn("logs", follow, &stand.scratch.join("lines")).unwrap();
    let see = |stand: &Stand, path: &str| {
        wait::for_condition(format!("the line of {path}"), PATIENCE, || {
            let _ = stand.curl(path, &[]);
            follower.log().contains(path)
        })
        .unwrap();
    };
    see(&stand, "/first");
    stand.daemon.upgrade(None).unwrap();
    see(&stand, "/second");
    let lines = follower.log();
    let line = lines.lines().find(|line| line.contains("/second")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["status"], 200, "{line}");
}

#[test]
fn commands_that_show_something_show_it_as_json_too() {
    let stand = Stand::start(&Choices::default()).unwrap();
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let second = topology::backend_socket(2).to_string();
    let listed = json(stand.daemon.backend(&["list", "--json"]).unwrap());
    assert_eq!(listed["services"][0]["backends"][1]["address"], *second);
    stand.daemon.backend(&["weight", &second, "7", "--json"]).unwrap();
    let changes = json(stand.daemon.ask(&["config", "diff", "--json"]).unwrap());
    assert_eq!((&changes[0]["from"], &changes[0]["to"]), (&"7".into(), &"1".into()), "{changes}");
    let drained = stand.daemon.backend(&["drain", &second, "--json"]).unwrap();
    let lines: Vec<Value> =
        drained.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["order"], "drain", "{drained}");
    assert_eq!(lines.last().unwrap()["remaining"]["requests"], 0, "{drained}");
    let back = json(stand.daemon.backend(&["undrain", &second, "--json"]).unwrap());
    assert_eq!(back["order"], "undrain");
    let binary = daemon::binary().unwrap();
    let check = |file: &std::path::Path| {
        let output = Command::new(&binary).args(["check", "--json"]).arg(file).output().unwrap();
        (output.status.code(), json(String::from_utf8(output.stdout).unwrap()))
    };
    let (code, good) = check(&stand.config);
    assert_eq!((code, &good["backends"]), (Some(0), &2.into()), "{good}");
    let bad = stand.scratch.write("bad.toml", "[global]\nworkers = 0\n").unwrap();
    let (code, bad) = check(&bad);
    assert_eq!((code, &bad["problems"][0]["line"]), (Some(1), &2.into()), "{bad}");
}
