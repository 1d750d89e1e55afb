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

/// What a start meets on a bad day, behind which words it is started, and what it says.
struct Day {
    name: &'static str,
    wrapper: &'static [&'static str],
    /// What of the file is otherwise.
    change: (&'static str, &'static str),
    says: &'static [&'static str],
}

/// Runs what follows without the capabilities that eBPF needs.
const NO_BPF: &[&str] =
    &["capsh", "--drop=cap_bpf,cap_sys_admin,cap_perfmon", "--", "-c", "exec \"$0\" \"$@\""];

#[test]
fn a_start_on_a_bad_day_says_what_is_wrong_and_what_to_do() {
    let l7 = [LISTENER, SERVICE].concat();
    let l4 = [LISTENER, VIP, SERVICE].concat();
    let days = [
        Day {
            name: "a user that does not exist",
            wrapper: &[],
            change: ("user = \"nobody\"", "user = \"of-no-such-name\""),
            says: &["global.user: there is no user \"of-no-such-name\" on this host; create it"],
        },
        Day {
            name: "a PID file where none can be",
            wrapper: &[],
            change: ("steerage.pid\"", "steerage.toml/steerage.pid\""),
            says: &["pid file ", "steerage.toml/steerage.pid: ", "set global.pid_file to a place"],
        },
        Day {
            name: "an admin socket where none can be",
            wrapper: &[],
            change: ("admin.sock\"", "steerage.toml/admin.sock\""),
            says: &["global.admin: cannot listen on ", "choose a place that can be written"],
        },
        Day {
            name: "an address that is not this host's",
            wrapper: &[],
            change: ("127.0.0.1:8080", "192.0.2.99:8080"),
            says: &["listener \"web\": cannot bind 192.0.2.99:8080", "check `ip address`"],
        },
        Day {
            name: "a vip without CAP_BPF",
            wrapper: NO_BPF,
            change: ("", ""),
            says: &["vip \"app-l4\" needs XDP: ", "is not permitted; run as root", "CAP_BPF"],
        },
        Day {
            name: "hardly any descriptors",
            wrapper: &["prlimit", "--nofile=14:14", "--"],
            change: ("", ""),
            says: &["Too many open files"],
        },
    ];
    for (number, day) in days.iter().enumerate() {
        let bench = Bench::new(&format!("day-{number}"));
        let tables = if day.name.contains("vip") { &l4 } else { &l7 };
        let config = bench.config(&[tables]).replacen(day.change.0, day.change.1, 1);
        let path = bench.scratch.write("steerage.toml", &config).unwrap();
        let said = bench.refuse_file(&path, day.wrapper);
        println!("{}:\n  {said}", day.name);
        assert_says(&said, day.says);
    }
}

#[test]
fn what_a_dead_daemon_left_behind_is_in_nobodys_way() {
    let bench = Bench::new("stale");
    bench.scratch.write("steerage.pid", "99999\n").unwrap();
    drop(std::os::unix::net::UnixListener::bind(bench.scratch.join("admin.sock")).unwrap());
    let path = bench.scratch.write("steerage.toml", &bench.config(&[LISTENER, SERVICE])).unwrap();
    let binary = daemon::binary().unwrap();
    let log = bench.scratch.join("steerage.log");
    let daemon = daemon::Daemon::serving(&bench.netns, &binary, &path, &log).unwrap();
    let held = std::fs::read_to_string(bench.scratch.join("steerage.pid")).unwrap();
    assert_eq!(held.trim(), daemon.pid().to_string());
}

#[test]
fn l7_alone_starts_without_cap_bpf_and_says_so_once() {
    let bench = Bench::new("capability");
    let path = bench.scratch.write("steerage.toml", &bench.config(&[LISTENER, SERVICE])).unwrap();
    let (first, rest) = NO_BPF.split_first().unwrap();
    let mut command = bench.netns.command(first);
    let binary = daemon::binary().unwrap();
    command.args(rest).arg(&binary);
    let log = bench.scratch.join("steerage.log");
    let mut daemon = daemon::Daemon::spawn(command, &binary, &path, &log).unwrap();
    daemon.wait_ready().unwrap();
    assert_eq!(daemon.status().unwrap()["plane"], "memory");
    let told = daemon.log();
    assert_eq!(told.matches("no eBPF: health is shared by plain memory").count(), 1, "{told}");
    assert_says(&told, &["CAP_BPF"]);
}

#[test]
fn pins_of_another_layout_are_refused_and_left_alone() {
    let bench = Bench::new("layout");
    let pins = daemon::pins(&daemon::instance(&bench.scratch));
    let maps = pins.join(format!("v{}", steerage_common::abi::SCHEMA_VERSION));
    std::fs::create_dir_all(&maps).unwrap();
    let foreign = aya::maps::Array::<_, u64>::create(3, 0).unwrap();
    foreign.pin(maps.join("HEALTH")).unwrap();
    let path = bench.scratch.write("steerage.toml", &bench.config(&[VIP, SERVICE])).unwrap();
    let mut run = bench.netns.command(daemon::binary().unwrap());
    let output = command::finish(run.arg("run").arg("-c").arg(&path)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_says(&said, &["the pinned map HEALTH is ", "this version needs ", "`steerage detach`"]);
    assert!(!output.status.success() && maps.join("HEALTH").exists());
    // What it says to do is enough.
    let mut detach = Command::new(daemon::binary().unwrap());
    command::output(detach.args(["detach", "-c"]).arg(&path)).unwrap();
    assert!(!pins.exists());
}
