//! Backends that DNS names come and go as it says, and stay when it says nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use serde_json::Value;
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::topology::{self, CLIENT};
use steerage_lab::{daemon, wait};
use steerage_tests::dns::{Says, Server, address, service};
use steerage_tests::stand::{Choices, Stand, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

fn dns() -> SocketAddr {
    SocketAddr::from((CLIENT, 5300))
}

/// Four backends, and a server that names the first two of them.
fn stand() -> (Stand, Server) {
    let stand = Stand::start(&Choices { weights: vec![1; 4], ..Choices::default() }).unwrap();
    let server = Server::start(&stand.topology.client, dns()).unwrap();
    server.set("app.test.", named(1, &[1, 2]));
    (stand, server)
}

fn named(ttl: u32, backends: &[u8]) -> Says {
    let addresses = backends.iter().map(|number| address(topology::backend_address(*number)));
    Says::Records(ttl, addresses.collect())
}

/// A configuration whose services are found by these keys of `discover`.
fn text(stand: &Stand, services: &[(&str, &str)]) -> String {
    let mut text = daemon::global(&stand.scratch);
    text += &format!(
        "workers = 2\n[[listener]]\nname = \"web\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
         [[listener.route]]\nservice = \"{}\"\n",
        l7(),
        services[0].0
    );
    for (name, discover) in services {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nbalance = \"round_robin\"\n\
             probe = {{ kind = \"http\", path = \"/health\", interval = \"200ms\", \
             timeout = \"150ms\" }}\n\
             discover = {{ servers = [\"{}\"], {discover} }}\n",
            dns()
        );
    }
    text
}

/// The backends of a service that take new work.
fn backends(status: &Value, service: usize) -> BTreeSet<String> {
    let backends = status["services"][service]["backends"].as_array().unwrap();
    let up = backends.iter().filter(|backend| backend["accepts_new"] == true);
    up.map(|backend| backend["address"].as_str().unwrap().to_owned()).collect()
}

fn wanted(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|number| topology::backend_socket(*number).to_string()).collect()
}

fn wait_for(stand: &Stand, service: usize, numbers: &[u8]) {
    wait::for_condition(format!("{numbers:?} to serve"), PATIENCE, || {
        backends(&stand.daemon.status().unwrap(), service) == wanted(numbers)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", stand.daemon.log()));
}

fn slot_of(status: &Value, number: u8) -> (Value, Value) {
    let address = topology::backend_socket(number).to_string();
    let backends = status["services"][0]["backends"].as_array().unwrap();
    let backend = backends.iter().find(|backend| backend["address"] == address).unwrap();
    (backend["slot"].clone(), backend["epoch"].clone())
}

#[test]
fn backends_follow_the_name_and_no_request_is_lost() {
    let (stand, server) = stand();
    let keys = "dns = \"app.test:8080\", type = \"a\", ttl_min = \"100ms\"";
    stand.reconfigure(&text(&stand, &[("app", keys)])).unwrap();
    // The first answer is there with the reload.
    assert_eq!(backends(&stand.daemon.status().unwrap(), 0), wanted(&[1, 2]));
    let slot = slot_of(&stand.daemon.status().unwrap(), 1);
    let pollers = [Reuse::KeepAlive, Reuse::Never]
        .map(|reuse| Poller::start(&stand.topology.client, l7(), reuse).unwrap());
    for numbers in [&[1, 3][..], &[1, 2, 3, 4], &[1], &[1, 4]] {
        server.set("app.test.", named(0, numbers));
        wait_for(&stand, 0, numbers);
    }
    assert_eq!(slot_of(&stand.daemon.status().unwrap(), 1), slot, "who stays keeps its slot");
    for poller in pollers {
        let samples = poller.stop();
        let failed: Vec<_> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
        assert!(failed.is_empty() && samples.len() > 20, "{failed:?}");
    }
}

#[test]
fn an_outage_of_dns_takes_nobody_out() {
    let (stand, server) = stand();
    let keys = "dns = \"app.test:8080\", ttl_min = \"50ms\"";
    server.set("app.test.", named(0, &[1, 2]));
    stand.reconfigure(&text(&stand, &[("app", keys)])).unwrap();
    wait_for(&stand, 0, &[1, 2]);
    for says in [
        Says::Code(ResponseCode::NXDomain),
        Says::Code(ResponseCode::ServFail),
        Says::Records(0, Vec::new()),
        Says::Silence,
    ] {
        let before = server.asked("app.test.");
        server.set("app.test.", says.clone());
        wait::for_condition("it to be asked again and again", PATIENCE, || {
            server.asked("app.test.") >= before + 3
        })
        .unwrap();
        let status = stand.daemon.status().unwrap();
        assert_eq!(backends(&status, 0), wanted(&[1, 2]), "{says:?}");
    }
    assert!(stand.daemon.log().contains("the last answer holds"), "{}", stand.daemon.log());
    // Nor does a reload meanwhile.
    let other = text(&stand, &[("app", keys)]).replace("round_robin", "random");
    stand.reconfigure(&other).unwrap();
    assert_eq!(backends(&stand.daemon.status().unwrap(), 0), wanted(&[1, 2]));
    server.set("app.test.", named(0, &[3]));
    wait_for(&stand, 0, &[3]);
}

#[test]
fn a_name_is_asked_for_when_its_answer_is_over_and_not_before() {
    let (stand, server) = stand();
    server.set("long.test.", named(3600, &[1]));
    server.set("capped.test.", named(3600, &[2]));
    let long = "dns = \"long.test:8080\", type = \"a\", ttl_min = \"50ms\", ttl_max = \"2h\"";
    let capped = "dns = \"capped.test:8080\", type = \"a\", ttl_min = \"50ms\", ttl_max = \"50ms\"";
    stand.reconfigure(&text(&stand, &[("long", long), ("capped", capped)])).unwrap();
    let before = server.asked("capped.test.");
    wait::for_condition("the answer with a ceiling to be over many times", PATIENCE, || {
        server.asked("capped.test.") >= before + 20
    })
    .unwrap();
    // Once for the reload, and once by the task that follows the name.
    assert!(server.asked("long.test.") <= 2, "{}", server.asked("long.test."));
}

#[test]
fn services_name_ports_weights_and_tiers() {
    let (stand, server) = stand();
    for number in 1..=3 {
        server.set(&format!("h{number}.test."), named(1, &[number]));
    }
    let port = topology::BACKEND_PORT;
    let records = vec![
        service(10, 600, port, "h1.test."),
        service(10, 300, port, "h2.test."),
        service(20, 1, port, "h3.test."),
        // Nobody knows it; the others serve.
        service(20, 1, port, "nobody.test."),
    ];
    server.set("nobody.test.", Says::Records(1, Vec::new()));
    server.set("_app._tcp.test.", Says::Records(1, records));
    let keys = "dns = \"_app._tcp.test\", type = \"srv\", ttl_min = \"100ms\"";
    stand.reconfigure(&text(&stand, &[("app", keys)])).unwrap();
    wait_for(&stand, 0, &[1, 2, 3]);
    let status = stand.daemon.status().unwrap();
    let weights: Vec<u64> = status["services"][0]["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| backend["weight"].as_u64().unwrap())
        .collect();
    assert_eq!(weights, [256, 128, 1]);
    let mut client = stand.connect(l7()).unwrap();
    let heard: BTreeSet<String> =
        (0..30).map(|_| client.get("/").unwrap().text().trim().to_owned()).collect();
    assert_eq!(heard, BTreeSet::from([name(1), name(2)]), "the third is of the next tier");
    server.set("_app._tcp.test.", Says::Records(1, vec![service(20, 1, port, "h3.test.")]));
    wait_for(&stand, 0, &[3]);
    assert_eq!(client.get("/").unwrap().text().trim(), name(3));
}
