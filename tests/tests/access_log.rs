//! The access log of a whole daemon: every request has its line, through rotation, reload, upgrade and the
//! death of a worker, and nothing that becomes of the log slows a request.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::wait;
use steerage_tests::certified::{Authority, ask, listener, s_client, stand as certified, tls};
use steerage_tests::stand::{Choices, Stand, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

/// A stand whose daemon logs to what `path` makes of its scratch directory.
struct Logged {
    stand: Stand,
    text: String,
}

impl Logged {
    fn start() -> Self {
        let stand = Stand::start(&Choices::default()).unwrap();
        let text = fs::read_to_string(&stand.config).unwrap();
        Self { stand, text }
    }

    fn log_to(&self, log: &str) -> anyhow::Result<Value> {
        let line = format!("[global]\naccess_log = {log}\n");
        self.stand.reconfigure(&self.text.replacen("[global]\n", &line, 1))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stand.scratch.join(name)
    }

    /// Logs JSON into a file of this name.
    fn log_to_file(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        self.log_to(&format!("{{ path = {path:?} }}")).unwrap();
        path
    }

    fn get(&self, path: &str) -> String {
        self.stand.curl(path, &[]).unwrap().text
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.stand.daemon.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// A figure of all workers.
    fn sum(&self, figure: &str) -> u64 {
        let status = self.stand.daemon.status().unwrap();
        let workers = status["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[figure].as_u64().unwrap()).sum()
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // What is being written now is whole a moment later.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(ToOwned::to_owned).collect()
}

fn wait_for_lines(path: &Path, count: usize) -> Vec<String> {
    let what = format!("{count} lines in {}", path.display());
    wait::for_condition(what, PATIENCE, || lines(path).len() >= count).unwrap();
    lines(path)
}

#[test]
fn a_line_tells_what_became_of_a_request_and_a_reload_changes_what_it_says() {
    let logged = Logged::start();
    let path = logged.log_to_file("access.log");
    let backend = logged.get("/");
    let line: Value = serde_json::from_str(&wait_for_lines(&path, 1)[0]).unwrap();
    assert_eq!((&line["status"], &line["cause"]), (&200.into(), &"done".into()), "{line}");
    assert_eq!(line["service"], "app");
    assert!([name(1), name(2)].iter().any(|name| backend.trim() == name));
    assert!(line["user_agent"].as_str().unwrap().starts_with("curl/"));

    let workers = logged.stand.daemon.workers().unwrap();
    let log = format!("{{ path = {path:?}, format = \"$method $target -> $status $error\" }}");
    logged.log_to(&log).unwrap();
    logged.get("/other");
    assert_eq!(wait_for_lines(&path, 2)[1], "GET /other -> 200 -");

    let other = logged.file("other.log");
    logged.log_to(&format!("{{ path = {other:?}, format = \"$target\" }}")).unwrap();
    logged.get("/there");
    assert_eq!(wait_for_lines(&other, 1), ["/there"]);
    let refused = logged.log_to("{ path = \"/nowhere/at/all\" }").unwrap_err().to_string();
    assert!(refused.contains("/nowhere/at/all") && refused.contains("No such file"), "{refused}");
    let refused = logged.log_to("{ path = \"-\", format = \"$statuss\" }").unwrap_err().to_string();
    assert!(refused.contains("there is no $statuss"), "{refused}");
    logged.get("/still");
    assert_eq!(wait_for_lines(&other, 2)[1], "/still");
    logged.log_to("\"off\"").unwrap();
    logged.get("/unseen");
    logged.log_to(&format!("{{ path = {other:?}, format = \"$target\" }}")).unwrap();
    logged.get("/seen");
    assert_eq!(wait_for_lines(&other, 3)[2..], ["/seen"]);
    assert_eq!(lines(&path).len(), 2);
    assert_eq!(logged.stand.daemon.workers().unwrap(), workers, "nothing was started anew");
}

#[test]
fn rotation_an_upgrade_and_a_stop_under_load_lose_no_line() {
    let mut logged = Logged::start();
    let path = logged.log_to_file("access.log");
    let client = &logged.stand.topology.client;
    let pollers: Vec<_> =
        (0..4).map(|_| Poller::start(client, l7(), Reuse::KeepAlive).unwrap()).collect();
    let mut files = vec![path.clone()];
    for number in 0..5 {
        wait_for_lines(&path, 50);
        let former = logged.file(&format!("access.log.{number}"));
        fs::rename(&path, &former).unwrap();
        logged.signal(Signal::USR1);
        files.push(former);
    }
    // Workers take no notice of it.
    for worker in logged.stand.daemon.workers().unwrap() {
        let pid = Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
        kill_process(pid, Signal::USR1).unwrap();
    }
    wait_for_lines(&path, 50);
    logged.stand.daemon.upgrade(None).unwrap();
    let before = lines(&path).len();
    wait_for_lines(&path, before + 50);
    let samples: Vec<_> = pollers.into_iter().flat_map(Poller::stop).collect();
    assert!(samples.iter().all(|sample| sample.answer.is_ok()));
    logged.signal(Signal::TERM);
    let all = || -> Vec<String> { files.iter().flat_map(|path| lines(path)).collect() };
    let is_whole = || all().len() >= samples.len();
    let _ = wait::for_condition("the last lines are written", PATIENCE, is_whole);
    let all = all();
    assert!(all.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(files.iter().all(|path| !lines(path).is_empty()), "every file has its part");
    assert_eq!(all.len(), samples.len(), "as many lines as requests");
}

#[test]
fn a_reader_that_sleeps_costs_lines_and_no_request() {
    let logged = Logged::start();
    let path = logged.file("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let refused = logged.log_to(&format!("{{ path = {path:?} }}")).unwrap_err().to_string();
    assert!(refused.contains("a FIFO needs a reader"), "{refused}");
    // Read and write: it is open before anybody writes.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    logged.log_to(&format!("{{ path = {path:?} }}")).unwrap();
    let long = "x".repeat(7000);
    let mut connections: Vec<_> = (0..4).map(|_| logged.stand.connect(l7()).unwrap()).collect();
    let (mut requests, began) = (0, Instant::now());
    let mut slowest = Duration::ZERO;
    while logged.sum("log_dropped") == 0 {
        assert!(began.elapsed() < 3 * PATIENCE, "nothing is dropped after {requests} requests");
        for _ in 0..50 {
            for connection in &mut connections {
                let asked = Instant::now();
                assert_eq!(connection.get(&format!("/{long}")).unwrap().status, 200);
                slowest = slowest.max(asked.elapsed());
                requests += 1;
            }
        }
    }
    assert!(slowest < Duration::from_secs(2), "a request waited {slowest:?}");
    // The reader wakes up: what has waited comes, whole, and so does what is new.
    let (found, is_found) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut read = 0;
        for line in BufReader::new(reader).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            read += 1;
            if line["target"] == "/awake" {
                found.send(()).unwrap();
                return read;
            }
        }
        read
    });
    wait::for_condition("there is room again", PATIENCE, || {
        logged.get("/awake");
        is_found.try_recv().is_ok()
    })
    .unwrap();
    assert!(reading.join().unwrap() > 100);
}

#[test]
fn a_supervisor_that_stands_still_holds_no_request_up() {
    let logged = Logged::start();
    let path = logged.log_to_file("access.log");
    let mut connection = logged.stand.connect(l7()).unwrap();
    assert_eq!(connection.get("/first").unwrap().status, 200);
    wait_for_lines(&path, 1);
    logged.signal(Signal::STOP);
    let served = (0..2000).filter(|_| connection.get("/").is_ok_and(|r| r.status == 200)).count();
    logged.signal(Signal::CONT);
    assert_eq!(served, 2000);
    assert_eq!(wait_for_lines(&path, 2001).len(), 2001);
}

#[test]
fn a_full_disk_is_counted_and_said_and_serving_goes_on() {
    let logged = Logged::start();
    logged.log_to("{ path = \"/dev/full\" }").unwrap();
    for _ in 0..10 {
        assert!(!logged.get("/").is_empty());
    }
    let lost = || logged.stand.daemon.status().unwrap()["access_log_lost"].as_u64().unwrap();
    wait::for_condition("all ten are counted", PATIENCE, || lost() == 10).unwrap();
    let log = logged.stand.daemon.log();
    assert_eq!(log.matches("lines of the access log could not be written").count(), 1, "{log}");
}

#[test]
fn log_daemons_get_their_lines() {
    let logged = Logged::start();
    let (syslog, journal) = (logged.file("dev-log"), logged.file("journal"));
    let hear = |daemon: &UnixDatagram| {
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = vec![0; 64 * 1024];
        let length = daemon.recv(&mut text).unwrap();
        text.truncate(length);
        String::from_utf8(text).unwrap()
    };
    let daemon = UnixDatagram::bind(&syslog).unwrap();
    let path = format!("syslog:{}", syslog.display());
    logged.log_to(&format!("{{ path = {path:?}, format = \"$target $status\" }}")).unwrap();
    logged.get("/by-syslog");
    let text = hear(&daemon);
    assert!(text.starts_with("<134>") && text.ends_with("]: /by-syslog 200"), "{text}");
    let daemon = UnixDatagram::bind(&journal).unwrap();
    let path = format!("journald:{}", journal.display());
    logged.log_to(&format!("{{ path = {path:?}, format = \"$target $status\" }}")).unwrap();
    logged.get("/by-journal");
    let text = hear(&daemon);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(field("MESSAGE="), Some("/by-journal 200"), "{text}");
    assert_eq!(field("SYSLOG_IDENTIFIER="), Some("steerage"));
}

#[test]
fn a_backend_that_is_gone_is_named_once_and_not_for_every_request() {
    let mut logged = Logged::start();
    let path = logged.log_to_file("access.log");
    logged.stand.kill_backend(1);
    logged.stand.kill_backend(2);
    let mut failed = 0;
    while failed < 20 {
        failed += usize::from(logged.get("/").starts_with("50"));
    }
    let named = wait_for_lines(&path, failed);
    assert!(named.iter().any(|line| line.contains("\"error\":\"")));
    let log = logged.stand.daemon.log();
    let told = log.lines().filter(|line| line.contains("request failed")).collect::<Vec<_>>();
    assert!(!told.is_empty() && told.len() < 10, "{told:?}");
    for part in ["listener=\"web\"", "service=\"app\"", "backend=", "client=", "cause="] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}

#[test]
fn what_tls_agreed_on_is_in_the_line() {
    let authority = Authority::new().unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    let stand = certified(listener(&[authority.entry("site")], "")).unwrap();
    let text = fs::read_to_string(&stand.config).unwrap();
    let logged = Logged { stand, text };
    let path = logged.log_to_file("access.log");
    for (number, (arguments, version, alpn)) in [
        (["--tls-max", "1.2", "--http1.1"], "TLSv1.2", "http/1.1"),
        (["--tlsv1.3", "--http2", "--no-sessionid"], "TLSv1.3", "h2"),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = ask(&logged.stand, &authority, "site.test", "/", &arguments).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let line = wait_for_lines(&path, number + 1)[number].clone();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["tls_version"], version, "{line}");
        assert_eq!(line["tls_alpn"], alpn, "{line}");
        assert_eq!(line["tls_sni"], "site.test", "{line}");
        assert_eq!(line["tls_resumed"], false, "{line}");
        assert!(line["tls_cipher"].as_str().unwrap().starts_with("TLS"), "{line}");
    }
}

/// The promise: whoever got no session has a line too, with the alert or whatever else ended it.
#[test]
fn handshakes_that_fail_have_lines_by_name() {
    let authority = Authority::new().unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    let passed = format!(
        "[[listener]]\nname = \"passed\"\nprotocol = \"tls\"\nbind = [\"{}:8445\"]\n\
         [[listener.route]]\nsni = \"known.test\"\nservice = \"app\"\n",
        tls().ip()
    );
    let keys = "tls = { handshake_timeout = \"300ms\", min_version = \"1.3\" }";
    let stand = certified(listener(&[authority.entry("site")], keys) + &passed).unwrap();
    let text = fs::read_to_string(&stand.config).unwrap();
    let logged = Logged { stand, text };
    let path = logged.log_to_file("access.log");
    let _ = s_client(&logged.stand, &["-servername", "site.test", "-verify_return_error"]);
    let _ = ask(&logged.stand, &authority, "site.test", "/", &["--tls-max", "1.2"]).unwrap();
    // Nothing at all, and a request without TLS.
    let mut silent = logged.stand.connect(tls()).unwrap().into_stream();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let mut lost = logged.stand.connect(tls()).unwrap().into_stream();
    lost.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let _ = lost.read_to_end(&mut Vec::new());
    // A name that nobody is known by.
    let connect = format!("{}:8445", tls().ip());
    let _ = s_client(&logged.stand, &["-connect", &connect, "-servername", "other.test"]);
    let lines = wait_for_lines(&path, 5);
    let mut facts: Vec<_> = lines
        .iter()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let of = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            assert_eq!((of("protocol"), of("status")), ("tls".into(), "-".into()), "{line}");
            [of("listener"), of("cause"), of("error"), of("tls_sni")].join(" ")
        })
        .collect();
    // Each worker has its own.
    facts.sort_unstable();
    assert_eq!(
        facts,
        [
            "passed no_route no_route other.test",
            "secure handshake_failed not_tls -",
            "secure handshake_failed received_unknown_ca site.test",
            "secure handshake_failed sent_protocol_version site.test",
            "secure handshake_timeout timeout -",
        ]
    );
}
