//! TLS that is passed on by what the client says first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::Duration;

use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;

use super::harness::*;
use crate::cases;
use crate::l4::client_hello::tests::hello;

const TABLE: &str = include_str!("../../../../tests/hostile/client_hellos.txt");

const ROUTES: &str = "[[listener.route]]\nsni = 'a.example.com'\nservice = 'a'\n\
    [[listener.route]]\nsni = '*.wild.test'\nalpn = ['h2']\nservice = 'a'\n";

const DEFAULT: &str = "[[listener.route]]\nservice = 'a'\n";

/// A backend that says how many bytes came, and gives them back.
fn echoing() -> SocketAddr {
    backend(|mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// What a client gets that sends these bytes in pieces, and ends.
fn talk(worker: &Worker, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut client = worker.client().stream;
    client.set_nodelay(true).unwrap();
    let mut reader = client.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = reader.read_to_end(&mut all);
        all
    });
    for piece in bytes.chunks(piece) {
        if client.write_all(piece).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
    reading.join().unwrap()
}

#[test]
fn a_proper_hello_reaches_the_backend_as_it_was_sent() {
    let worker = Worker::passing("tls", DEFAULT, &[echoing()], |_| {});
    for (line, expected, text) in cases::lines(TABLE) {
        if !expected.ends_with(']') {
            continue;
        }
        let bytes = [&hello(text)[..], b"and what follows"].concat();
        for piece in [bytes.len(), 700] {
            assert!(talk(&worker, &bytes, piece) == bytes, "line {line}");
        }
    }
}

#[test]
fn a_bad_hello_gets_its_alert_and_reaches_nobody() {
    let worker = Worker::passing("tls", DEFAULT, &[echoing()], |_| {});
    let mut counted = 0;
    for (line, expected, text) in cases::lines(TABLE) {
        let description = match expected {
            "unexpected_message" => 10,
            "record_overflow" => 22,
            "decode_error" => 50,
            _ => continue,
        };
        let heard = talk(&worker, &hello(text), usize::MAX);
        assert_eq!(heard, [21, 3, 3, 0, 2, 2, description], "line {line}");
        counted += 1;
        eventually("it is counted", || worker.ends(Cause::ClientHello) == counted);
    }
    assert!(counted > 40, "{counted}");
    assert_eq!(super::value(&worker.cell(0).connections_created), 0);
}

#[test]
fn a_hello_must_come_in_time() {
    let worker = Worker::passing("tls", DEFAULT, &[echoing()], |model| {
        model.listeners[0].timeouts.header_read = Duration::from_millis(200);
    });
    let mut client = worker.client().stream;
    client.write_all(&hello("sni=a.example.com cut=1")).unwrap();
    let _ = client.read(&mut [0]);
    assert_eq!(worker.ends(Cause::PreambleTimeout), 1);
}

#[test]
fn names_and_protocols_decide() {
    let worker = Worker::passing("tls", ROUTES, &[echoing()], |_| {});
    let alert = |description| [21, 3, 3, 0, 2, 2, description].to_vec();
    let cases = [
        ("sni=a.example.com", None),
        ("sni=x.wild.test alpn=http/1.1,h2", None),
        ("sni=y.x.wild.test alpn=h2 records=9", None),
        ("sni=x.wild.test alpn=http/1.1", Some(120)),
        ("sni=x.wild.test", Some(120)),
        ("sni=wild.test alpn=h2", Some(112)),
        ("sni=b.example.com", Some(112)),
        ("alpn=h2", Some(112)),
        ("bare", Some(112)),
    ];
    let mut refused = 0;
    for (words, wanted) in cases {
        let bytes = hello(words);
        let heard = talk(&worker, &bytes, usize::MAX);
        refused += u64::from(wanted.is_some());
        assert_eq!(heard, wanted.map_or(bytes, alert), "{words}");
    }
    eventually("each is counted", || worker.ends(Cause::NoRoute) == refused);
    assert_eq!(worker.errors(ErrorClass::NoRoute), refused);
}

#[test]
fn routes_that_mean_nothing_are_refused_with_their_line() {
    let base = "[[listener]]\nname = 'l'\nprotocol = 'tls'\nbind = ['127.0.0.1:1']\n\
                [[listener.route]]\nsni = 'a.test'\nservice = 'a'\n\
                [[service]]\nname = 'a'\n[[service.backend]]\naddress = '127.0.0.1:2'\n";
    let load = |good: &str, bad: &str| {
        assert!(base.contains(good), "{good}");
        crate::config::parse(Path::new("t.toml"), &base.replacen(good, bad, 1))
    };
    let own = "'tls'\ntimeouts = { header_read = '1s', connect = '2s', tunnel = '4s', half_closed = '5s' }";
    let model = load("'tls'", own).unwrap();
    assert_eq!(model.listeners[0].timeouts.header_read, Duration::from_secs(1));
    let timeouts = model.listeners[0].streams.as_ref().unwrap().routes[0].timeouts;
    let all = [timeouts.connect, timeouts.tunnel, timeouts.half_closed];
    assert_eq!(all, [2, 4, 5].map(Duration::from_secs));
    let model = load("sni =", "timeouts = { connect = '7s' }\nsni =").unwrap();
    let timeouts = model.listeners[0].streams.as_ref().unwrap().routes[0].timeouts;
    let all = [timeouts.connect, timeouts.tunnel, timeouts.half_closed];
    assert_eq!(all, [7, 3600, 10].map(Duration::from_secs));
    let twice = "service = 'a'\n[[listener.route]]\nsni = 'A.test'\nalpn = ['h2']\nservice = 'a'\n";
    for (good, bad, expected) in [
        ("sni = ", "host = ", "t.toml:6:8: host: means nothing for a route of a tls listener"),
        ("sni = ", "path = '/'\nsni = ", "6:8: path: means nothing for a route of a tls"),
        ("'a.test'", "'*'\nresponse_headers = {}", "7:20: response_headers: means nothing"),
        ("'a.test'", "'a test'", "6:7: sni: \"a test\" is neither a host name nor a pattern"),
        ("service = 'a'\n", twice, "8:1: sni: the route on line 5 takes all of \"a.test\" already"),
        ("service = 'a'\n", "", "5:1: a route has one end: service"),
        ("service = 'a'\n", "service = 'a'\nterminate = 'l'\n", "7:11: a route has one end"),
        (
            "service = 'a'\n",
            "terminate = 'l'\n",
            "5:1: terminate: \"l\" is no https listener; there is",
        ),
        (
            "service = 'a'\n",
            "terminate = 'l'\ntimeouts = { tunnel = '1s' }\n",
            "8:12: timeouts: the listener that it ends at has its own",
        ),
        ("sni = 'a.test'", "alpn = []", "6:8: alpn: a list of protocols' names"),
        ("'tls'", "'tls'\nservice = 'a'", "4:11: service: a tls listener has it in a"),
        ("'tls'", "'tls'\nhttp2 = {}", "4:9: http2: means nothing for a listener that sees no"),
        (
            "'tls'",
            "'tls'\ntimeouts = { idle = '1s' }",
            "4:21: timeouts.idle: means nothing for a listener that sees no HTTP; its key is tunnel",
        ),
        ("'tls'", "'tls'\nlimits = { body_rate = 1 }", "4:24: limits.body_rate: means nothing"),
        ("'tls'", "'tcp'", "name = 'l'"),
        ("'tls'", "'http'", "6:7: sni: means nothing for a route by HTTP; its key is host"),
        (
            "'tls'",
            "'tls'\nproxy_protocol = { accept_from = [] }",
            "4:34: accept_from: names nobody",
        ),
        (
            "[[service]]\n",
            "[[service]]\nbalance = 'maglev'\nhash_key = 'path'\n",
            "5:1: service: \"a\" picks",
        ),
        (
            "[[service]]\n",
            "[[service]]\nupstream = { protocol = 'h2', proxy_protocol = 'v1' }\n",
            "9:48: proxy_protocol: names one client for a whole connection",
        ),
    ] {
        let error = load(good, bad).unwrap_err().to_string();
        let is_said = error.contains(expected);
        assert!(
            is_said || (bad == "'tcp'" && error.contains("route: a tcp listener has none")),
            "{bad}: {error}"
        );
    }
}
