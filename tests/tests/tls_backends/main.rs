//! Backends that speak TLS: servers that people use, and what goes wrong with them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod servers;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use steerage::stats::status::L7;
use steerage_lab::poller::Reuse;
use steerage_lab::wait;
use steerage_tests::load::{self, Load, Shot};

use servers::{Authority, Host, NAME, count, web};

const PATIENCE: Duration = Duration::from_secs(20);

const TLS: &str = "upstream_tls = { ca = \"ca.pem\", sni = \"api.internal\" }";

/// Requests of the runs that are counted.
const REQUESTS: u64 = 10_000;

const CLIENTS: u64 = 8;

/// What of the connections is counted.
#[derive(Debug)]
struct Tally {
    created: u64,
    reused: u64,
    full: u64,
    resumed: u64,
    failed: u64,
}

impl Tally {
    fn of(l7: &L7) -> Self {
        Self {
            created: l7.connections_created,
            reused: l7.connections_reused,
            full: count(&l7.handshakes, "full"),
            resumed: count(&l7.handshakes, "resumed"),
            failed: count(&l7.handshakes, "failed"),
        }
    }
}

/// The promise: connections over TLS are kept as plain ones are, and where a server closes them the next
/// handshake is a short one.
#[test]
fn ten_thousand_requests_share_connections_and_sessions() {
    let (mut host, _) = Host::new();
    let few = "keepalive_requests 100;";
    let servers = host.server(8441, "ssl", "own", "http1", few)
        + &host.server(8442, "ssl", "own", "old", &format!("{few} ssl_protocols TLSv1.2;"))
        + &host.server(8443, "ssl http2", "own", "http2", few);
    host.nginx(&servers, 8443);
    let auto = format!("upstream = {{ protocol = \"auto\" }}\n{TLS}");
    let http1 = format!("upstream = {{ protocol = \"http1\" }}\n{TLS}");
    host.start(&[("http1", &auto, &[8441]), ("old", &http1, &[8442]), ("http2", &auto, &[8443])]);
    for (service, name) in ["http1", "old", "http2"].into_iter().enumerate() {
        let answers = host.ask_many(&format!("/{name}"), CLIENTS, REQUESTS / CLIENTS);
        assert_eq!(answers, [(format!("200 {name}"), REQUESTS)]);
        let tally = Tally::of(&host.l7(service, 0));
        println!("{name}: {REQUESTS} requests, {tally:?}");
        let Tally { created, reused, full, resumed, failed } = tally;
        assert_eq!((created, failed), (full + resumed, 0), "{name}");
        // Each serves a hundred requests, and two workers ask.
        assert!(created >= REQUESTS / 100, "{name}");
        if name == "http2" {
            assert!(created <= REQUESTS / 100 * 2, "{name}: {created} connections");
        } else {
            assert_eq!(created + reused, REQUESTS, "{name}: every request was on one of both");
        }
        // The first ones are made at once, before there is anything to resume.
        assert!(resumed * 10 >= created * 7, "{name}: {resumed} of {created} resumed");
    }
}

/// The promise: servers other than nginx do.
#[test]
fn openssl_and_node_are_backends() {
    let (mut host, _) = Host::new();
    let s_server = ["s_server", "-accept", "8444", "-cert", "own.pem", "-key", "own.key", "-www"];
    host.serve("openssl", &s_server, 8444);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/secure.js");
    host.serve("node", &[script, "own.pem", "own.key", "8445"], 8445);
    let http2 = format!("upstream = {{ protocol = \"h2\" }}\n{TLS}");
    host.start(&[("node", TLS, &[8445]), ("h2", &http2, &[8445]), ("openssl", TLS, &[8444])]);
    // It ends each answer by the end of its connection, after close_notify: nothing is missing.
    let mut client = host.connect();
    for _ in 0..20 {
        let page = client.get("/openssl").unwrap();
        assert_eq!(page.status, 200);
        assert!(page.text().contains("Ciphers supported in s_server"), "{}", page.text());
    }
    let tally = Tally::of(&host.l7(2, 0));
    println!("openssl: {tally:?}");
    assert_eq!((tally.created, tally.failed), (20, 0), "{tally:?}");
    assert!(tally.resumed >= 15, "{tally:?}");
    for path in ["/node", "/h2"] {
        let reply = host.curl(path, &[]);
        assert_eq!((reply.status, &*reply.text), (200, "2.0 https"), "{reply:?}");
        let body = "x".repeat(300_000);
        let file = host.scratch.write("upload", &body).unwrap();
        let data = format!("@{}", file.display());
        let reply = host.curl(&format!("{path}/echo"), &["--data-binary", &data]);
        assert_eq!(reply.status, 200);
        assert!(reply.text == body, "{path}: {} bytes came back", reply.text.len());
    }
    // Whoever may choose is asked for tunnels by HTTP/1.1.
    let mut tunnel = host.connect();
    tunnel
        .send(
            b"GET /node/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello",
        )
        .unwrap();
    let mut stream = tunnel.into_stream();
    let mut heard = String::new();
    std::io::Read::read_to_string(&mut stream, &mut heard).unwrap();
    assert!(heard.starts_with("HTTP/1.1 101 "), "{heard}");
    assert!(heard.ends_with("\r\n\r\nhello"), "{heard}");
}

/// The promise: what is wrong with a backend is said by name, and costs no request while there is
/// another backend.
#[test]
fn each_fault_has_its_class_and_another_backend_serves() {
    let (mut host, authority) = Host::new();
    authority.certify(&host.scratch, "other-name", "other.internal", 4000);
    authority.certify(&host.scratch, "expired", NAME, 2020);
    Authority::new("Strange").certify(&host.scratch, "strange", NAME, 4000);
    let cases = [
        ("name", 8451, "other-name", "tls_certificate_name"),
        ("expired", 8452, "expired", "tls_certificate_expired"),
        ("issuer", 8453, "strange", "tls_certificate_issuer"),
        ("plain", 8454, "own", "no_tls"),
    ];
    let mut servers = host.server(8450, "ssl", "own", "good", "");
    for (name, port, certificate, _) in cases {
        let listen = if name == "plain" { "" } else { "ssl" };
        servers += &host.server(port, listen, certificate, "bad", "");
    }
    host.nginx(&servers, 8450);
    let only = format!("{TLS}\nejection = {{ consecutive = 0, ratio = 1.0 }}");
    let names = cases.map(|(name, ..)| (name, format!("{name}-or-good")));
    let ports = cases.map(|(_, port, ..)| ([port], [port, 8450]));
    let mut services: Vec<(&str, &str, &[u16])> = Vec::new();
    for ((name, both), (alone, with_good)) in names.iter().zip(&ports) {
        services.push((name, &only, alone));
        services.push((both, TLS, with_good));
    }
    host.start(&services);
    for (at, (name, _, _, class)) in cases.into_iter().enumerate() {
        let reply = host.curl(&format!("/{name}"), &["-i", "-X", "POST", "-d", "order"]);
        assert_eq!(reply.status, 502, "{name}");
        assert!(
            reply.text.contains(&format!("x-steerage-error: {class}")),
            "{name}: {}",
            reply.text
        );
        let l7 = host.l7(2 * at, 0);
        assert_eq!(count(&l7.failures, "tls_handshake"), 1, "{name}: once, for one backend");
        assert_eq!(count(&l7.handshakes, "failed"), 1, "{name}");
        let answers = host.ask_many(&format!("/{name}-or-good"), 2, 50);
        assert_eq!(answers, [("200 good".to_owned(), 100)], "{name}");
        let (bad, good) = (host.l7(2 * at + 1, 0), host.l7(2 * at + 1, 1));
        let failed = count(&bad.failures, "tls_handshake");
        assert_eq!(count(&bad.replays, "connect"), failed, "{name}: each was tried elsewhere");
        assert!((5..=20).contains(&failed), "{name}: {failed} until it was ejected");
        assert_eq!((bad.ejections, good.failed()), (1, 0), "{name}");
    }
    let log = host.daemon().log();
    for said in [
        "certificate is not for api.internal, but for other.internal",
        "certificate expired at 2020-12-31T00:00:00Z",
        "certificate of an unknown issuer",
        "the backend speaks no TLS",
    ] {
        let times = log.lines().filter(|line| line.contains(said)).count();
        assert!(
            (1..=8).contains(&times),
            "{said}: {times} lines, not one for each request:\n{log}"
        );
    }
    let metrics = host.curl_metrics();
    let line = "steerage_backend_tls_handshakes_total{service=\"name\",backend=\"127.0.0.1:8451\",\
                kind=\"failed\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

impl Host {
    fn curl_metrics(&self) -> String {
        let reply = steerage_lab::client::curl(&self.netns, &["http://127.0.0.1:9900/metrics"]);
        reply.unwrap().text
    }

    fn load(&self, rate: u32) -> Load {
        let plan = load::Plan {
            address: web(),
            rate,
            reuse: Reuse::KeepAlive,
            patience: Duration::from_secs(10),
            from: None,
        };
        Load::start(&self.netns, plan).unwrap()
    }
}

/// How many shots there are, all of them hits.
fn all_hit(shots: &[Shot]) -> usize {
    let failed: Vec<_> = shots.iter().filter(|shot| shot.answer.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), shots.len(), failed[0]);
    shots.len()
}

/// Waits until some requests that were due from now on have ended.
fn some_more(load: &Load) {
    let now = Instant::now();
    let more = || load.since(now).len() >= 100;
    wait::for_condition("a hundred more requests", PATIENCE, more).unwrap();
}

/// The promise: a backend that asks who is there gets the certificate, from requests and from probes; the
/// key is read by the supervisor alone.
#[test]
fn backends_that_verify_clients_know_us() {
    let (mut host, authority) = Host::new();
    authority.certify(&host.scratch, "client", "steerage.internal", 4000);
    let key = host.scratch.join("client.key");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, mode).unwrap();
    let directory = host.scratch.path().display().to_string();
    let verify = format!("ssl_client_certificate {directory}/ca.pem;\nssl_verify_client on;");
    let server = host.server(8461, "ssl http2", "own", "known $ssl_client_s_dn", &verify);
    host.nginx(&server, 8461);
    let probe = "probe = { kind = \"https\", interval = \"100ms\", rise = 1, fall = 1 }";
    let unknown = format!("{TLS}\n{probe}");
    let tls = "upstream_tls = { ca = \"ca.pem\", sni = \"api.internal\", cert = \"client.pem\", \
               key = \"client.key\" }";
    let known = format!("{tls}\n{probe}");
    host.start(&[("known", &known, &[8461]), ("unknown", &unknown, &[8461])]);
    wait::for_condition("what probes say", PATIENCE, || {
        let status = host.daemon().status().unwrap();
        let state = |service: usize| status["services"][service]["backends"][0]["state"].clone();
        (state(0), state(1)) == ("up".into(), "down".into())
    })
    .unwrap();
    assert_eq!(host.curl("/known", &[]).text.trim_end(), "known CN=rcgen self signed cert");
    let shown = host.daemon().ask(&["config", "show"]).unwrap();
    assert!(shown.contains("client.key") && !shown.contains("PRIVATE"), "{shown}");

    // A key that is another's is refused, with its file; what serves goes on.
    authority.certify(&host.scratch, "other", "steerage.internal", 4000);
    std::fs::rename(host.scratch.join("other.key"), &key).unwrap();
    let refused = host.reload().unwrap_err();
    assert!(refused.contains("client.key: is not the key of"), "{refused}");
    assert_eq!(host.curl("/known", &[]).status, 200);
    // With its certificate it is taken, and nobody need say so.
    std::fs::rename(host.scratch.join("other.pem"), host.scratch.join("client.pem")).unwrap();
    let taken = "service \"known\": upstream_tls.cert: ";
    let is_taken = || host.daemon().log().lines().any(|line| line.contains(taken));
    wait::for_condition("the other certificate", PATIENCE, is_taken).unwrap();
    let log = host.daemon().log();
    let line = log.lines().find(|line| line.contains(taken)).unwrap();
    assert!(line.len() < 2000, "which, not every byte of it: {line}");
    assert_eq!(host.curl("/known", &[]).status, 200);
}

/// The promise: a backend renews its certificate, and its authority, and no request notices.
#[test]
fn a_backend_renews_its_certificate_under_load() {
    let (mut host, authority) = Host::new();
    let next = Authority::new("Next");
    host.scratch.write("ca.pem", &(authority.pem() + &next.pem())).unwrap();
    let server = host.server(8471, "ssl", "own", "good", "keepalive_requests 50;");
    host.nginx(&server, 8471);
    let nginx = host.nginx_pid(8471);
    host.start(&[("app", TLS, &[8471])]);
    let load = host.load(300);
    some_more(&load);
    for signer in [&authority, &next, &authority, &next] {
        signer.certify(&host.scratch, "own", NAME, 4000);
        rustix::process::kill_process(nginx, Signal::HUP).unwrap();
        some_more(&load);
    }
    println!("{} requests, {:?}", all_hit(&load.stop()), Tally::of(&host.l7(0, 0)));

    // Who is trusted is read anew as soon as it is written.
    host.scratch.write("ca.pem", &authority.pem()).unwrap();
    let is_distrusted = || {
        let reply = host.curl("/", &["-i"]);
        reply.text.contains("x-steerage-error: tls_certificate_issuer")
    };
    wait::for_condition("distrust", PATIENCE, is_distrusted).unwrap();
    host.scratch.write("ca.pem", &next.pem()).unwrap();
    wait::for_condition("trust", PATIENCE, || host.curl("/", &[]).status == 200).unwrap();
}

impl Host {
    fn nginx_pid(&self, port: u16) -> rustix::process::Pid {
        let file = self.scratch.join(&format!("nginx-{port}.pid"));
        let text = std::fs::read_to_string(file).unwrap();
        rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

/// The promise: TLS is turned on, off and changed under load, and no request fails.
#[test]
fn reloads_turn_tls_on_and_off_under_load() {
    let (mut host, _) = Host::new();
    let servers = host.server(8481, "ssl http2", "own", "secure", "")
        + &host.server(8482, "", "own", "plain", "");
    host.nginx(&servers, 8481);
    let lax = "upstream_tls = { verify = false, sni = \"api.internal\" }";
    let old = format!("upstream = {{ protocol = \"http1\" }}\n{TLS}");
    host.start(&[("app", TLS, &[8481])]);
    let load = host.load(300);
    some_more(&load);
    for (keys, port, says) in [
        ("", 8482, "plain"),
        (TLS, 8481, "secure"),
        (lax, 8481, "secure"),
        (&*old, 8481, "secure"),
        ("", 8482, "plain"),
        (TLS, 8481, "secure"),
    ] {
        host.reconfigure(&[("app", keys, &[port])]).unwrap();
        let now = Instant::now();
        some_more(&load);
        let since = load.since(now);
        let others = since.iter().filter(|shot| shot.answer.as_deref() != Ok(says)).count();
        assert_eq!(others, 0, "{keys}: what is in force counts for the next request");
    }
    println!("{} requests", all_hit(&load.stop()));
}
