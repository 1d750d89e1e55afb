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
fn backends_that_are_told_of_a_client_share_no_connection() {
    let of = |keys: &str| {
        let text = WHOLE.replacen("balance =", &format!("{keys}\nbalance ="), 1);
        load(&text).unwrap().services[0].upstream.protocol
    };
    let tls = "upstream_tls = { verify = false }";
    assert_eq!(of(tls), model::UpstreamProtocol::Auto);
    let told = format!("{tls}\nupstream = {{ proxy_protocol = \"v2\" }}");
    assert_eq!(of(&told), model::UpstreamProtocol::Http1);
}

#[test]
fn the_model_reaches_a_worker_unchanged() {
    let model = load(WHOLE).unwrap();
    let json = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
}

#[test]
fn the_access_log_is_a_table_or_a_path() {
    use super::model::{AccessLog, Destination, Format};
    let log = |written: &str| {
        let text = WHOLE.replacen("workers = 2", &format!("access_log = {written}"), 1);
        load(&text).unwrap().global.access_log
    };
    assert_eq!(load(WHOLE).unwrap().global.access_log, AccessLog::default());
    assert_eq!(log("\"off\"").path, Destination::Off);
    assert_eq!(log("\"/var/log/x\"").path, Destination::File("/var/log/x".into()));
    let whole = log("{ path = \"-\", format = \"$status $target\", sample = 0.25 }");
    assert_eq!(whole.path, Destination::Output);
    assert_eq!(whole.format, Format::parse("$status $target").unwrap());
    assert!((whole.sample - 0.25).abs() < f64::EPSILON);
    let text = WHOLE.replacen("\"http\"", "\"http\"\naccess_log = false", 1);
    assert!(!load(&text).unwrap().listeners[0].access_log);
}

#[test]
fn mistakes_about_the_access_log_are_named() {
    for (written, expected) in [
        ("{ path = \"log\" }", "3:23: access_log: log is no destination: the path of FILE is"),
        ("\"jurnald\"", "3:14: access_log: jurnald is no destination"),
        ("{ path = \"syslog:x\" }", "access_log: syslog:x is no destination"),
        ("{ path = \"-\", format = \"$statuss\" }", "3:37: access_log: format: there is no $stat"),
        ("{ path = \"-\", format = \"jsn\" }", "access_log: format: names no field; write"),
        ("{ path = \"-\", sample = 0.0 }", "access_log: sample: must be above 0"),
        ("{ path = \"-\", sample = 1.5 }", "access_log: sample: must be above 0"),
        ("{ format = \"json\" }", "missing field `path`"),
        ("{ path = \"-\", colour = 1 }", "unknown field `colour`"),
        ("true", "expected a table such as { path = \"-\""),
    ] {
        let message =
            message(&WHOLE.replacen("workers = 2", &format!("access_log = {written}"), 1));
        assert!(message.contains(expected), "{written}: {message}");
    }
}

/// One edit of the good file each, and the message that it must give.
#[test]
fn mistakes_about_tunnels_and_flows_are_named() {
    for (good, bad, expected) in [
        (
            "\"nat\"",
            "\"nat\"\nencapsulation = \"gue\"",
            "26:17: encapsulation: for mode \"tunnel\" alone",
        ),
        ("192.0.2.10:80", "127.0.0.1:80", "23:11: address: must be a unicast address"),
        (
            "[global]",
            "[global]\nflow_idle = { udp = \"1s\" }",
            "flow_idle.udp: must be from 2s to 24h",
        ),
        (
            "[global]",
            "[global]\ntunnel_sources = [\"10.0.0.0/8\", \"10.1.0.0/16\"]",
            "tunnel_sources: one prefix of IPv4",
        ),
    ] {
        assert!(WHOLE.contains(good), "{good}");
        let message = message(&WHOLE.replacen(good, bad, 1));
        assert!(message.contains(expected), "{message}");
    }
}

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
        (
            "\"tcp\"",
            "\"sctp\"",
            "24:12: protocol: unknown variant `sctp`, expected one of `tcp`, `udp`",
        ),
        (
            "\"nat\"",
            "\"gre\"",
            "25:8: mode: unknown variant `gre`, expected one of `nat`, `tunnel`",
        ),
        (
            "192.0.2.10:80",
            "[2001:db8::1]:80",
            "23:11: address: a nat vip and its backends are of one",
        ),
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

/// What a route with these keys is refused with; the keys begin on line 6.
fn route_message(keys: &str) -> String {
    let text = format!(
        "[[listener]]\nname = 'a'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n[[listener.route]]\n\
         {keys}\n[[service]]\nname = 's'\n"
    );
    message(&text)
}

#[test]
fn what_a_route_cannot_do_is_said_with_its_line() {
    for (keys, expected) in [
        ("path = '/a'", "5:1: a route needs a service, a redirect or an answer"),
        (
            "service = 's'\nredirect = { to = '/' }",
            "7:12: redirect: a route has either a service or a redirect",
        ),
        ("redirect = { to = '/', status = 303 }", "6:33: status: must be 301, 302, 307 or 308"),
        ("redirect = { to = 'b.org' }", "6:19: redirect: must be a path such as"),
        ("redirect = { to = '//b.org' }", "6:19: redirect: must be a path such as"),
        ("redirect = { to = '/a b' }", "6:19: redirect: must be a path such as"),
        ("redirect = { to = 'ftp://${host}/' }", "6:19: redirect: must be a path such as"),
        ("redirect = { to = '/$1' }", "6:19: redirect: there is no \"1\" to put in; there are 0"),
        (
            "service = 's'\nanswer = { status = 200 }",
            "7:10: answer: a route has either a service, a redirect or an answer",
        ),
        ("answer = { status = 101 }", "6:21: status: must be from 200 to 599"),
        ("answer = { status = 204, body = 'x' }", "6:33: body: an answer 204 has none; remove it"),
        ("answer = { status = 200, type = \"a\\n\" }", "6:33: type: can be no header's value"),
        ("redirect = { status = 301 }", "6:12: redirect: missing field `to`"),
        (
            "redirect = { to = '/' }\nmax_body = '1KiB'\ntimeouts = { connect = '1s' }",
            "7:12: max_body: this route reaches no backend; remove it\nsteerage.toml:8:12: timeouts:",
        ),
        (
            "service = 's'\nmax_body = '64MB'",
            "7:12: max_body: invalid value: string \"64MB\", expected",
        ),
        ("service = 's'\nrewrite = {}", "7:11: rewrite: has either prefix, or to"),
        (
            "service = 's'\nrewrite = { prefix = '/', to = '/' }",
            "7:11: rewrite: has either prefix, or to",
        ),
        ("service = 's'\nrewrite = { prefix = 'a' }", "7:22: a route's path begins with '/'"),
        (
            "service = 's'\npath_regex = '/a'\nrewrite = { prefix = '/' }",
            "8:22: rewrite: a path_regex has no prefix; write { to = \"/...\" }",
        ),
        ("service = 's'\nrewrite = { to = 'a' }", "7:18: rewrite: must be a path that begins with"),
        ("service = 's'\nrewrite = { to = '/a b' }", "7:18: rewrite: must be a path that begins"),
        ("service = 's'\nrewrite = { to = '/$1' }", "7:18: rewrite: there is no \"1\" to put in"),
        (
            "service = 's'\nrewrite = { regex = '(', to = '/' }",
            "7:21: rewrite: \"(\" is no regular expression: unclosed group",
        ),
        (
            "service = 's'\nhost_header = 'b.org'",
            "7:15: host_header: must be \"preserve\", \"backend\"",
        ),
        ("service = 's'\nhost_header = 'name:a b'", "7:15: host_header: must be \"preserve\""),
        (
            "service = 's'\nrequest_headers = { set = { 'A B' = '1' } }",
            "7:29: request_headers: \"A B\" is no header's name",
        ),
        (
            "service = 's'\nrequest_headers = { set = { A = \"1\\n\" } }",
            "7:33: request_headers: \"1\\n\" can be no header's value",
        ),
        (
            "service = 's'\nrequest_headers = { remove = ['Content-Length'] }",
            "7:31: request_headers: \"Content-Length\" is of the connection and cannot be changed",
        ),
        (
            "service = 's'\nrequest_headers = { set = { Host = 'a' } }",
            "7:29: request_headers: \"Host\" is changed by the route's host_header",
        ),
        (
            "service = 's'\nresponse_headers = { add = { a = '1', A = '2' } }",
            "7:30: response_headers: \"a\" is there twice",
        ),
        (
            "service = 's'\nresponse_headers = { append = { a = '1' } }",
            "7:22: unknown field `append`",
        ),
    ] {
        let message = route_message(keys);
        assert!(message.starts_with(&format!("steerage.toml:{expected}")), "{keys}\n{message}");
    }
}

/// The file with these keys of the service's probe; they begin on line 32, in column 11.
fn with_probe(keys: &str) -> String {
    WHOLE.replacen("kind = \"http\", path = \"/health\"", keys, 1)
}

#[test]
fn a_probe_says_what_it_asks_and_expects() {
    let probe = |keys: &str| load(&with_probe(keys)).unwrap().services[0].probe.clone().unwrap();
    let http = |keys: &str| match probe(keys).check.kind {
        model::CheckKind::Http(http) => http,
        other => panic!("{other:?}"),
    };
    let plain = http("kind = 'http'");
    assert_eq!((plain.method, &*plain.path, plain.body), (model::ProbeMethod::Get, "/", None));
    assert_eq!(plain.statuses, [200..=399]);
    let own = http(
        "kind = 'http', method = 'GET', headers = { X-Probe = '1' }, \
         expect = { status = ['200-299', 304], body = 'ok' }",
    );
    assert_eq!(own.headers, [("x-probe".to_owned(), "1".to_owned())]);
    assert_eq!((own.statuses, own.body.as_deref()), (vec![200..=299, 304..=304], Some("ok")));
    assert_eq!(http("kind = 'http', method = 'HEAD'").method, model::ProbeMethod::Head);
    let grpc = probe("kind = 'grpc', service = 'api.v1.Api', address = '::1', port = 9").check;
    assert_eq!(grpc.target("10.0.0.1:80".parse().unwrap()), "[::1]:9".parse().unwrap());
    let model::CheckKind::Grpc(grpc) = grpc.kind else { panic!("{grpc:?}") };
    assert_eq!(grpc.service, "api.v1.Api");
    let tls = |keys: &str| probe(keys).check.kind.tls().cloned().unwrap();
    let plain = tls("kind = 'https'");
    assert_eq!((plain.trust, plain.name), (model::Trust::System, None));
    let named = tls("kind = 'grpcs', host = 'api.internal:8443', tls = { verify = false }");
    assert_eq!((named.trust, named.name.as_deref()), (model::Trust::Anybody, Some("api.internal")));
    let named = tls("kind = 'https', host = '[::1]:8443', tls = { sni = 'b.internal' }");
    assert_eq!(named.name.as_deref(), Some("b.internal"));
    assert_eq!(tls("kind = 'https', host = '[::1]:8443'").name.as_deref(), Some("::1"));
    let tcp = probe("kind = 'tcp'");
    assert_eq!(
        (tcp.check.timeout, tcp.check.interval),
        (Duration::from_secs(1), 2 * Duration::from_secs(1))
    );
}

#[test]
fn what_a_probe_cannot_ask_is_said_with_its_line() {
    for (keys, expected) in [
        (
            "kind = 'quic'",
            "18: kind: unknown variant `quic`, expected one of `http`, `https`, `tcp`, `grpc`",
        ),
        ("kind = 'http', service = 'a'", "36: an http probe has no service; remove it"),
        ("kind = 'grpc', path = '/'", "33: a grpc probe has no path; remove it"),
        ("kind = 'grpc', expect = { body = 'a' }", "35: a grpc probe has no expect; remove it"),
        ("kind = 'tcp', method = 'GET'", "34: a tcp probe has no method; remove it"),
        ("kind = 'http', tls = {}", "32: an http probe has no tls; remove it"),
        ("kind = 'https', tls = { ca = 'no.pem' }", "40: ca: no.pem: cannot be read: "),
        (
            "kind = 'https', tls = { ca = 'no.pem', verify = false }",
            "40: ca: nothing is verified by it; remove it, or verify",
        ),
        ("kind = 'https', tls = { sni = 'a b' }", "41: \"a b\" is no name that a certificate can"),
        ("kind = 'https', tls = { key = 'a' }", "41: key: needs its certificate; add cert ="),
        ("kind = 'http', method = 'POST'", "35: method: unknown variant `POST`, expected `GET` or"),
        ("kind = 'http', path = 'health'", "33: path: must be a path such as \"/health\""),
        ("kind = 'http', host = 'a b'", "33: host: must be a host name"),
        (
            "kind = 'http', headers = { Host = 'a' }",
            "38: headers: \"Host\" is changed by the probe's host",
        ),
        (
            "kind = 'http', headers = { Connection = 'close' }",
            "38: headers: \"Connection\" is of the",
        ),
        ("kind = 'http', headers = { 'a b' = '1' }", "38: headers: \"a b\" is no header's name"),
        ("kind = 'http', headers = { a = '1', A = '2' }", "38: headers: \"a\" is there twice"),
        (
            "kind = 'http', headers = { a = \"\\n\" }",
            "42: headers: \"\\n\" can be no header's value",
        ),
        (
            "kind = 'http', expect = { status = 200 }",
            "46: status: invalid type: integer `200`, expected a",
        ),
        ("kind = 'http', expect = { status = [] }", "46: status: name at least one, or remove it"),
        (
            "kind = 'http', expect = { status = [200, 99] }",
            "52: status: \"99\" is neither a status",
        ),
        ("kind = 'http', expect = { status = ['300-200'] }", "47: status: \"300-200\" is neither"),
        (
            "kind = 'http', expect = { status = ['2xx'] }",
            "47: status: \"2xx\" is neither a status from",
        ),
        (
            "kind = 'http', expect = { status = [true] }",
            "47: invalid type: boolean `true`, expected a status",
        ),
        ("kind = 'http', expect = { body = '' }", "44: body: must be of 1 to 65536 bytes"),
        (
            "kind = 'http', method = 'HEAD', expect = { body = 'a' }",
            "61: body: the answer to HEAD has none; remove it, or GET",
        ),
        ("kind = 'http', expect = { text = 'a' }", "37: unknown field `text`"),
        ("kind = 'http', address = 'localhost'", "36: address: invalid IP address syntax"),
        ("kind = 'http', address = '0.0.0.0'", "36: address: 0.0.0.0 is no address to ask"),
        ("kind = 'http', port = 0", "33: port: must be from 1 to 65535"),
        ("kind = 'http', rise = 0", "9: probe: rise and fall must be at least 1"),
    ] {
        let message = message(&with_probe(keys));
        assert!(message.starts_with(&format!("steerage.toml:32:{expected}")), "{keys}\n{message}");
    }
}

#[test]
fn what_a_listener_cannot_add_is_said_with_its_line() {
    for (keys, expected) in [
        ("via = 'a b'", "11:22: via: must be \"auto\", \"off\" or a name of letters"),
        (
            "request_id = 'keep'",
            "11:29: request_id: unknown variant `keep`, expected one of `trusted`",
        ),
        (
            "request_id = 'off', request_id_response = true",
            "11:14: forwarding: with request_id = \"off\" there is no id for request_id_response",
        ),
        ("trace_sampled_percent = 5", "11:40: trace_sampled_percent: is of traces that Steerage"),
        (
            "traceparent = 'begin', trace_sampled_percent = 101",
            "11:63: trace_sampled_percent: must be from 0 to 100",
        ),
        ("tracing = 'begin'", "11:16: unknown field `tracing`"),
    ] {
        let forwarding = format!("protocol = \"http\"\nforwarding = {{ {keys} }}");
        let text = WHOLE
            .replace("[listener.timeouts]\nheader_read = \"5s\"\n", "\n\n")
            .replace("protocol = \"http\"", &forwarding);
        let message = message(&text);
        assert!(message.starts_with(&format!("steerage.toml:{expected}")), "{keys}\n{message}");
    }
}

#[test]
fn a_service_says_how_its_backends_are_spoken_to() {
    let with = |keys: &str| {
        let key = format!("balance = \"least_requests\"\nupstream = {{ {keys} }}");
        WHOLE.replacen("balance = \"least_requests\"", &key, 1)
    };
    let protocol = |text: &str| load(text).unwrap().services[0].upstream.protocol;
    assert_eq!(protocol(WHOLE), model::UpstreamProtocol::Http1);
    assert_eq!(protocol(&with("protocol = \"auto\"")), model::UpstreamProtocol::Http1);
    assert_eq!(protocol(&with("protocol = \"h2\", streams = 7")), model::UpstreamProtocol::Http2);
    for (keys, expected) in [
        ("protocol = \"http2\"", "unknown variant `http2`, expected one of `auto`, `http1`, `h2`"),
        ("streams = 0", "streams: must be from 1 to 10000"),
    ] {
        let message = message(&with(keys));
        assert!(message.contains(expected), "{message}");
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
    let path = Path::new("/nonexistent/steerage.toml").to_owned();
    let source = super::Source { path, overrides: super::Overrides::default() };
    let error = source.load().unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/steerage.toml: cannot be read: No such file"),
        "{error}"
    );
}
