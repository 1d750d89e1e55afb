//! The whole worker over real sockets: a client and backends of the test's own, an in-memory region.

mod access;
mod affinity;
mod bodies;
mod ends;
mod extended;
mod failures;
mod floods;
mod harness;
mod hostile;
mod http2;
mod ledger;
mod life;
mod passed;
mod passthrough;
mod proxied;
mod reload;
mod replay;
mod requests;
mod routing;
mod secure;
mod streaming;
mod tunnels;
mod upstream;

use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::net::Io;

/// Set for a process in which workers use epoll.
const ON_EPOLL: &str = "STEERAGE_TEST_ON_EPOLL";

/// What workers use: each of these tests runs twice where the host has both.
fn io() -> Io {
    if std::env::var_os(ON_EPOLL).is_some() { Io::Epoll } else { Io::Auto }
}

#[test]
fn all_of_it_holds_on_epoll_too() {
    if std::env::var_os(ON_EPOLL).is_some() {
        return;
    }
    let mut tests = Command::new(std::env::current_exe().unwrap());
    let output = tests.arg("worker::tests::").env(ON_EPOLL, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn gauge(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}
