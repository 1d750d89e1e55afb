use std::path::Path as FilePath;

use super::*;

const BASE: &str = "
[global]
workers = 2
hash_seed = 'one'
[[listener]]
name = 'web'
bind = ['127.0.0.1:80']
protocol = 'http'
[[listener.route]]
path = '/a'
service = 'api'
[[listener.route]]
service = 'api'
[[service]]
name = 'api'
probe = { kind = 'tcp', interval = '2s' }
[[service.backend]]
address = '10.0.0.1:80'
weight = 5
[[service.backend]]
address = '10.0.0.2:80'
";

fn model(text: &str) -> Model {
    crate::config::parse(FilePath::new("test.toml"), text).unwrap()
}

/// The differences after each `from` became its `to`.
fn lines(edits: &[(&str, &str)]) -> Vec<String> {
    let after = edits.iter().fold(BASE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    diff(&model(BASE), &model(&after)).iter().map(ToString::to_string).collect()
}

#[test]
fn each_difference_is_one_line_with_the_keys_of_the_file() {
    for (edits, expected) in [
        (&[("workers", "workers")][..], &[][..]),
        (
            &[("weight = 5", "weight = 3")],
            &["~ service \"api\": backend 10.0.0.1:80: weight: 5 -> 3"],
        ),
        (
            &[("10.0.0.2", "10.0.0.3")],
            &[
                "- service \"api\": backend 10.0.0.2:80",
                "+ service \"api\": backend 10.0.0.3:80: weight 1",
            ],
        ),
        (
            &[(
                "name = 'api'\n",
                "name = 'api'\nsticky = { cookie = 'S' }\nqueue = { timeout = '1s' }\n",
            )],
            &[
                "~ service \"api\": queue.timeout: 5s -> 1s",
                "~ service \"api\": sticky.cookie: none -> \"S\"",
            ],
        ),
        (
            &[("interval = '2s'", "interval = '500ms'")],
            &[
                "~ service \"api\": probe.interval: 2s -> 500ms",
                "~ service \"api\": probe.timeout: 1s -> 500ms",
            ],
        ),
        (&[("workers = 2", "workers = 3")], &["~ global.workers: 2 -> 3 (needs a restart)"]),
        (&[("'one'", "'two'")], &["~ global.hash_seed: (secret) -> (secret) (needs a restart)"]),
        (
            &[("[[listener]]", "[guard]\ndeny = ['10.0.0.9']\noffenders = false\n[[listener]]")],
            &["~ guard.deny: [] -> [\"10.0.0.9/32\"]"],
        ),
        (&[("workers = 2", "workers = 2\ndrain = '5s'")], &["~ global.drain: 30s -> 5s"]),
        (
            &[("127.0.0.1:80", "127.0.0.1:81")],
            &["~ listener \"web\": bind: [\"127.0.0.1:80\"] -> [\"127.0.0.1:81\"]"],
        ),
        (
            &[("path = '/a'\nservice = 'api'", "path = '/a'\nredirect = { to = '/b${uri}' }")],
            &["~ listener \"web\": route */a/*: end: to service api -> redirect 307 to /b${uri}"],
        ),
        (
            &[("path = '/a'", "path = '/b'")],
            &["- listener \"web\": route */a/*", "+ listener \"web\": route */b/*: to service api"],
        ),
    ] {
        assert_eq!(lines(edits), expected, "{edits:?}");
    }
}

#[test]
fn where_things_stand_in_the_file_makes_no_difference() {
    let other = "[[service]]\nname = 'first'\n[[service]]\nname = 'api'";
    assert_eq!(
        lines(&[("[[service]]\nname = 'api'", other), ("[[listener]]", "\n\n[[listener]]")]),
        ["+ service \"first\": 0 backends"]
    );
}

/// Each key is put in force, or said to need a restart.
#[test]
fn no_key_is_left_out() {
    let token = std::env::temp_dir().join(format!("steerage-plan-{}", std::process::id()));
    std::fs::write(&token, "a-token-that-is-long-enough").unwrap();
    let keys = "drain = '5s'\nmax_connections = 7\ntrusted_proxies = ['10.0.0.0/8']\nwatch = false\n\
        tunnel_sources = ['10.9.0.0/16']\nworker_hang = '9s'\nworker_lifetime = '9h'\n\
        worker_memory = '1GiB'\nworker_seccomp = false\nupgrade_timeout = '9s'\nuser = 'other'\n\
        bpf_dir = '/b'\nadmin = '/a'\nmetrics = 'off'\npid_file = '/p'\nhash_seed = 'two'\n\
        max_flows = 2048\nmax_sources = 2048\nflow_idle = { tcp = '9m', udp = '9s' }\n\
        io = 'epoll'\nlog = { level = 'debug', format = 'json' }\naccess_log = '/l'\n\
        hooks = { on_start = ['/s'] }\nticket_rotation = '9h'\ninstance = 'other'\nworkers = 3";
    let keys = &format!("page_token = '{}'\n{keys}", token.display());
    let (before, after) =
        (model(BASE), model(&BASE.replace("workers = 2\nhash_seed = 'one'", keys)));
    std::fs::remove_file(&token).unwrap();
    let changed: std::collections::BTreeSet<String> = diff(&before, &after)
        .into_iter()
        .map(|change| change.what.trim_start_matches("global.").to_owned())
        .collect();
    let all = value(&after.global);
    for key in all.as_object().unwrap().keys() {
        assert!(changed.iter().any(|changed| changed.starts_with(key)), "{key}: {changed:?}");
    }
    let applied = applicable(&before, &after);
    assert!(diff(&before, &applied).iter().all(|change| !change.needs_restart));
    assert!(diff(&applied, &after).iter().all(|change| change.needs_restart));
}

#[test]
fn what_needs_a_restart_stays_and_the_rest_does_not() {
    let text = BASE
        .replace("workers = 2", "workers = 3\ndrain = '5s'")
        .replace("weight = 5", "weight = 6");
    let (before, after) = (model(BASE), model(&text));
    let applied = applicable(&before, &after);
    let expected: Vec<Change> =
        diff(&before, &after).into_iter().filter(|change| !change.needs_restart).collect();
    assert_eq!(expected.len(), 2);
    assert_eq!(diff(&before, &applied), expected);
    assert!(diff(&applied, &after).iter().all(|change| change.needs_restart));
}
