//! The laboratory itself, as root: hosts reach each other, and nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::{Duration, Instant};

use steerage_lab::backend::Backend;
use steerage_lab::client::{Connection, curl};
use steerage_lab::netns::Netns;
use steerage_lab::pattern::Pattern;
use steerage_lab::topology::{self, BALANCER, Topology};

#[test]
fn a_client_reaches_a_backend_through_the_balancer_and_nothing_is_left() {
    let topology = Topology::build("steerage-lab", 1).unwrap();
    let address = topology::backend_socket(1);
    let backend = Backend::start("one", Some(&topology.backends[0]), address).unwrap();
    let reply = curl(&topology.client, &[&format!("http://{address}/")]).unwrap();
    assert_eq!((reply.exit, reply.status, &*reply.text), (0, 200, "one\n"), "{reply:?}");
    let refused = curl(&topology.client, &[&format!("http://{BALANCER}:9/")]).unwrap();
    assert_eq!((refused.exit, refused.status), (7, 0), "{refused:?}");
    drop(backend);
    let handle = topology.client.path();
    assert!(handle.exists());
    drop(topology);
    assert!(!Path::new(&handle).exists());
}

#[test]
fn a_distant_backend_takes_its_time_and_nothing_is_lost_or_overtaken_on_the_way() {
    const DELAY: Duration = Duration::from_millis(20);
    const BYTES: u64 = 32 << 20;
    let topology = Topology::build_apart("steerage-lab", 1, DELAY).unwrap();
    let address = topology::backend_socket(1);
    let host = &topology.backends[0];
    let _backend = Backend::start("one", Some(host), address).unwrap();
    let mut client = Connection::open(Some(&topology.client), address).unwrap();
    let begun = Instant::now();
    client.get("/").unwrap();
    assert!(begun.elapsed() >= DELAY * 2);
    let body = client.get(&format!("/bytes/{BYTES}")).unwrap();
    assert_eq!((body.length, body.digest), (BYTES, Pattern::digest(BYTES)));
    for (of, counter) in
        [(host, "TCPLostRetransmit"), (host, "TCPFastRetrans"), (&topology.client, "TCPOFOQueue")]
    {
        assert_eq!(tcp_counter(of, counter), 0, "{counter}");
    }
}

/// A counter of `/proc/net/netstat`: a line of names, then a line of values.
fn tcp_counter(netns: &Netns, name: &str) -> u64 {
    // Of the thread, which is in the namespace; `/proc/net` is the process's.
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let text = netns.enter(read).unwrap().unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let at = lines[0].split(' ').position(|field| field == name).unwrap();
    lines[1].split(' ').nth(at).unwrap().parse().unwrap()
}
