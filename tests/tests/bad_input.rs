//! Whatever is wrong is said once, with the remedy, and nothing is half started.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use steerage_lab::command;
use steerage_lab::daemon;
use steerage_lab::netns::Netns;
use steerage_lab::scratch::Scratch;
use steerage_tests::stand::PREFIX;

const LISTENER: &str = "[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:8080\"]\n\
    protocol = \"http\"\n[[listener.route]]\nservice = \"app\"\n";
const SERVICE: &str = "[[service]]\nname = \"app\"\n[[service.backend]]\n\
    address = \"10.9.9.9:80\"\n";
const VIP: &str = "[[vip]]\nname = \"app-l4\"\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n\
    mode = \"nat\"\ninterface = \"lo\"\nservice = \"app\"\n";

/// A host of its own, and the place of a daemon that is not to start.
struct Bench {
    netns: Netns,
    scratch: Scratch,
}

impl Bench {
    fn new(role: &str) -> Self {
        let name = format!("{PREFIX}-{}-{role}", std::process::id());
        Self { netns: Netns::create(name).unwrap(), scratch: Scratch::new(PREFIX).unwrap() }
    }

    fn config(&self, tables: &[&str]) -> String {
        daemon::global(&self.scratch) + "workers = 1\n" + &tables.concat()
    }

    /// Runs the daemon on a configuration; gives what it says as it fails.
    fn refuse(&self, config: &str) -> String {
        let path = self.scratch.write("steerage.toml", config).unwrap();
        self.refuse_file(&path, &[])
    }

    /// Runs the daemon, behind the words of `wrapper`; it must fail, soon, and leave nothing.
    fn refuse_file(&self, path: &Path, wrapper: &[&str]) -> String {
        let mut command = self.netns.command("timeout");
        // SIGKILL, so that a daemon that runs on fails the check of its exit status.
        command.args(["-s", "KILL", "15"]).args(wrapper).arg(daemon::binary().unwrap());
        let output = command::finish(command.arg("run").arg("-c").arg(path)).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.matches("steerage: ").count(), 1, "one message:\n{said}");
        assert!(!said.contains("panicked"), "{said}");

        assert_eq!(self.netns.pids().unwrap(), [], "processes are left");
        let instance = daemon::instance(&self.scratch);
        assert!(!daemon::pins(&instance).exists(), "pins are left");
        for file in ["admin.sock", "steerage.pid"] {
            assert!(!self.scratch.join(file).exists(), "{file} is left");
        }
        // The line with the message alone.
        said.lines().skip_while(|line| !line.contains("steerage: ")).collect::<Vec<_>>().join("\n")
    }
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn an_unreadable_configuration() {
    let bench = Bench::new("unreadable");
    let said = bench.refuse_file(&bench.scratch.join("nowhere.toml"), &[]);
    assert_says(&said, &["nowhere.toml", "cannot be read"]);
}

#[test]
fn malformed_and_contradictory_configurations_name_the_line() {
    let bench = Bench::new("malformed");
    let line = |config: &str, text: &str| {
        let lines: Vec<&str> = config.lines().collect();
        1 + lines.iter().rposition(|line| line.contains(text)).expect("a line with the mistake")
    };
    let broken = bench.config(&[LISTENER, SERVICE]) + "[service\n";
    let unknown = bench.config(&[LISTENER, SERVICE]) + "wieght = 3\n";
    let missing = bench.config(&[LISTENER, &SERVICE.replace("app", "application")]);
    let twice = bench.config(&[LISTENER, &LISTENER.replace("\"web\"", "\"web2\""), SERVICE]);
    let weight = bench.config(&[LISTENER, SERVICE]) + "weight = 1000\n";
    for (config, at, parts) in [
        (&broken, "[service\n".trim(), &["steerage.toml:"][..]),
        (&unknown, "wieght", &["wieght", "weight"][..]),
        (&missing, "service = \"app\"", &["application"][..]),
        (&twice, "web2", &["127.0.0.1:8080", "web"][..]),
        (&weight, "weight = 1000", &["256"][..]),
    ] {
        let said = bench.refuse(config);
        assert_says(&said, parts);
        // A duplicate bind is one line after the name.
        let number = line(config, at) + usize::from(at == "web2");
        assert_says(&said, &[&format!("steerage.toml:{number}:")]);
    }
}

#[test]
fn an_occupied_port() {
    let bench = Bench::new("port");
    let other = bench.netns.enter(|| TcpListener::bind("127.0.0.1:8080")).unwrap().unwrap();
    let said = bench.refuse(&bench.config(&[LISTENER, SERVICE]));
    assert_says(&said, &["web", "127.0.0.1:8080", "ss -ltnp"]);
    drop(other);
}

#[test]
fn an_occupied_metrics_port() {
    let bench = Bench::new("metrics");
    let other = bench.netns.enter(|| TcpListener::bind("127.0.0.1:9900")).unwrap().unwrap();
    let said = bench.refuse(&bench.config(&[LISTENER, SERVICE]));
    assert_says(&said, &["metrics", "127.0.0.1:9900"]);
    drop(other);
}

#[test]
fn a_vip_without_root() {
    let bench = Bench::new("root");
    // Nobody's daemon gets as far as nobody's rights allow.
    Command::new("chmod").arg("777").arg(bench.scratch.path()).status().unwrap();
    let config = bench.config(&[VIP, SERVICE]).replace("user = \"nobody\"\n", "");
    let path = bench.scratch.write("steerage.toml", &config).unwrap();
    let said =
        bench.refuse_file(&path, &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    assert_says(&said, &["root"]);
}

#[test]
fn a_vip_without_the_bpf_filesystem() {
    let bench = Bench::new("bpffs");
    let path = bench.scratch.write("steerage.toml", &bench.config(&[VIP, SERVICE])).unwrap();
    // The last umount fails: that is the end of a stack of mounts.
    let hide = "while umount /sys/fs/bpf 2>/dev/null; do :; done; exec \"$@\"";
    let said = bench.refuse_file(&path, &["unshare", "--mount", "sh", "-c", hide, "sh"]);
    assert_says(&said, &["mount -t bpf bpf /sys/fs/bpf"]);
}

#[test]
fn a_missing_interface() {
    let bench = Bench::new("interface");
    let vip = VIP.replace("\"lo\"", "\"nosuch0\"");
    let said = bench.refuse(&bench.config(&[&vip, SERVICE]));
    assert_says(&said, &["app-l4", "nosuch0", "ip link"]);
}

#[test]
fn a_second_daemon_of_the_same_instance() {
    let bench = Bench::new("second");
    let path = bench.scratch.write("steerage.toml", &bench.config(&[LISTENER, SERVICE])).unwrap();
    let binary = daemon::binary().unwrap();
    let log = bench.scratch.join("first.log");
    let first = daemon::Daemon::serving(&bench.netns, &binary, &path, &log).unwrap();
    let mut second = bench.netns.command(&binary);
    let output = command::finish(second.arg("run").arg("-c").arg(&path)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_says(&said, &["another steerage", &first.pid().to_string()]);
    // And the first one did not notice.
    assert!(first.status().is_ok());
}

#[test]
fn status_without_a_daemon_says_so() {
    let bench = Bench::new("status");
    let path = bench.scratch.write("steerage.toml", &bench.config(&[LISTENER, SERVICE])).unwrap();
    let mut status = Command::new(daemon::binary().unwrap());
    let output = command::finish(status.args(["status", "-c"]).arg(&path)).unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_says(&said, &["admin.sock", "is the daemon running?"]);
}

/// A daemon that has nothing to do with the kernel's tables needs no more than a port.
#[test]
fn l7_alone_starts_without_the_bpf_filesystem() {
    let bench = Bench::new("memory");
    let path = bench.scratch.write("steerage.toml", &bench.config(&[LISTENER, SERVICE])).unwrap();
    let hide = "while umount /sys/fs/bpf 2>/dev/null; do :; done; exec \"$@\"";
    let mut command = bench.netns.command("unshare");
    let binary = daemon::binary().unwrap();
    command.args(["--mount", "sh", "-c", hide, "sh"]).arg(&binary);
    let log = bench.scratch.join("steerage.log");
    let mut daemon = daemon::Daemon::spawn(command, &binary, &path, &log).unwrap();
    daemon.wait_ready().unwrap();
    assert_eq!(daemon.status().unwrap()["plane"], "memory");
    assert!(daemon.terminate().unwrap().success());
    // Ended already; not a wait.
    assert!(daemon.process().wait(Duration::ZERO).is_ok());
}
