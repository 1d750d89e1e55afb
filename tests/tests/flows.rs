//! Established flows stay where they are: through the death of a balancer beside others, and through
//! backends that go and come.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use steerage_lab::command;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns::Netns;
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, BACKEND_PORT, CLIENT_LINK, Topology, VIP};
use steerage_tests::namer::{self, Flow};
use steerage_tests::stand::PREFIX;

const PROBE: &str = "probe = { kind = \"tcp\", interval = \"200ms\", timeout = \"100ms\", rise = 2, \
                     fall = 2 }\n";

fn vip() -> SocketAddr {
    SocketAddr::from((VIP, BACKEND_PORT))
}

/// Starts a server in each of these hosts; the first is called 1.
fn serve<'a>(hosts: impl Iterator<Item = (&'a Netns, SocketAddr)>) -> Result<Vec<Process>> {
    let program = Path::new(env!("CARGO_BIN_EXE_namer"));
    (1..).zip(hosts).map(|(name, (netns, at))| namer::start(program, netns, at, name)).collect()
}

/// A daemon's configuration with one vip, and backends of these addresses.
fn config(scratch: &Scratch, vip_keys: &str, backends: &[(SocketAddr, u16)]) -> String {
    let mut text = daemon::global(scratch);
    let _ = write!(
        text,
        "workers = 1\nhash_seed = \"one group\"\n[[vip]]\nname = \"app\"\naddress = \"{}\"\n\
         protocol = \"tcp\"\nservice = \"app\"\n{vip_keys}\n[[service]]\nname = \"app\"\n{PROBE}",
        vip()
    );
    for (address, weight) in backends {
        let _ = writeln!(text, "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}");
    }
    text
}

/// Hosts on one switch: a router that shares flows out to two balancers, and three backends that answer
/// for themselves.
struct Group {
    daemons: Vec<Daemon>,
    _servers: Vec<Process>,
    client: Netns,
    router: Netns,
    balancers: Vec<Netns>,
    _backends: Vec<Netns>,
    _switch: Netns,
    _scratches: Vec<Scratch>,
}

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 254);

fn balancer_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, 10 + number)
}

fn backend_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, 20 + number)
}

/// A host on the switch; senders compute their checksums, and XDP may transmit on the link.
fn host(switch: &Netns, role: &str, address: Ipv4Addr) -> Result<Netns> {
    let name = format!("{PREFIX}-{}-{role}", std::process::id());
    let netns = Netns::create(&*name)?;
    let port = format!("p-{role}");
    switch.ip(&format!("link add {port} type veth peer name eth0 netns {name}"))?;
    switch.ip(&format!("link set {port} master lan up"))?;
    netns.ip(&format!("address add {address}/24 dev eth0"))?;
    netns.ip("link set eth0 up")?;
    netns.ip("link set lo up")?;
    for (netns, device) in [(switch, &*port), (&netns, "eth0")] {
        let mut ethtool = netns.command("ethtool");
        command::output(ethtool.args(["-K", device, "tx", "off", "gro", "on"]))?;
    }
    for link in ["all", "eth0"] {
        netns.sysctl(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
    }
    Ok(netns)
}

fn group() -> Result<Group> {
    let switch = Netns::create(format!("{PREFIX}-{}-switch", std::process::id()))?;
    switch.ip("link add lan type bridge")?;
    switch.ip("link set lan up")?;
    let router = host(&switch, "router", ROUTER)?;
    let client = Netns::create(format!("{PREFIX}-{}-ecmp-client", std::process::id()))?;
    router
        .ip(&format!("link add {CLIENT_LINK} type veth peer name eth0 netns {}", client.name()))?;
    for (netns, device, address) in
        [(&router, CLIENT_LINK, topology::BALANCER), (&client, "eth0", topology::CLIENT)]
    {
        netns.ip(&format!("address add {address}/24 dev {device}"))?;
        netns.ip(&format!("link set {device} up"))?;
        let mut ethtool = netns.command("ethtool");
        command::output(ethtool.args(["-K", device, "tx", "off"]))?;
    }
    client.ip(&format!("route add default via {}", topology::BALANCER))?;
    router.sysctl("ipv4/ip_forward", "1")?;
    // Paths are chosen by ports too.
    router.sysctl("ipv4/fib_multipath_hash_policy", "1")?;
    let mut backends = Vec::new();
    for number in 1..=3 {
        let backend = host(&switch, &format!("backend-{number}"), backend_address(number))?;
        backend.ip(&format!("address add {VIP}/32 dev lo"))?;
        backend.ip(&format!("route add default via {ROUTER}"))?;
        backends.push(backend);
    }
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, BACKEND_PORT));
    let servers = serve(backends.iter().map(|netns| (netns, everywhere)))?;
    let (mut daemons, mut balancers, mut scratches) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=2 {
        let netns = host(&switch, &format!("balancer-{number}"), balancer_address(number))?;
        netns.sysctl("ipv4/ip_forward", "1")?;
        netns.ip(&format!("route add default via {ROUTER}"))?;
        let scratch = Scratch::new(PREFIX)?;
        let all: Vec<_> =
            (1..=3).map(|n| (SocketAddr::from((backend_address(n), BACKEND_PORT)), 1)).collect();
        let text = config(&scratch, "mode = \"l2\"\ninterface = \"eth0\"", &all);
        let file = scratch.write("steerage.toml", &text)?;
        let log = scratch.path().join("daemon.log");
        daemons.push(Daemon::serving(&netns, &daemon::binary()?, &file, &log)?);
        balancers.push(netns);
        scratches.push(scratch);
    }
    let group = Group {
        daemons,
        _servers: servers,
        client,
        router,
        balancers,
        _backends: backends,
        _switch: switch,
        _scratches: scratches,
    };
    group.route(&[1, 2])?;
    for daemon in &group.daemons {
        daemon.wait_available(3)?;
    }
    Ok(group)
}

impl Group {
    /// Has the router share flows out to these balancers.
    fn route(&self, balancers: &[u8]) -> Result<()> {
        let hops =
            balancers.iter().map(|number| format!(" nexthop via {}", balancer_address(*number)));
        self.router.ip(&format!("route replace {VIP}/32{}", hops.collect::<String>())).map(drop)
    }

    /// How many flows began through a balancer.
    fn flows(&self, number: usize) -> u64 {
        let status = self.daemons[number - 1].status().unwrap();
        status["vips"][0]["l4"]["flows"].as_u64().unwrap()
    }
}

#[test]
fn the_flows_of_a_killed_balancer_go_on_through_the_other() {
    const FLOWS: usize = 120;
    let mut group = group().unwrap();
    let mut flows = Flow::begin(&group.client, vip(), FLOWS).unwrap();
    let (first, second) = (group.flows(1), group.flows(2));
    assert_eq!(first + second, FLOWS as u64);
    assert!(first > 20 && second > 20, "the router shares out: {first} and {second}");
    let mut names: BTreeMap<u8, usize> = BTreeMap::new();
    flows.iter().for_each(|flow| *names.entry(flow.name).or_default() += 1);
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(Flow::moved(&mut flows), 0);

    group.daemons[0].process().kill().unwrap();
    group.daemons[0].detach().unwrap();
    group.balancers[0].ip("link set eth0 down").unwrap();
    group.route(&[2]).unwrap();
    assert_eq!(Flow::moved(&mut flows), 0, "of {FLOWS} flows, {first} of them the dead one's");
    println!("{FLOWS} flows, {first} through the balancer that died: none moved or ended");
}

#[test]
fn ten_thousand_flows_stay_while_backends_go_and_come() {
    const FLOWS: usize = 10_000;
    steerage::sys::raise_open_files().unwrap();
    let hosts = Topology::build(PREFIX, 3).unwrap();
    let all: Vec<SocketAddr> = (1..=3).map(topology::backend_socket).collect();
    let servers = serve(hosts.backends.iter().zip(all.iter().copied())).unwrap();
    let scratch = Scratch::new(PREFIX).unwrap();
    let write = |backends: &[(SocketAddr, u16)]| {
        let keys = format!("mode = \"nat\"\ninterface = \"{CLIENT_LINK}\"");
        scratch.write("steerage.toml", &config(&scratch, &keys, backends)).unwrap()
    };
    let even: Vec<_> = all.iter().map(|address| (*address, 1)).collect();
    let file = write(&even);
    let log = scratch.path().join("daemon.log");
    let daemon = Daemon::serving(&hosts.balancer, &daemon::binary().unwrap(), &file, &log).unwrap();
    daemon.wait_available(3).unwrap();
    let mut flows = Flow::begin(&hosts.client, vip(), FLOWS).unwrap();
    let of = |flows: &[Flow], name| flows.iter().filter(|flow| flow.name == name).count();
    assert!((1..=3).all(|name| of(&flows, name) > FLOWS / 4));

    write(&[even[0], even[2]]);
    daemon.ask(&["reload"]).unwrap();
    daemon.wait_available(2).unwrap();
    assert_eq!(Flow::moved(&mut flows), 0, "a backend was removed");
    let new = Flow::begin(&hosts.client, vip(), 500).unwrap();
    assert_eq!(of(&new, 2), 0, "it takes nothing new");
    flows.extend(new);

    write(&even);
    daemon.ask(&["reload"]).unwrap();
    daemon.wait_available(3).unwrap();
    assert_eq!(Flow::moved(&mut flows), 0, "it returned");
    let new = Flow::begin(&hosts.client, vip(), 500).unwrap();
    assert!(of(&new, 2) > 100, "{} of 500", of(&new, 2));
    flows.extend(new);

    write(&[(all[0], 5), (all[1], 1), (all[2], 2)]);
    daemon.ask(&["reload"]).unwrap();
    assert_eq!(Flow::moved(&mut flows), 0, "weights changed");
    println!("{} flows, none moved", flows.len());
    drop(servers);
}
