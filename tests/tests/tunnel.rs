//! Direct server return across hosts: the balancer wraps or passes on, our own decapsulator unwraps,
//! and backends answer clients themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use steerage_lab::backend::Backend;
use steerage_lab::client::curl;
use steerage_lab::daemon;
use steerage_lab::pattern::Pattern;
use steerage_lab::process::Process;
use steerage_lab::topology::{CLIENT_LINK, Topology, VIP};
use steerage_lab::udp;
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l4, l4_udp, name};

const BACKENDS: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// An installation, and what runs on the backends beside. Fields are dropped in this order.
struct Returning {
    decaps: Vec<Process>,
    servers: Vec<Backend>,
    stand: Stand,
}

/// The vip's address on a backend, and links wide enough for outer headers.
fn prepare(topology: &Topology) -> anyhow::Result<()> {
    for (number, backend) in (1..).zip(&topology.backends) {
        backend.ip(&format!("address add {VIP}/32 dev lo"))?;
        backend.ip("link set lo up")?;
        backend.ip("link set eth0 mtu 1600")?;
        topology.balancer.ip(&format!("link set to-{number} mtu 1600"))?;
        // What comes out of a tunnel came in on a link that does not lead back to its source.
        for link in ["all", "eth0"] {
            backend.sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
        }
    }
    topology.balancer.sysctl("ipv4/conf/all/rp_filter", "0")
}

fn start(mode: &str) -> Returning {
    start_with(mode, |_| Ok(()))
}

/// As [`start`], with a change of the hosts before the daemon starts.
fn start_with(mode: &str, change: impl FnOnce(&Topology) -> anyhow::Result<()>) -> Returning {
    let vip = |protocol: &str, address| {
        format!(
            "[[vip]]\nname = \"direct-{protocol}\"\naddress = \"{address}\"\n\
             protocol = \"{protocol}\"\n{mode}\ninterface = \"{CLIENT_LINK}\"\n\
             service = \"app\"\n\n"
        )
    };
    let more = vip("tcp", l4()) + &vip("udp", l4_udp());
    let choices = Choices { weights: vec![1; BACKENDS.into()], more, ..Choices::default() };
    let hosts = |topology: &Topology| prepare(topology).and_then(|()| change(topology));
    let stand = Stand::start_with(&choices, hosts).unwrap();
    let servers = (1..=BACKENDS)
        .map(|number| {
            let netns = &stand.topology.backends[usize::from(number) - 1];
            Backend::start(&name(number), Some(netns), l4()).unwrap()
        })
        .collect();
    Returning { decaps: Vec::new(), servers, stand }
}

/// Starts `steerage decap` on every backend.
fn with_decap(mut returning: Returning, hook: &str) -> Returning {
    let binary = daemon::binary().unwrap();
    for (number, netns) in (1..).zip(&returning.stand.topology.backends) {
        let mut command = netns.command(&binary);
        command.args(["decap", "--interface", "eth0", "--vip", &VIP.to_string(), "--hook", hook]);
        let log = returning.stand.scratch.path().join(format!("decap-{number}.log"));
        let process = Process::spawn(format!("decap-{number}"), command, &log).unwrap();
        wait::for_condition("the decapsulator", PATIENCE, || process.log().contains("ready"))
            .unwrap();
        returning.decaps.push(process);
    }
    returning
}

impl Returning {
    fn talk(&self) {
        let client = &self.stand.topology.client;
        let mut heard = BTreeSet::new();
        for _ in 0..40 {
            let reply = curl(client, &["--max-time", "5", &format!("http://{VIP}/")]).unwrap();
            assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
            heard.insert(reply.text);
        }
        assert_eq!(heard.len(), usize::from(BACKENDS), "{heard:?}");
        let mut connection = self.stand.connect(l4()).unwrap();
        let length = 5_000_000;
        let up = connection.post("/hash", Pattern::new(length)).unwrap();
        assert_eq!(up.text(), format!("{} {length}\n", Pattern::digest(length)));
        let down = connection.get(&format!("/bytes/{length}")).unwrap();
        assert_eq!(down.digest, Pattern::digest(length));
        let status = self.stand.daemon.status().unwrap();
        let vip = &status["vips"][0]["l4"];
        assert_eq!((&vip["flows"], &vip["remembered"]), (&41.into(), &0.into()), "{vip}");
        assert_eq!(vip["out_packets"], 0, "answers do not come this way: {vip}");
        assert!(self.servers.iter().all(|server| server.requests() > 0));
    }
}

#[test]
fn plain_tunnels_end_at_our_decapsulator() {
    plain("xdp");
}

#[test]
fn plain_tunnels_end_at_our_decapsulator_on_tcx() {
    plain("tcx");
}

fn plain(hook: &str) {
    let mut returning = with_decap(start("mode = \"tunnel\""), hook);
    returning.talk();
    for decap in &mut returning.decaps {
        assert!(decap.terminate(PATIENCE).unwrap().success());
        let log = decap.log();
        let count = |what: &str| {
            let line = log.lines().find(|line| line.starts_with(what));
            line.unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        assert!(count("ip") > 20, "{log}");
        assert_eq!((count("gue"), count("foreign"), count("malformed")), (0, 0, 0), "{log}");
    }
}

#[test]
fn gue_tunnels_end_at_our_decapsulator() {
    with_decap(start("mode = \"tunnel\"\nencapsulation = \"gue\""), "xdp").talk();
}

#[test]
fn gue_tunnels_end_at_our_decapsulator_on_tcx() {
    with_decap(start("mode = \"tunnel\"\nencapsulation = \"gue\""), "tcx").talk();
}

#[test]
fn l2_needs_nothing_on_backends_but_the_address() {
    start("mode = \"l2\"").talk();
}

#[test]
fn a_client_learns_that_the_way_behind_the_balancer_is_smaller() {
    let narrow = |topology: &Topology| {
        for (number, backend) in (1..).zip(&topology.backends) {
            topology.balancer.ip(&format!("link set to-{number} mtu 1400"))?;
            backend.ip("link set eth0 mtu 1400")?;
        }
        Ok(())
    };
    for (mode, overhead) in
        [("mode = \"tunnel\"", 20), ("mode = \"tunnel\"\nencapsulation = \"gue\"", 28)]
    {
        let returning = with_decap(start_with(mode, narrow), "xdp");
        let stand = &returning.stand;
        let _program = stand.wake_client().unwrap();
        let mut connection = stand.connect(l4()).unwrap();
        let length = 3_000_000;
        let up = connection.post("/hash", Pattern::new(length)).unwrap();
        assert_eq!(up.text(), format!("{} {length}\n", Pattern::digest(length)));
        let down = connection.get(&format!("/bytes/{length}")).unwrap();
        assert_eq!(down.digest, Pattern::digest(length));
        let (too_big, sent) =
            (stand.reason("too_big").unwrap(), stand.reason("error_sent").unwrap());
        assert!(too_big > 0 && sent > 0 && sent <= too_big, "{too_big} too big, {sent} errors");
        let route = stand.topology.client.ip(&format!("route get {VIP}")).unwrap();
        let learnt = format!("mtu {}", 1_400 - overhead);
        assert!(route.contains(&learnt), "{route}");
    }
}

#[test]
fn datagrams_in_fragments_reach_the_backend_of_their_flow() {
    let returning = with_decap(start("mode = \"tunnel\""), "xdp");
    let stand = &returning.stand;
    let _echoes = stand.echoes(|_| l4_udp()).unwrap();
    let mut heard = BTreeSet::new();
    for flow in 0..20 {
        let client = udp::client(&stand.topology.client, l4_udp(), Duration::from_secs(2)).unwrap();
        let question = vec![flow; 5_000];
        let (name, echoed) = udp::ask(&client, &question, 5).unwrap();
        assert_eq!(echoed, question);
        heard.insert(name);
    }
    assert_eq!(heard.len(), usize::from(BACKENDS), "{heard:?}");
    // 5,008 bytes are four fragments.
    assert!(stand.reason("fragment").unwrap() >= 60);
}
