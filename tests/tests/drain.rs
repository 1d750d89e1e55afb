//! An operator takes a backend out: nobody loses what is begun, in either plane, and one sees it end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output};

use steerage_lab::daemon;
use steerage_lab::topology;
use steerage_tests::stand::{Choices, Stand, l4, l7, name};

fn stand() -> Stand {
    Stand::start(&Choices { tcp_vip: true, ..Choices::default() }).unwrap()
}

fn command(stand: &Stand, arguments: &[&str]) -> Command {
    let mut command = Command::new(daemon::binary().unwrap());
    command.arg("backend").args(arguments).arg("-c").arg(&stand.config);
    command
}

fn backend(stand: &Stand, arguments: &[&str]) -> Output {
    command(stand, arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

fn state(stand: &Stand, number: u8) -> String {
    let status = stand.daemon.status().unwrap();
    let state = &status["services"][0]["backends"][usize::from(number) - 1]["state"];
    state.as_str().unwrap().to_owned()
}

#[test]
fn a_draining_backend_finishes_what_it_has_and_gets_nothing_new_in_both_planes() {
    let stand = stand();
    let address = topology::backend_socket(1).to_string();
    let mut flow = stand.connect_to(l4(), 1).unwrap();
    // An upload that is under way at the first backend: the next turn is the other's.
    let mut upload = stand.connect_to(l7(), 2).unwrap();
    let head = b"POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    upload.send(head).unwrap();
    steerage_lab::wait::for_condition("the upload to be under way", PATIENCE, || {
        let status = stand.daemon.status().unwrap();
        status["services"][0]["backends"][0]["l7"]["active"] == 1
    })
    .unwrap();

    let ordered = backend(&stand, &["drain", &address, "--no-wait"]);
    assert!(ordered.status.success(), "{}", told(&ordered));
    assert_eq!(state(&stand, 1), "draining");
    for _ in 0..20 {
        assert_eq!(stand.curl("/", &[]).unwrap().text.trim(), name(2));
        let mut new = stand.connect(l4()).unwrap();
        assert_eq!(new.get("/").unwrap().text().trim(), name(2));
    }
    assert_eq!(flow.get("/").unwrap().text().trim(), name(1), "a flow stays");

    let mut watching = command(&stand, &["drain", &format!("app/{address}")]);
    let watching = watching.stdout(std::process::Stdio::piped()).spawn().unwrap();
    upload.send(b"0\r\n\r\n").unwrap();
    assert_eq!(upload.response().unwrap().status, 200, "a request is finished");
    drop(flow);
    let watched = watching.wait_with_output().unwrap();
    let lines = told(&watched);
    assert!(watched.status.success() && lines.ends_with("drained\n"), "{lines}");
    assert!(lines.contains("draining, ") && lines.contains(" flows"), "{lines}");

    let ordered = backend(&stand, &["undrain", &address]);
    assert!(ordered.status.success(), "{}", told(&ordered));
    stand.daemon.wait_available(2).unwrap();
    drop(stand.connect_to(l7(), 1).unwrap());
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn a_deadline_ends_a_drain_and_names_that_nobody_has_are_refused() {
    let stand = stand();
    let address = topology::backend_socket(1).to_string();
    let _flow = stand.connect_to(l4(), 1).unwrap();
    let cut = backend(&stand, &["drain", &address, "--deadline", "1500ms"]);
    assert!(!cut.status.success());
    assert!(told(&cut).contains("is maintenance before it was drained"), "{}", told(&cut));
    assert_eq!(state(&stand, 1), "maintenance");
    for (name, why) in [("10.9.9.9:80", "no service has the backend"), ("nobody", "is no backend")]
    {
        let refused = backend(&stand, &["drain", name]);
        assert!(!refused.status.success() && told(&refused).contains(why), "{}", told(&refused));
    }
    let listed = backend(&stand, &["list"]);
    assert!(told(&listed).contains("maintenance"), "{}", told(&listed));
}
