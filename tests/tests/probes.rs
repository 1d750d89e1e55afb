//! Probes, as the daemon sends them and as backends see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustix::process::Signal;
use serde_json::Value;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns::{self, Netns};
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::wait;
use steerage_tests::probed::{Kind, Probed};
use steerage_tests::stand::{Choices, PREFIX, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon and the backends that it probes, in one namespace. Fields are dropped in this order.
struct Host {
    daemon: Daemon,
    probed: Probed,
    _netns: Netns,
    _scratch: Scratch,
}

/// A daemon with `services` services that share `backends` backends and probe them as `probe` says.
fn host(kind: Kind, services: usize, backends: u16, probe: &str) -> Host {
    let scratch = Scratch::new(PREFIX).unwrap();
    let netns = Netns::create(format!("{PREFIX}-{}-probes-{kind:?}", std::process::id())).unwrap();
    let probed = Probed::start(Some(&netns), kind).unwrap();
    let mut text = daemon::global(&scratch);
    text.push_str("workers = 1\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:8080\"]\n");
    text.push_str("protocol = \"http\"\n[[listener.route]]\nservice = \"s0\"\n");
    for service in 0..services {
        let _ = writeln!(text, "[[service]]\nname = \"s{service}\"\nprobe = {{ {probe} }}");
        for number in 0..backends {
            let _ = writeln!(text, "[[service.backend]]\naddress = \"{}\"", probed.address(number));
        }
    }
    let config = scratch.write("steerage.toml", &text).unwrap();
    let log = scratch.join("steerage.log");
    let binary = daemon::binary().unwrap();
    let daemon = Daemon::serving(&netns, &binary, &config, &log).unwrap();
    Host { daemon, probed, _netns: netns, _scratch: scratch }
}

#[test]
fn ten_services_on_a_hundred_addresses_send_a_hundred_probes_an_interval() {
    const INTERVAL_MS: u64 = 500;
    let started = Instant::now();
    let probe = format!("kind = \"http\", path = \"/health\", interval = \"{INTERVAL_MS}ms\"");
    let host = host(Kind::Http, 10, 100, &probe);
    let status = host.daemon.status().unwrap();
    let services = status["services"].as_array().unwrap();
    assert_eq!(services.len(), 10);
    assert!(services.iter().all(|service| service["available"] == 100), "1,000 backends are up");
    wait::for_condition("five probes of each", PATIENCE, || {
        let asked = host.probed.asked();
        asked.len() == 100 && asked.values().all(|count| *count >= 5)
    })
    .unwrap();
    let asked: u64 = host.probed.asked().values().sum();
    // The shortest that an interval can be, and the two probes that may come before it.
    let intervals = started.elapsed().as_millis() as u64 * 10 / (INTERVAL_MS * 9) + 2;
    assert!(asked <= 100 * intervals, "{asked} probes in {intervals} intervals");
    // All ten services show them, and the daemon's count is that of the backends.
    let status = host.daemon.status().unwrap();
    let of = |service: &Value| service["backends"][7]["probe"]["ok"].as_u64().unwrap();
    let counts: Vec<u64> = status["services"].as_array().unwrap().iter().map(of).collect();
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    assert!(counts[0] <= host.probed.asked()[&host.probed.address(7)], "{counts:?}");
}

#[test]
fn a_grpc_backend_is_up_while_it_says_that_it_serves() {
    let host = host(Kind::Grpc, 1, 2, "kind = \"grpc\", interval = \"100ms\", rise = 2, fall = 2");
    host.daemon.wait_available(2).unwrap();
    host.probed.set_serving(false);
    host.daemon.wait_available(0).unwrap();
    let status = host.daemon.status().unwrap();
    let backend = &status["services"][0]["backends"][0];
    assert_eq!(backend["state"], "down");
    assert_eq!(backend["why"], "probe: grpc: NOT_SERVING");
    assert!(backend["probe"]["failed"].as_u64().unwrap() >= 2, "{backend}");
    host.probed.set_serving(true);
    host.daemon.wait_available(2).unwrap();
}

/// Files of a certificate for `api.internal` that ends with this year, signed by `authority`.
fn certify(scratch: &Scratch, authority: &CertifiedIssuer<'_, KeyPair>, last_year: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["api.internal".to_owned()]).unwrap();
    params.not_after = date_time_ymd(last_year, 12, 31);
    let certificate = params.signed_by(&key, authority).unwrap();
    scratch.write("own.pem", &certificate.pem()).unwrap();
    scratch.write("own.key", &key.serialize_pem()).unwrap();
}

#[test]
fn nginx_is_up_over_tls_while_its_certificate_is_valid() {
    let scratch = Scratch::new(PREFIX).unwrap();
    let netns = Netns::create(format!("{PREFIX}-{}-probes-tls", std::process::id())).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    scratch.write("ca.pem", &authority.pem()).unwrap();
    certify(&scratch, &authority, 4000);
    let directory = scratch.path().display();
    let nginx = format!(
        "daemon off;\nuser root;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n\
         events {{}}\nhttp {{\n access_log off;\n server {{\n listen 127.0.0.1:8443 ssl;\n\
         server_name api.internal;\n ssl_certificate {directory}/own.pem;\n\
         ssl_certificate_key {directory}/own.key;\n location = /health {{ return 200 well; }}\n\
         }}\n}}\n"
    );
    let config = scratch.write("nginx.conf", &nginx).unwrap();
    let mut command = netns.command("nginx");
    command.arg("-c").arg(config);
    let nginx = Process::spawn("nginx", command, &scratch.join("nginx.out")).unwrap();
    netns::wait_for_port(&netns, "127.0.0.1:8443".parse().unwrap(), PATIENCE).unwrap();

    let text = daemon::global(&scratch)
        + "workers = 1\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:8080\"]\n\
           protocol = \"http\"\n[[listener.route]]\nservice = \"app\"\n[[service]]\nname = \"app\"\n\
           probe = { kind = \"https\", path = \"/health\", host = \"api.internal\", rise = 1, fall = 1, \
           interval = \"100ms\", expect = { body = \"well\" }, tls = { ca = \"ca.pem\" } }\n\
           [[service.backend]]\naddress = \"127.0.0.1:8443\"\n";
    let config = scratch.write("steerage.toml", &text).unwrap();
    let (binary, log) = (daemon::binary().unwrap(), scratch.join("steerage.log"));
    let daemon = Daemon::serving(&netns, &binary, &config, &log).unwrap();
    daemon.wait_available(1).unwrap();

    certify(&scratch, &authority, 2020);
    nginx.signal(Signal::HUP).unwrap();
    daemon.wait_available(0).unwrap();
    let why = daemon.status().unwrap()["services"][0]["backends"][0]["why"].clone();
    assert_eq!(why, "probe: tls: certificate expired at 2020-12-31T00:00:00Z");

    certify(&scratch, &authority, 4000);
    nginx.signal(Signal::HUP).unwrap();
    daemon.wait_available(1).unwrap();
}

#[test]
fn failed_requests_bring_the_verdict_of_probes_forward() {
    let service = "balance = \"round_robin\"\n\
        probe = { kind = \"http\", path = \"/health\", interval = \"1h\", fall = 2 }\n";
    let mut stand = Stand::start(&Choices { service, ..Choices::default() }).unwrap();
    let poller = Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    stand.kill_backend(2);
    // By probes alone it would take hours.
    wait::for_condition("the dead backend to be down", PATIENCE, || {
        stand.daemon.status().unwrap()["services"][0]["backends"][1]["state"] == "down"
    })
    .unwrap();
    assert!(poller.stop().iter().all(|sample| sample.answer.is_ok()), "retries hide it");
}
