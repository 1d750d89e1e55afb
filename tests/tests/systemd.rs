//! As a service of systemd's: it hears what it needs, keeps what must not be lost, and an operator's
//! commands run at the turning points. The test plays systemd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, kill_process};
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::{process, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the service says.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a message that has all of these lines; others are passed over.
    fn hears(&self, wanted: &[&str]) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let mut text = [0; 4096];
            let Ok(length) = self.0.recv(&mut text) else { continue };
            let message = String::from_utf8_lossy(&text[..length]).into_owned();
            let lines: Vec<String> = message.lines().map(str::to_owned).collect();
            if wanted.iter().all(|wanted| lines.iter().any(|line| line == wanted)) {
                return lines;
            }
            heard.push(message);
        }
        panic!("never heard {wanted:?}, but {heard:?}");
    }
}

/// A stand whose daemon was started by `manager` with a socket at [`l7`].
fn service(events: &str) -> (Stand, Manager) {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    stand.daemon.terminate().unwrap();
    let hook = format!("[\"/bin/sh\", \"-c\", \"echo $STEERAGE_EVENT >> {events}\"]");
    let hooks = format!(
        "workers = 2\nhooks = {{ on_start = {hook}, on_reload = {hook}, on_shutdown = {hook} }}"
    );
    let events = stand.scratch.join(events);
    let hooks = hooks.replace(">> events", &format!(">> {}", events.display()));
    let text = fs::read_to_string(&stand.config).unwrap().replace("workers = 2", &hooks);
    stand.write_config(&text).unwrap();

    let path = stand.scratch.join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let netns = &stand.topology.balancer;
    let socket = netns.enter(|| TcpListener::bind(l7())).unwrap().unwrap();
    // What systemd does: descriptors from 3 on, for this process id.
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    let number = socket.as_raw_fd();
    let script = format!("exec 3<&{number}; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"");
    let binary = daemon::binary().unwrap();
    let mut command = netns.command("bash");
    command.args(["-c", &script, "bash"]).arg(&binary);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env("FDSTORE", "16");
    let log = stand.scratch.join("service.log");
    stand.daemon = Daemon::spawn(command, &binary, &stand.config, &log).unwrap();
    drop(socket);
    (stand, Manager(manager))
}

#[test]
fn a_service_is_activated_watched_reloaded_upgraded_and_stopped() {
    let (mut stand, manager) = service("events");
    let first = stand.daemon.pid();
    manager.hears(&["FDSTORE=1", &format!("FDNAME={}", l7().to_string().replace(':', "_"))]);
    let ready = manager.hears(&["READY=1", &format!("MAINPID={first}")]);
    assert!(ready.iter().any(|line| line.starts_with("STATUS=generation ")), "{ready:?}");
    let log = stand.daemon.log();
    assert!(log.contains("listening sockets come from systemd"), "{log}");
    assert_eq!(stand.curl("/who", &[]).unwrap().status, 200);
    manager.hears(&["WATCHDOG=1"]);

    kill_process(process::pid(first).unwrap(), Signal::HUP).unwrap();
    let reloading = manager.hears(&["RELOADING=1"]);
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    manager.hears(&["READY=1"]);

    let next = stand.daemon.upgrade(None).unwrap();
    manager.hears(&["READY=1", &format!("MAINPID={next}")]);
    manager.hears(&["WATCHDOG=1"]);
    assert_eq!(stand.curl("/who", &[]).unwrap().status, 200);
    let changed = fs::read_to_string(&stand.config).unwrap().replace("weight = 1", "weight = 2");
    stand.reconfigure(&changed).unwrap();

    kill_process(process::pid(next).unwrap(), Signal::TERM).unwrap();
    manager.hears(&["STOPPING=1"]);
    wait::for_condition("the service to end", PATIENCE, || !process::alive(next)).unwrap();
    let events = fs::read_to_string(stand.scratch.join("events")).unwrap();
    let events: Vec<&str> = events.lines().collect();
    // The first daemon was followed, not shut down.
    assert_eq!(events, ["start", "start", "reload", "shutdown"]);
}
