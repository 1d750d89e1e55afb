//! A tcp listener passes connections on: every byte both ways, ends and resets as they are, with the
//! balancing, health and drain that requests have.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use steerage_lab::client::Connection;
use steerage_lab::pattern::Pattern;
use steerage_lab::poller::{Poller, Reuse, Sample};
use steerage_lab::topology::{BALANCER, Topology, VIP};
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, name};

const PATIENCE: Duration = Duration::from_secs(20);

fn tcp() -> SocketAddr {
    SocketAddr::from((BALANCER, 9000))
}

fn listener(keys: &str) -> String {
    format!(
        "[[listener]]\nname = \"bytes\"\nbind = [\"{}\"]\nprotocol = \"tcp\"\nservice = \"app\"\n{keys}\n",
        tcp()
    )
}

fn choices(keys: &str) -> Choices {
    Choices { more: listener(keys), ..Choices::default() }
}

fn raw(stand: &Stand) -> TcpStream {
    stand.connect(tcp()).unwrap().into_stream().into_inner()
}

/// Connections that Steerage ended by this cause.
fn ended(stand: &Stand, cause: &str) -> u64 {
    let status = stand.daemon.status().unwrap();
    let workers = status["workers"].as_array().unwrap();
    let of = |worker: &serde_json::Value| {
        let ends = worker["ends"].as_array().unwrap();
        let found = ends.iter().find(|end| end["name"] == cause);
        found.and_then(|end| end["count"].as_u64()).unwrap_or(0)
    };
    workers.iter().map(of).sum()
}

fn tunnels(stand: &Stand) -> u64 {
    let status = stand.daemon.status().unwrap();
    let backends = status["services"][0]["backends"].as_array().unwrap();
    backends.iter().map(|backend| backend["l7"]["tunnels"].as_u64().unwrap()).sum()
}

#[test]
fn bulk_arrives_whole_both_ways_on_both_engines() {
    for io in ["io = \"auto\"\n", "io = \"epoll\"\n"] {
        let stand = Stand::start(&Choices { global: io, ..choices("") }).unwrap();
        let length = 256 << 20;
        let digest = Pattern::digest(length);
        let mut client = stand.connect(tcp()).unwrap();
        let up = client.post("/hash", Pattern::new(length)).unwrap();
        assert_eq!(up.text(), format!("{digest} {length}\n"), "{io}");
        let down = client.get(&format!("/bytes/{length}")).unwrap();
        assert_eq!((down.length, down.digest), (length, digest.clone()), "{io}");
        // And several at once, in opposite directions.
        let connect = || stand.connect(tcp()).unwrap();
        let (mut one, mut other) = (connect(), connect());
        std::thread::scope(|scope| {
            let up = scope.spawn(move || one.post("/hash", Pattern::new(length)).unwrap().text());
            let down = scope.spawn(move || other.get(&format!("/bytes/{length}")).unwrap().digest);
            assert_eq!(up.join().unwrap(), format!("{digest} {length}\n"), "{io}");
            assert_eq!(down.join().unwrap(), digest, "{io}");
        });
    }
}

#[test]
fn connections_are_shared_out_and_each_stays_at_its_backend() {
    let stand = Stand::start(&choices("")).unwrap();
    let mut connections: Vec<Connection> = (0..8).map(|_| stand.connect(tcp()).unwrap()).collect();
    let mut heard = [0; 2];
    for connection in &mut connections {
        let first = connection.get("/").unwrap().text();
        assert_eq!(connection.get("/").unwrap().text(), first);
        heard[usize::from(first.trim() == name(2))] += 1;
    }
    assert_eq!(heard, [4, 4], "round robin, over all workers");
    assert_eq!(tunnels(&stand), 8);
    drop(connections);
    wait::for_condition("the connections to end", PATIENCE, || tunnels(&stand) == 0).unwrap();
}

#[test]
fn ends_and_resets_are_passed_on_as_they_are() {
    let stand = Stand::start(&choices("")).unwrap();
    // A client that has said all and still listens.
    let mut client = raw(&stand);
    client.write_all(b"GET /bytes/300000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert!(all.len() > 300_000, "{}", all.len());
    // A backend that resets.
    let mut client = raw(&stand);
    client.write_all(b"GET /reset HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // One that closes.
    let mut client = raw(&stand);
    client.write_all(b"GET /close HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    wait::for_condition("all ended", PATIENCE, || tunnels(&stand) == 0).unwrap();
}

#[test]
fn silence_ends_a_connection_and_a_slow_reader_is_not_silent() {
    let keys = "timeouts = { tunnel = \"2s\", half_closed = \"500ms\" }";
    let stand = Stand::start(&choices(keys)).unwrap();
    let mut silent = raw(&stand);
    // 8 MiB lie ready after the backend's end, and are taken over a time longer than any limit.
    let mut slow = raw(&stand);
    slow.write_all(b"GET /bytes/8388608 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut piece = vec![0; 256 << 10];
    let mut got = 0;
    loop {
        match slow.read(&mut piece).unwrap() {
            0 => break,
            some => got += some,
        }
        // The reader's own pace: what is tested is time.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(got > 8 << 20, "{got}");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert_eq!(ended(&stand, "tunnel_idle"), 1);
}

#[test]
fn a_backend_that_dies_costs_its_own_connections_alone() {
    let mut stand = Stand::start(&choices("")).unwrap();
    let mut kept = stand.connect_to(tcp(), 2).unwrap();
    let mut lost = stand.connect_to(tcp(), 1).unwrap();
    let load = Poller::start(&stand.topology.client, tcp(), Reuse::Never).unwrap();
    stand.kill_backend(1);
    assert!(lost.get("/").is_err());
    for _ in 0..20 {
        let mut new = stand.connect(tcp()).unwrap();
        assert_eq!(new.get("/").unwrap().text().trim(), name(2));
    }
    assert_eq!(kept.get("/").unwrap().text().trim(), name(2));
    stand.daemon.wait_available(1).unwrap();
    let samples = load.stop();
    let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
    // Who was at it when it died; the load has one connection at a time.
    assert!(failed.len() <= 1, "{failed:?} of {}", samples.len());
    stand.revive_backend(1).unwrap();
    stand.daemon.wait_available(2).unwrap();
    drop(stand.connect_to(tcp(), 1).unwrap());
}

#[test]
fn connections_outlive_reloads_and_upgrades_until_the_drain_ends() {
    let global = "drain = \"10s\"\n";
    let mut stand = Stand::start(&Choices { global, ..choices("") }).unwrap();
    let mut kept = stand.connect(tcp()).unwrap();
    let first = kept.get("/").unwrap().text();
    let load = Poller::start(&stand.topology.client, tcp(), Reuse::Never).unwrap();
    let text = Choices { global, ..choices("limits = { connections_per_address = 1000 }") };
    stand.reconfigure(&text.config(&stand.scratch)).unwrap();
    assert_eq!(kept.get("/").unwrap().text(), first);
    let length = 128 << 20;
    let mut download = stand.connect(tcp()).unwrap();
    download.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    stand.daemon.upgrade(None).unwrap();
    assert_eq!(kept.get("/").unwrap().text(), first, "the former worker still has it");
    assert_eq!(download.response().unwrap().digest, Pattern::digest(length));
    // Nobody ends it: the drain's deadline does.
    let error = kept.into_stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let samples = load.stop();
    let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
    assert!(failed.is_empty() && samples.len() > 100, "{failed:?} of {}", samples.len());
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_more() {
    let stand = Stand::start(&choices("")).unwrap();
    let mut kept = stand.connect_to(tcp(), 1).unwrap();
    let address = steerage_lab::topology::backend_socket(1).to_string();
    stand.daemon.backend(&["drain", &address, "--no-wait"]).unwrap();
    for _ in 0..8 {
        let mut new = stand.connect(tcp()).unwrap();
        assert_eq!(new.get("/").unwrap().text().trim(), name(2));
    }
    assert_eq!(kept.get("/").unwrap().text().trim(), name(1));
    stand.daemon.backend(&["maintenance", &address]).unwrap();
    let error = kept.into_stream().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_vip_is_served_by_workers_where_there_is_no_ebpf_and_it_may_be() {
    let own_address = |topology: &Topology| {
        topology.balancer.ip(&format!("address add {VIP}/32 dev lo")).map(drop)
    };
    let start = |global| {
        let choices = Choices { tcp_vip: true, global, ..choices("") };
        Stand::start_with(&choices, own_address)
    };
    let refused = format!("{:#}", start("bpf_dir = \"/tmp/no-bpffs\"").unwrap_err());
    assert!(refused.contains("app-tcp"), "{refused}");
    let stand = start("bpf_dir = \"/tmp/no-bpffs\"\nl4_fallback = \"proxy\"").unwrap();
    let said = stand.daemon.log();
    assert_eq!(said.matches("these vips are served by workers").count(), 1, "{said}");
    let mut client = stand.connect(l4()).unwrap();
    let length = 10_000_000;
    let up = client.post("/hash", Pattern::new(length)).unwrap();
    assert_eq!(up.text(), format!("{} {length}\n", Pattern::digest(length)));
    // It is served still after a reload, with what that says.
    let global = "bpf_dir = \"/tmp/no-bpffs\"\nl4_fallback = \"proxy\"\ndrain = \"3s\"";
    let choices = Choices { tcp_vip: true, global, ..choices("") };
    stand.reconfigure(&choices.config(&stand.scratch)).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(stand.connect(l4()).unwrap().get("/").unwrap().status, 200);
}
