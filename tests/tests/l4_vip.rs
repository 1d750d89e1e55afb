//! A vip serves TCP and UDP across hosts, packets rewritten both ways, and leaves all else alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use steerage_lab::client::curl;
use steerage_lab::command;
use steerage_lab::pattern::Pattern;
use steerage_lab::topology::{self, CLIENT_LINK, Topology, VIP};
use steerage_lab::udp;
use steerage_tests::dns::{self, Says};
use steerage_tests::stand::{Choices, Stand, l4, l4_udp};

fn stand(weights: Vec<u16>) -> Stand {
    let choices = Choices { weights, tcp_vip: true, udp_vip: true, ..Choices::default() };
    Stand::start(&choices).unwrap()
}

#[test]
fn curl_reaches_every_backend_through_a_tcp_vip() {
    let stand = stand(vec![1, 1, 1]);
    let url = format!("http://{VIP}/");
    let mut heard = BTreeSet::new();
    for _ in 0..60 {
        let reply = curl(&stand.topology.client, &[&url]).unwrap();
        assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
        heard.insert(reply.text);
    }
    assert_eq!(heard.len(), 3, "{heard:?}");
    let status = stand.daemon.status().unwrap();
    let vip = &status["vips"][0]["l4"];
    assert_eq!(vip["flows"], 60, "{vip}");
    assert!(vip["in_packets"].as_u64() > vip["flows"].as_u64(), "{vip}");
    assert!(vip["out_packets"].as_u64() > vip["flows"].as_u64(), "{vip}");
}

#[test]
fn bulk_through_a_tcp_vip_arrives_whole_and_stays_with_its_backend() {
    let stand = stand(vec![1, 1]);
    let mut client = stand.connect(l4()).unwrap();
    let first = client.get("/").unwrap().text();
    let length = 20_000_000;
    let up = client.post("/hash", Pattern::new(length)).unwrap();
    assert_eq!(up.text(), format!("{} {length}\n", Pattern::digest(length)));
    let down = client.get(&format!("/bytes/{length}")).unwrap();
    assert_eq!(down.digest, Pattern::digest(length));
    assert_eq!(client.get("/").unwrap().text(), first);
}

#[test]
fn datagrams_through_a_udp_vip_are_answered_and_a_flow_stays_with_its_backend() {
    let stand = stand(vec![1, 1]);
    let echoes = stand.echoes(topology::backend_socket).unwrap();
    let mut heard = BTreeSet::new();
    for flow in 0..20 {
        let socket = udp::client(&stand.topology.client, l4_udp(), Duration::from_secs(2)).unwrap();
        let mut names = BTreeSet::new();
        for number in 0..5 {
            let question = format!("flow {flow} datagram {number}");
            // The first packet to a neighbour the kernel does not know yet is lost, as ever.
            let reply = (0..5).find_map(|_| {
                socket.send(question.as_bytes()).unwrap();
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            });
            let reply = reply.expect("no answer to any of five datagrams");
            let (name, echoed) = reply.split_once(' ').unwrap();
            assert_eq!(echoed, question);
            names.insert(name.to_owned());
        }
        assert_eq!(names.len(), 1, "flow {flow} was answered by {names:?}");
        heard.extend(names);
    }
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(echoes.iter().all(|echo| echo.datagrams() > 0));
}

#[test]
fn traffic_that_is_not_for_a_vip_passes_untouched() {
    let stand = stand(vec![1]);
    // The host's own services and its plain forwarding.
    assert_eq!(stand.curl("/", &[]).unwrap().status, 200);
    let direct = format!("http://{}/", topology::backend_socket(1));
    assert_eq!(curl(&stand.topology.client, &[&direct]).unwrap().status, 200);
    let mut ping = stand.topology.client.command("ping");
    ping.args(["-c", "1", "-W", "2", "10.80.0.1"]);
    if let Ok(output) = command::finish(&mut ping) {
        assert!(output.status.success() || output.status.code() == Some(127), "{output:?}");
    }
    // A port of the vip's address that no vip has goes to the host, which refuses it.
    let other = curl(&stand.topology.client, &["--max-time", "2", &format!("http://{VIP}:81/")]);
    assert_eq!(other.unwrap().status, 0);
}

#[test]
fn forwarding_goes_on_when_the_daemon_has_stopped_until_detach() {
    let mut stand = stand(vec![1, 1]);
    let url = format!("http://{VIP}/");
    let ask =
        |stand: &Stand| curl(&stand.topology.client, &["--max-time", "3", &url]).unwrap().status;
    assert_eq!(ask(&stand), 200);
    let status = stand.daemon.terminate().unwrap();
    assert!(status.success(), "{status}\n{}", stand.daemon.log());
    assert_eq!(ask(&stand), 200, "forwarding ended with the daemon");
    assert!(stand.pins().exists());
    stand.daemon.detach().unwrap();
    assert!(!stand.pins().exists(), "pins are left after detach");
    assert_eq!(ask(&stand), 0, "forwarding went on after detach");
}

#[test]
fn a_link_without_native_xdp_is_served_in_generic_mode() {
    // veth refuses native XDP where a peer's frames may not fit a page.
    let choices = Choices { tcp_vip: true, ..Choices::default() };
    let stand = Stand::start_with(&choices, |topology| {
        topology.client.ip("link set eth0 mtu 9000")?;
        topology.balancer.ip("link set clients mtu 9000").map(drop)
    });
    let stand = stand.unwrap();
    let reply = curl(&stand.topology.client, &[&format!("http://{VIP}/")]).unwrap();
    assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}\n{}", stand.daemon.log());
    let links = stand.daemon.status().unwrap()["vips"][0]["interfaces"].to_string();
    assert!(links.contains("generic"), "{links}");
}

#[test]
fn clients_come_in_on_each_link_that_a_vip_names() {
    const SECOND: &str = "clients-2";
    let more = format!(
        "[[vip]]\nname = \"both\"\naddress = \"{}\"\nprotocol = \"tcp\"\nmode = \"nat\"\n\
         interface = [\"{CLIENT_LINK}\", \"{SECOND}\"]\nservice = \"app\"\n",
        l4()
    );
    let stand = Stand::start_with(&Choices { more, ..Choices::default() }, |topology| {
        let Topology { client, balancer, .. } = topology;
        balancer
            .ip(&format!("link add {SECOND} type veth peer name eth1 netns {}", client.name()))?;
        for (netns, device, address) in
            [(balancer, SECOND, "10.82.0.1"), (client, "eth1", "10.82.0.2")]
        {
            netns.ip(&format!("address add {address}/24 dev {device}"))?;
            netns.ip(&format!("link set {device} up"))?;
            let mut ethtool = netns.command("ethtool");
            command::output(ethtool.args(["-K", device, "tx", "off", "gro", "on"]))?;
        }
        Ok(())
    });
    let stand = stand.unwrap();
    let links = stand.daemon.status().unwrap()["vips"][0]["interfaces"].to_string();
    for link in [CLIENT_LINK, SECOND, "to-1", "to-2"] {
        assert!(links.contains(&format!("{link} (native)")), "{links}");
    }
    let ask = || curl(&stand.topology.client, &["--max-time", "5", &format!("http://{VIP}/")]);
    assert_eq!(ask().unwrap().status, 200);
    stand.topology.client.ip(&format!("route add {VIP}/32 via 10.82.0.1")).unwrap();
    assert_eq!(ask().unwrap().status, 200, "{}", stand.daemon.status_text().unwrap());
}

/// Names are asked of a vip by `dig`, over UDP from another port each time.
#[test]
fn dig_is_answered_by_each_name_server_behind_a_udp_vip() {
    const QUESTIONS: usize = 40;
    let at = |number: u8| SocketAddr::new(topology::backend_socket(number).ip(), 53);
    let more = format!(
        "[[vip]]\nname = \"dns\"\naddress = \"{vip}:53\"\nprotocol = \"udp\"\nmode = \"nat\"\n\
         interface = \"{CLIENT_LINK}\"\nservice = \"dns\"\n[[service]]\nname = \"dns\"\n\
         [[service.backend]]\naddress = \"{one}\"\n[[service.backend]]\naddress = \"{two}\"\n",
        vip = VIP,
        one = at(1),
        two = at(2)
    );
    let stand = Stand::start(&Choices { tcp_vip: true, more, ..Choices::default() }).unwrap();
    let servers: Vec<_> = (1..=2)
        .map(|number| {
            let netns = &stand.topology.backends[usize::from(number) - 1];
            let server = dns::Server::start(netns, at(number)).unwrap();
            let own = Ipv4Addr::new(203, 0, 113, number);
            server.set("www.example.com.", Says::Records(60, vec![dns::address(own)]));
            server
        })
        .collect();
    let mut heard = BTreeSet::new();
    for _ in 0..QUESTIONS {
        let mut dig = stand.topology.client.command("dig");
        dig.args(["+short", "+tries=1", "+time=5", &format!("@{VIP}")]);
        heard.insert(command::output(dig.arg("www.example.com")).unwrap().trim().to_owned());
    }
    let expected = ["203.0.113.1", "203.0.113.2"].map(str::to_owned);
    assert_eq!(heard, BTreeSet::from(expected));
    let asked: usize = servers.iter().map(|server| server.asked("www.example.com.")).sum();
    assert_eq!(asked, QUESTIONS);
}
