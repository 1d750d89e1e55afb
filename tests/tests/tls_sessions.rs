//! Sessions outlive what happens to the daemon, and certificates change under clients that notice nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion, version,
};
use steerage_lab::{process, wait};
use steerage_tests::certified::{Authority, handshakes, listener, listener_at, stand, tls};
use steerage_tests::stand::Stand;

const PATIENCE: Duration = Duration::from_secs(30);

/// A client that makes a connection for each request, and resumes its session if it can.
#[derive(Clone)]
struct Client {
    config: Arc<ClientConfig>,
}

/// What came of a connection.
struct Made {
    is_resumed: bool,
    /// The server's certificate.
    shown: Vec<u8>,
}

impl Client {
    fn new(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config) }
    }

    /// One that never resumes.
    fn forgetful(authority: &Authority) -> Self {
        let mut client = Self::new(authority, rustls::ALL_VERSIONS);
        Arc::make_mut(&mut client.config).resumption = rustls::client::Resumption::disabled();
        client
    }

    /// One request on a connection of its own, from where the thread is.
    fn ask(&self, address: SocketAddr, name: &str) -> std::io::Result<Made> {
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(self.config.clone(), server).unwrap();
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(session, socket);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        // An end without `close_notify` is an error.
        stream.read_to_end(&mut answer)?;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        Ok(Made {
            is_resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            shown: chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default(),
        })
    }

    /// The same on the client's host.
    fn ask_from(&self, stand: &Stand, address: SocketAddr) -> Made {
        stand.topology.client.enter(|| self.ask(address, "site.test")).unwrap().unwrap()
    }
}

fn site() -> Authority {
    let authority = Authority::new().unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    authority
}

#[test]
fn sessions_are_resumed_on_every_worker_after_all_that_can_happen_to_the_daemon() {
    let authority = site();
    let mut stand = stand(listener(&[authority.entry("site")], "")).unwrap();
    let clients = [&[&version::TLS12][..], &[&version::TLS13]].map(|v| Client::new(&authority, v));
    let (mut made, mut resumed) = (0, 0);
    let mut workers = std::collections::BTreeSet::new();
    for round in 0..10 {
        for (client, of) in clients.iter().zip(["1.2", "1.3"]) {
            for _ in 0..100 {
                let is_resumed = client.ask_from(&stand, tls()).is_resumed;
                // The first of each has nothing to resume.
                made += 1;
                resumed += u64::from(is_resumed);
                assert!(is_resumed || round == 0, "round {round}, TLS {of}");
            }
        }
        workers.extend(stand.daemon.workers().unwrap());
        match round {
            1 => {
                let text = fs::read_to_string(&stand.config).unwrap();
                let text = text.replacen("[[service]]", "[[service]]\npanic_percent = 7\n", 1);
                stand.reconfigure(&text).unwrap();
            }
            3 => {
                let victim = stand.daemon.workers().unwrap()[0];
                kill_process(process::pid(victim).unwrap(), Signal::KILL).unwrap();
                wait::for_condition("its successor", PATIENCE, || {
                    let now = stand.daemon.workers().unwrap_or_default();
                    now.len() == 2 && !now.contains(&victim)
                })
                .unwrap();
            }
            5 => drop(stand.daemon.upgrade(None).unwrap()),
            // Two former keys open what they have sealed.
            6 | 7 => drop(stand.daemon.ask(&["rotate-tickets"]).unwrap()),
            8 => {
                // A killed supervisor: its workers serve on, and the next one's have the same keys.
                let former = stand.daemon.pid();
                kill_process(process::pid(former).unwrap(), Signal::KILL).unwrap();
                wait::for_condition("its end", PATIENCE, || stand.daemon.status().is_err())
                    .unwrap();
                stand.daemon.leave_pins();
                stand.daemon = stand.successor().unwrap();
                stand.daemon.wait_available(2).unwrap();
            }
            _ => {}
        }
    }
    println!("{resumed} of {made} resumed, by {} workers", workers.len());
    assert_eq!(made, 2000);
    assert!(resumed * 1000 >= made * 990, "{resumed} of {made}");
    assert!(workers.len() >= 6, "{workers:?}");
    assert!(handshakes(&stand, "resumed").unwrap() > 0);
    // After the third key nothing older opens.
    for _ in 0..3 {
        stand.daemon.ask(&["rotate-tickets"]).unwrap();
    }
    for client in &clients {
        assert!(!client.ask_from(&stand, tls()).is_resumed);
        assert!(client.ask_from(&stand, tls()).is_resumed);
    }
}

#[test]
fn a_session_opens_no_listener_with_other_rules_for_clients() {
    let authority = site();
    let other = (tls().ip(), 8444).into();
    let auth = format!("client_auth = {{ mode = \"optional\", ca = \"{}\" }}", authority.ca());
    let more = listener(&[authority.entry("site")], "")
        + &listener_at("other", other, &[authority.entry("site")], &auth);
    let stand = stand(more).unwrap();
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let client = Client::new(&authority, versions);
        assert!(!client.ask_from(&stand, tls()).is_resumed);
        assert!(client.ask_from(&stand, tls()).is_resumed);
        assert!(!client.ask_from(&stand, other).is_resumed);
        assert!(client.ask_from(&stand, other).is_resumed);
        assert!(!client.ask_from(&stand, tls()).is_resumed);
    }
}

/// Clients that shake hands all the time, each time anew.
struct Load {
    is_over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(stand: &Stand, authority: &Authority) -> Self {
        let (is_over, made, failed) = Default::default();
        let mut load = Self { is_over, made, failed, threads: Vec::new() };
        for _ in 0..3 {
            let client = Client::forgetful(authority);
            let (is_over, made, failed) =
                (load.is_over.clone(), load.made.clone(), load.failed.clone());
            // A thread keeps the host that it was started on.
            let start = || {
                std::thread::spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        match client.ask(tls(), "site.test") {
                            Ok(_) => made.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                eprintln!("a client failed: {error}");
                                failed.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                })
            };
            load.threads.push(stand.topology.client.enter(start).unwrap());
        }
        load
    }

    /// Ends it; gives how many connections were made and how many failed.
    fn stop(self) -> (u64, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (self.made.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// The certificate in a file.
fn leaf(authority: &Authority, file: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(authority.file(file)).unwrap().to_vec()
}

/// What the status says of a certificate.
fn known(stand: &Stand, file: &str) -> serde_json::Value {
    let status = stand.daemon.status().unwrap();
    let all = status["certificates"].as_array().unwrap().clone();
    let ends = |one: &&serde_json::Value| one["cert"].as_str().unwrap().ends_with(file);
    all.iter().find(ends).unwrap().clone()
}

#[test]
fn certificates_change_under_load_and_a_broken_one_changes_nothing() {
    let authority = site();
    authority.sign("other", &["other.test"]).unwrap();
    let entries = [authority.entry("site"), authority.entry("other")];
    let stand = stand(listener(&entries, "")).unwrap();
    let load = Load::start(&stand, &authority);
    let asking = Client::forgetful(&authority);
    let serves = |name: &str, leaf: &[u8]| {
        let ask = || asking.ask(tls(), name).unwrap().shown;
        let shown = || stand.topology.client.enter(ask).unwrap();
        wait::for_condition(format!("{name} to be new"), PATIENCE, || shown() == leaf).unwrap();
    };
    // By what the kernel tells of the files, with the key first: for a moment they do not belong together.
    for _ in 0..10 {
        authority.sign("site", &["site.test"]).unwrap();
        serves("site.test", &leaf(&authority, "site.pem"));
    }
    // By order.
    stand
        .reconfigure(&fs::read_to_string(&stand.config).unwrap().replacen(
            "[global]\n",
            "[global]\nwatch = false\n",
            1,
        ))
        .unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    let told = stand.reload().unwrap();
    assert!(told["changes"].to_string().contains("site.pem"), "{told}");
    serves("site.test", &leaf(&authority, "site.pem"));
    kill_process(process::pid(stand.daemon.pid()).unwrap(), Signal::HUP).unwrap();
    let good = leaf(&authority, "site.pem");
    // Broken in each way: the reason and the file are told, the former one serves, and others change.
    let site_key = fs::read_to_string(authority.file("site.key")).unwrap();
    let site_pem = fs::read_to_string(authority.file("site.pem")).unwrap();
    authority.sign_for("old", &["site.test"], (2001, 2002)).unwrap();
    let read = |file: &str| fs::read_to_string(authority.file(file)).unwrap();
    let cut = &site_pem[..site_pem.len() / 2];
    for (cert, key, file, why) in [
        (&*site_pem, &*read("other.key"), "site.key", "is not the key of"),
        (&site_pem, "nothing", "site.key", "has no private key"),
        (cut, &site_key, "site.pem", "cannot be parsed"),
        ("", &site_key, "site.pem", "has no certificate"),
        (&read("old.pem"), &read("old.key"), "site.pem", "expired at 2002-01-01"),
    ] {
        authority.replace("site.key", key).unwrap();
        authority.replace("site.pem", cert).unwrap();
        authority.sign("other", &["other.test"]).unwrap();
        let told = stand.reload().unwrap()["changes"].to_string();
        assert!(told.contains(file) && told.contains(why), "{file} {why}: {told}");
        let fault = known(&stand, "site.pem")["fault"].to_string();
        assert!(fault.contains(file) && fault.contains(why), "{fault}");
        assert!(stand.daemon.log().contains(why));
        serves("other.test", &leaf(&authority, "other.pem"));
        serves("site.test", &good);
    }
    let url = "http://127.0.0.1:9900/metrics";
    let metrics = steerage_lab::client::curl(&stand.topology.balancer, &[url]).unwrap().text;
    let sample = |name: &str, file: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(file));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(sample("steerage_certificate_faulty{", "site.pem"), "1");
    assert_eq!(sample("steerage_certificate_faulty{", "other.pem"), "0");
    assert_eq!(
        sample("steerage_certificate_not_after_timestamp_seconds{", "other.pem"),
        "64060588800"
    );
    // A configuration that brings a broken one is not taken.
    let text = fs::read_to_string(&stand.config).unwrap();
    let more = text.replacen(
        "certificates = [",
        &format!("certificates = [{}, ", authority.entry("old")),
        1,
    );
    let refused = format!("{:#}", stand.reconfigure(&more).unwrap_err());
    assert!(refused.contains("old.pem: expired at 2002"), "{refused}");
    stand.write_config(&text).unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    stand.reload().unwrap();
    serves("site.test", &leaf(&authority, "site.pem"));
    assert!(known(&stand, "site.pem")["fault"].is_null());
    let (made, failed) = load.stop();
    println!("{made} handshakes, {failed} failed");
    assert_eq!(failed, 0);
    assert!(made > 500, "{made}");
}

#[test]
fn check_says_what_is_wrong_with_a_certificate_and_where() {
    let authority = site();
    authority.sign_for("old", &["old.test"], (2001, 2002)).unwrap();
    authority.replace("site.key", "nothing").unwrap();
    let entries = [authority.entry("site"), authority.entry("old")];
    let text = format!("{}\n[[service]]\nname = \"app\"\n", listener(&entries, ""));
    let file = authority.file("steerage.toml");
    fs::write(&file, text).unwrap();
    let mut check = std::process::Command::new(steerage_lab::daemon::binary().unwrap());
    let said = steerage_lab::command::output(check.arg("check").arg(&file)).unwrap_err();
    let said = format!("{said:#}");
    assert!(said.contains("site.key: has no private key"), "{said}");
    assert!(said.contains("old.pem: expired at 2002-01-01T00:00:00Z"), "{said}");
}
