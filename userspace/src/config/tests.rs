use std::path::Path;
use std::time::Duration;

use super::model::{self, Balance, Host, Protocol};
use super::{Error, Model, parse};

const WHOLE: &str = r#"
[global]
workers = 2
metrics = "off"
trusted_proxies = ["10.0.0.0/8"]

[[listener]]
name = "web"
bind = ["127.0.0.1:8080"]
protocol = "http"
[listener.timeouts]
header_read = "5s"
[[listener.route]]
host = "*.Example.com"
path = "/v1/"
service = "api"
timeouts = { first_byte = "500ms" }
[[listener.route]]
service = "api"

[[vip]]
name = "api-l4"
address = "192.0.2.10:80"
protocol = "tcp"
mode = "nat"
interface = "eth0"
service = "api"

[[service]]
name = "api"
balance = "least_requests"
probe = { kind = "http", path = "/health" }
[[service.backend]]
address = "10.0.0.1:8080"
weight = 5
[[service.backend]]
address = "10.0.0.2:8080"
"#;

fn load(text: &str) -> Result<Model, Error> {
    parse(Path::new("steerage.toml"), text)
}

fn message(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

#[test]
fn a_whole_file_is_understood() {
    let model = load(WHOLE).unwrap();
    let route = &model.listeners[0].routes[0];
    assert_eq!(route.host, Some(Host::Suffix(".example.com".into())));
    assert_eq!(route.path, model::Path::Prefix("/v1".into()));
    assert_eq!(route.timeouts.first_byte, Duration::from_millis(500));
    assert_eq!(route.timeouts.connect, Duration::from_secs(3));
    assert_eq!(model.vips[0].protocol, Protocol::Tcp);
    let service = &model.services[0];
    assert_eq!(service.balance, Balance::LeastRequests);
    assert_eq!((service.backends[0].weight, service.backends[1].weight), (5, 1));
    let policy = service.policy();
    assert_eq!((policy.fall, policy.rise, policy.ejection_ticks), (3, 2, 100));
    assert_eq!(model.global.workers, Some(2));
    assert_eq!(model.global.metrics, None);
}

#[test]
fn the_model_reaches_a_worker_unchanged() {
    let model = load(WHOLE).unwrap();
    let json = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
}

/// One edit of the good file each, and the message that it must give.
#[test]
fn every_mistake_names_its_line_and_the_remedy() {
    let cases = [
        ("workers = 2", "wrokers = 2", "3:1: unknown field `wrokers`"),
        ("workers = 2", "workers = 0", "3:11: workers: must be \"auto\" or from 1 to 128"),
        ("workers = 2", "workers = \"many\"", "3:11: workers: invalid value: string \"many\""),
        ("metrics = \"off\"", "metrics = \"localhost\"", "4:11: metrics: \"localhost\" is not an"),
        ("\"5s\"", "5", "12:15: header_read: invalid type: integer `5`, expected a time with its"),
        ("\"5s\"", "\"soon\"", "12:15: header_read: invalid value: string \"soon\""),
        ("\"5s\"", "\"0s\"", "12:15: header_read: \"0s\" is not between 1ms and 7 days"),
        (
            "service = \"api\"\ntimeouts",
            "service = \"spi\"\ntimeouts",
            "16:11: service: there is no service \"spi\"; there are: api",
        ),
        ("path = \"/v1/\"", "path = \"v1\"", "15:8: a route's path begins with '/'"),
        (
            "path = \"/v1/\"",
            "path = \"/v1/\"\npath_exact = \"/\"",
            "16:14: a route has one of path, path_exact and path_regex",
        ),
        (
            "path = \"/v1/\"",
            "path_regex = \"/v1/(\"",
            "15:14: path_regex: \"/v1/(\" is no regular expression: unclosed group",
        ),
        (
            "path = \"/v1/\"",
            "method = [\"GET\", \"get\"]",
            "15:18: method: \"get\" is no method; methods are written as \"GET\"",
        ),
        ("path = \"/v1/\"", "method = \"GET\"", "15:10: method: invalid type: string \"GET\""),
        (
            "path = \"/v1/\"",
            "headers = { \"X Y\" = true }",
            "15:13: headers: \"X Y\" is no header's name",
        ),
        (
            "path = \"/v1/\"",
            "headers = { a = true, A = \"1\" }",
            "15:13: headers: \"a\" is there twice",
        ),
        (
            "path = \"/v1/\"",
            "headers = { a = 1 }",
            "15:17: a: invalid type: integer `1`, expected a",
        ),
        (
            "path = \"/v1/\"",
            "headers = { a = { regex = \"[\" } }",
            "15:17: headers: \"[\" is no regular expression: unclosed character class",
        ),
        ("*.Example.com", "*.", "14:8: host: \"*.\" is neither a host name nor a pattern"),
        ("\"tcp\"", "\"sctp\"", "24:12: protocol: unknown variant `sctp`, expected `tcp` or `udp`"),
        ("\"nat\"", "\"tunnel\"", "25:8: mode: unknown variant `tunnel`, expected `nat`"),
        ("192.0.2.10:80", "[2001:db8::1]:80", "23:11: address: an IPv6 vip is not served yet"),
        ("192.0.2.10:80", "192.0.2.10", "23:11: address: invalid socket address syntax"),
        (
            "10.0.0.2:8080",
            "10.0.0.1:8080",
            "37:11: address: service \"api\" has the backend 10.0.0.1:8080 on line 34 already",
        ),
        ("10.0.0.2:8080", "[::1]:8080", "23:11: address: a nat vip and its backends are of one"),
        ("weight = 5", "weight = 257", "35:10: weight: must be from 0 to 256"),
        (
            "path = \"/health\"",
            "path = \"/health\", timeout = \"3s\"",
            "32:9: probe: timeout (3s) must not be longer than",
        ),
        ("kind = \"http\"", "kind = \"tcp\"", "32:32: a tcp probe has no path"),
        ("name = \"api\"", "name = \"api\"\nname = \"b\"", "31:1: duplicate key"),
        ("[global]", "[global", "2:8: "),
    ];
    for (good, bad, expected) in cases {
        assert!(WHOLE.contains(good), "{good}");
        let message = message(&WHOLE.replacen(good, bad, 1));
        assert!(
            message.starts_with(&format!("steerage.toml:{expected}")),
            "{bad}: expected {expected}\ngot {message}"
        );
    }
}

#[test]
fn a_listener_may_limit_its_http2_clients() {
    let with = |keys: &str| {
        let key = format!("protocol = \"http\"\nhttp2 = {{ {keys} }}");
        WHOLE.replacen("protocol = \"http\"", &key, 1)
    };
    let http2 = load(&with("streams = 50")).unwrap().listeners[0].http2;
    assert_eq!((http2.streams, http2.stream_window, http2.idle.as_secs()), (50, 65_536, 120));
    for (keys, expected) in [
        ("streams = 0", "11:21: streams: must be from 1 to 10000"),
        ("connection_window = 1", "11:31: connection_window: must be from 65535 to 2147483647"),
        ("window = 1", "11:11: unknown field `window`"),
    ] {
        let message = message(&with(keys));
        assert!(message.starts_with(&format!("steerage.toml:{expected}")), "{message}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = WHOLE.replace("weight = 5", "weight = 500").replace("*.Example.com", "a b");
    let message = message(&text);
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(message.starts_with("steerage.toml:14:"), "{message}");
}

#[test]
fn a_file_that_serves_nothing_is_refused() {
    assert!(message("").contains("nothing to serve"));
}

#[test]
fn a_missing_file_is_named() {
    let error = super::load(Path::new("/nonexistent/steerage.toml")).unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/steerage.toml: cannot be read: No such file"),
        "{error}"
    );
}
