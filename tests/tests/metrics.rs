//! Metrics, by who reads them: Prometheus itself, its linter, and what operators do with the daemon
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use steerage_lab::client::curl;
use steerage_lab::process::{self, Process};
use steerage_lab::{command, wait};
use steerage_tests::stand::{Choices, Stand, l7};

const PATIENCE: Duration = Duration::from_secs(30);

const URL: &str = "http://127.0.0.1:9900/metrics";

fn scrape(stand: &Stand, arguments: &[&str]) -> String {
    let answer = curl(&stand.topology.balancer, &[arguments, &[URL]].concat()).unwrap();
    assert_eq!(answer.status, 200);
    answer.text
}

/// The sum over all series of a metric whose labels have `of` in them.
fn sum(text: &str, name: &str, of: &str) -> f64 {
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && line.contains(of)
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn request(stand: &Stand, count: usize) {
    let mut connection = stand.connect(l7()).unwrap();
    for _ in 0..count {
        assert_eq!(connection.get("/").unwrap().status, 200);
    }
}

/// `promtool check metrics` of what is exported has nothing to say.
#[test]
fn the_linter_of_prometheus_finds_nothing() {
    let stand =
        Stand::start(&Choices { tcp_vip: true, udp_vip: true, ..Choices::default() }).unwrap();
    request(&stand, 3);
    assert_eq!(stand.curl("/nowhere", &["-H", "Host:"]).unwrap().status, 400);
    let text = scrape(&stand, &[]);
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut lint = lint.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lint.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = lint.wait_with_output().unwrap();
    let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{}{}", text_of(&said.stdout), text_of(&said.stderr));
    assert_eq!(text_of(&said.stdout) + &text_of(&said.stderr), "");
}

#[test]
fn the_alerts_that_are_shipped_do_what_their_tests_say() {
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus");
    for arguments in [["check", "rules", "steerage.rules.yml"], ["test", "rules", "tests.yml"]] {
        command::output(Command::new("promtool").args(arguments).current_dir(packaging)).unwrap();
    }
}

/// Prometheus takes it as OpenMetrics, which it asks for, and evaluates the alerts on it.
#[test]
fn prometheus_scrapes_it_and_the_alerts_work_on_it() {
    let mut stand = Stand::start(&Choices::default()).unwrap();
    request(&stand, 5);
    let open = scrape(&stand, &["-H", "Accept: application/openmetrics-text; version=1.0.0"]);
    assert!(open.ends_with("# EOF\n"), "{open}");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus/steerage.rules.yml");
    let config = stand.scratch.write(
        "prometheus.yml",
        &format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules}]\n\
             scrape_configs:\n- job_name: steerage\n  static_configs:\n  - targets: ['127.0.0.1:9900']\n",
        ),
    );
    let data = stand.scratch.join("prometheus");
    let mut command = stand.topology.balancer.command("prometheus");
    command.arg(format!("--config.file={}", config.unwrap().display()));
    command.arg(format!("--storage.tsdb.path={}", data.display()));
    command.arg("--web.listen-address=127.0.0.1:9090");
    let log = stand.scratch.join("prometheus.log");
    let _prometheus = Process::spawn("prometheus", command, &log).unwrap();
    let ask = |path: &str| -> Option<serde_json::Value> {
        let url = format!("http://127.0.0.1:9090/api/v1/{path}");
        let answer = curl(&stand.topology.balancer, &["-g", &url]).ok()?;
        serde_json::from_str(&answer.text).ok()
    };
    wait::for_condition("a scrape", PATIENCE, || {
        let found = ask("query?query=steerage_listener_responses_total{class=\"2xx\"}");
        let value = found
            .and_then(|found| found["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok());
        value == Some(5.0)
    })
    .unwrap();
    let targets = ask("targets").unwrap();
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()));
    let kinds = ask("metadata?metric=steerage_backend_request_seconds").unwrap();
    let kind = &kinds["data"]["steerage_backend_request_seconds"][0];
    assert_eq!((&kind["type"], &kind["unit"]), (&"histogram".into(), &"seconds".into()));
    for backend in &mut stand.backends {
        backend.take();
    }
    wait::for_condition("the alert", PATIENCE, || {
        let alerts = ask("alerts").unwrap_or_default();
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|alert| alert["labels"]["alertname"] == "SteerageServiceWithoutBackends")
    })
    .unwrap();
    let rules = ask("rules").unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    for rule in rules {
        assert_eq!(rule["lastError"].as_str().unwrap_or_default(), "", "{rule}");
    }
}

/// What has been counted, by listener, route and worker, stays through all that operators and accidents do.
#[test]
fn counters_survive_reload_respawn_and_upgrade() {
    // What is written is taken when it is asked for, and once.
    let choices = Choices { workers: 1, global: "watch = false\n", ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    let count = |stand: &Stand| -> BTreeMap<&str, f64> {
        let text = scrape(stand, &[]);
        [
            ("steerage_listener_responses_total", "class=\"2xx\""),
            ("steerage_listener_connections_accepted_total", "web"),
            ("steerage_listener_request_seconds_count", "web"),
            ("steerage_route_responses_total", "any host, any path"),
            ("steerage_route_request_seconds_count", "app"),
            ("steerage_worker_accepted_total", ""),
            ("steerage_worker_starts_total", ""),
            ("steerage_worker_loop_lag_seconds_count", ""),
            ("steerage_backend_responses_total", "class=\"2xx\""),
            ("steerage_backend_request_seconds_count", ""),
            ("steerage_backend_first_byte_seconds_count", ""),
            ("steerage_config_reloads_total", ""),
        ]
        .map(|(name, of)| (name, sum(&text, name, of)))
        .into()
    };
    let mut before = count(&stand);
    let mut check = |stand: &Stand, what: &str| {
        request(stand, 10);
        wait::for_condition("the requests to be counted", PATIENCE, || {
            let now = count(stand);
            now["steerage_listener_request_seconds_count"]
                >= before["steerage_listener_request_seconds_count"] + 10.0
        })
        .unwrap();
        let now = count(stand);
        for (name, value) in &now {
            let grown = if name.contains("responses") || name.contains("request_seconds") {
                10.0
            } else {
                0.0
            };
            assert!(*value >= before[name] + grown, "{what}: {name} {value}, was {before:?}");
        }
        before = now;
    };
    check(&stand, "at first");
    // The same routes and backends, and a listener before the one that was there.
    let text = choices.config(&stand.scratch);
    let first = "[[listener]]\nname = \"first\"\nbind = [\"127.0.0.1:7999\"]\nprotocol = \"http\"\n\
                 [[listener.route]]\nservice = \"app\"\n";
    let changed = text.replacen("[[listener]]", &format!("{first}[[listener]]"), 1);
    stand.reconfigure(&changed).unwrap();
    check(&stand, "after a reload");
    // What is no configuration the command would not even ask for.
    stand.write_config("nonsense").unwrap();
    let daemon = process::pid(stand.daemon.pid()).unwrap();
    rustix::process::kill_process(daemon, Signal::HUP).unwrap();
    let one = "steerage_config_reloads_total{result=\"refused\"} 1\n";
    wait::for_condition("a refusal", PATIENCE, || scrape(&stand, &[]).contains(one)).unwrap();
    let refused = scrape(&stand, &[]);
    assert!(refused.contains("steerage_config_reload_refused 1\n"));
    stand.reconfigure(&changed).unwrap();
    let victim = stand.daemon.workers().unwrap()[0];
    rustix::process::kill_process(process::pid(victim).unwrap(), Signal::KILL).unwrap();
    wait::for_condition("another worker", PATIENCE, || {
        stand.daemon.workers().is_ok_and(|workers| !workers.is_empty() && workers[0] != victim)
    })
    .unwrap();
    check(&stand, "after a worker's death");
    let killed = scrape(&stand, &[]);
    assert_eq!(sum(&killed, "steerage_worker_starts_total", "cause=\"killed\""), 1.0);
    assert!(sum(&killed, "steerage_worker_resident_memory_bytes", "") > 1e6);
    for _ in 0..2 {
        stand.daemon.upgrade(None).unwrap();
        stand.daemon.wait_available(2).unwrap();
        check(&stand, "after an upgrade");
    }
    let last = scrape(&stand, &[]);
    assert!(last.contains(one), "{last}");
    assert!(last.contains("steerage_config_reload_refused 0\n"));
}
