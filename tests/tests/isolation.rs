//! What a worker that somebody else has taken over could do to its host.
//!
//! The test runs itself again as a child that is confined as workers are, by the same functions, and
//! tries from inside; and it looks at real workers from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use steerage::sys::confine::{Otherwise, confine, forbid, seal};
use steerage::sys::{self};
use steerage_lab::process;
use steerage_lab::scratch::Scratch;
use steerage_tests::stand::{Choices, PREFIX, Stand};

/// Set for the child: the path of a file that only root may read.
const KEY_FILE: &str = "STEERAGE_TEST_KEY_FILE";

/// What a child tells of one attempt.
fn attempt(what: &str, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => println!("{what}: done"),
        Err(error) => println!("{what}: {:?}", error.raw_os_error().unwrap_or(0)),
    }
}

fn socket(domain: i32, kind: socket2::Type) -> io::Result<()> {
    socket2::Socket::new(domain.into(), kind, None).map(drop)
}

/// Not a test of its own: what the child does.
#[test]
fn inside() {
    let Some(key) = std::env::var_os(KEY_FILE) else { return };
    let parent = rustix::process::getppid().unwrap();
    attempt("plain socket before", socket(libc::AF_UNIX, socket2::Type::STREAM));
    seal().unwrap();
    attempt("key file", fs::read(&key).map(drop));
    attempt("signal to root", kill_process(parent, Signal::WINCH).map_err(Into::into));
    forbid(Otherwise::Fails).unwrap();
    attempt("stream", socket(libc::AF_INET, socket2::Type::STREAM));
    attempt("raw socket", socket(libc::AF_INET, socket2::Type::RAW));
    attempt("packet socket", socket(libc::AF_PACKET, socket2::Type::RAW));
    attempt("local socket", socket(libc::AF_UNIX, socket2::Type::STREAM));
    attempt("datagrams", socket(libc::AF_INET, socket2::Type::DGRAM));
    attempt("bpf", aya::maps::Array::<_, u64>::create(1, 0).map(drop).map_err(os_error));
    attempt("ptrace", nix::sys::ptrace::attach(nix::unistd::getppid()).map_err(Into::into));
    attempt("program", Command::new("/bin/true").status().map(drop));
    attempt("thread", std::thread::Builder::new().spawn(|| ()).map(drop));
    attempt("new file", fs::write("/tmp/steerage-test-isolation", "x"));
    attempt("ring", sys::ring::Ring::new().map(drop));
    attempt(
        "namespace",
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into),
    );
    // Nothing that comes after a test could be done.
    std::process::exit(0);
}

fn os_error(error: aya::maps::MapError) -> io::Error {
    match error {
        aya::maps::MapError::CreateError { io_error, .. } => io_error,
        other => io::Error::other(other),
    }
}

#[test]
fn a_worker_can_do_nothing_but_its_work() {
    let scratch = Scratch::new(PREFIX).unwrap();
    let key = scratch.write("key.pem", "secret").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Its directory may be entered by all: the file alone must hold.
    fs::set_permissions(key.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["inside", "--exact", "--nocapture", "--test-threads", "1"]).env(KEY_FILE, &key);
    confine(&mut child, sys::account("nobody").unwrap(), None, &[]);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let is = |what: &str, outcome: &str| {
        assert!(
            said.lines().any(|line| line.ends_with(&format!("{what}: {outcome}"))),
            "{what}\n{said}"
        );
    };
    is("plain socket before", "done");
    is("key file", &libc::EACCES.to_string());
    is("signal to root", &libc::EPERM.to_string());
    is("stream", "done");
    for what in [
        "raw socket",
        "packet socket",
        "local socket",
        "datagrams",
        "bpf",
        "ptrace",
        "program",
        "thread",
        "new file",
        "ring",
        "namespace",
    ] {
        is(what, &libc::EPERM.to_string());
    }
    // Each of them is told of by its name, once: most kernels keep no record.
    let told = String::from_utf8_lossy(&output.stderr);
    for call in ["socket", "bpf", "ptrace", "unshare", "io_uring_setup"] {
        let line = format!("({call}) is not on the workers' list and was refused");
        assert_eq!(told.matches(&line).count(), 1, "{call}\n{told}");
    }
}

#[test]
fn real_workers_are_confined_so() {
    for io in ["io = \"io_uring\"", "io = \"epoll\""] {
        let stand = Stand::start(&Choices { global: io, ..Choices::default() }).unwrap();
        for worker in stand.daemon.workers().unwrap() {
            let directory = format!("/proc/{worker}");
            let status = fs::read_to_string(format!("{directory}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().trim().to_owned()
            };
            assert!(!field("Uid:").starts_with('0'), "{}", field("Uid:"));
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
            }
            assert_eq!(field("Groups:"), "");
            assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"));
            // What is not dumpable belongs to root (proc(5)).
            assert_eq!(fs::metadata(format!("{directory}/mem")).unwrap().uid(), 0);
            let limits = fs::read_to_string(format!("{directory}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
            assert!(process::alive(worker));
        }
        assert_eq!(stand.curl("/", &[]).unwrap().status, 200);
        assert!(!stand.daemon.log().contains("not limited"), "{}", stand.daemon.log());
    }
}
