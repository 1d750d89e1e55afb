//! Ping, traceroute, fragments and errors: what real clients see of a vip besides its service.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use steerage_lab::command;
use steerage_lab::topology::{self, VIP};
use steerage_lab::udp;
use steerage_tests::stand::{Choices, Stand, l4_udp};

fn stand() -> Stand {
    let choices =
        Choices { weights: vec![1, 1], tcp_vip: true, udp_vip: true, ..Choices::default() };
    Stand::start(&choices).unwrap()
}

#[test]
fn a_vip_answers_ping() {
    let stand = stand();
    let _program = stand.wake_client().unwrap();
    for size in ["56", "0", "1400"] {
        let mut ping = stand.topology.client.command("ping");
        ping.args(["-n", "-c", "3", "-i", "0.1", "-W", "2", "-s", size, &VIP.to_string()]);
        let output = command::output(&mut ping).unwrap();
        assert!(output.contains("3 received, 0% packet loss"), "{output}");
    }
    assert_eq!(stand.reason("echo_answered").unwrap(), 9);
    // The host's own address is the host's to answer.
    let mut ping = stand.topology.client.command("ping");
    ping.args(["-n", "-c", "1", "-W", "2", &topology::BALANCER.to_string()]);
    command::output(&mut ping).unwrap();
    assert_eq!(stand.reason("echo_answered").unwrap(), 9);
}

/// Who answered at each hop, as traceroute prints it.
fn hops(stand: &Stand, arguments: &[&str]) -> Vec<BTreeSet<IpAddr>> {
    let mut traceroute = stand.topology.client.command("traceroute");
    traceroute.args(["-n", "-m", "6", "-w", "2"]).args(arguments).arg(VIP.to_string());
    let output = command::output(&mut traceroute).unwrap();
    let hop = |line: &str| line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    output.lines().skip(1).map(hop).collect()
}

#[test]
fn traceroute_ends_at_a_vip() {
    let stand = stand();
    let _program = stand.wake_client().unwrap();
    // The way to the backends is known.
    assert_eq!(stand.connect(steerage_tests::stand::l4()).unwrap().get("/").unwrap().status, 200);
    let vip = BTreeSet::from([IpAddr::from(VIP)]);
    // The vip of the balancer, then of a backend.
    assert_eq!(hops(&stand, &["-T", "-p", "80"]), [vip.clone(), vip.clone()]);
    assert!(stand.reason("ttl_expired").unwrap() >= 3);
    assert_eq!(stand.reason("ttl_expired").unwrap(), stand.reason("error_sent").unwrap());
    // Echo requests are answered by the balancer itself.
    assert_eq!(hops(&stand, &["-I"]), [vip]);
}

#[test]
fn datagrams_in_fragments_go_both_ways() {
    let stand = stand();
    let _echoes = stand.echoes(topology::backend_socket).unwrap();
    let mut heard = BTreeSet::new();
    for flow in 0..20 {
        let client = udp::client(&stand.topology.client, l4_udp(), Duration::from_secs(2)).unwrap();
        for length in [1_400, 1_473, 5_000, 60_000] {
            let question: Vec<u8> = (0..length).map(|n| (n % 251) as u8 ^ flow).collect();
            let (name, echoed) = udp::ask(&client, &question, 5).unwrap();
            assert!(echoed == question, "{length} bytes came back otherwise");
            heard.insert(name);
        }
    }
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(stand.reason("fragment").unwrap() > 1_000);
}

#[test]
fn a_client_hears_that_nobody_listens() {
    let stand = stand();
    // No backend has the port of UDP open.
    let client = udp::client(&stand.topology.client, l4_udp(), Duration::from_secs(2)).unwrap();
    let mut buffer = [0; 16];
    let refused = (0..5).any(|_| {
        let _ = client.send(b"anybody there?");
        client.recv(&mut buffer).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused, "the backend's error did not come through");
    assert!(stand.reason("error_forwarded").unwrap() > 0);
}
