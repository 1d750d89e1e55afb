//! A listener passes requests on, whole and unchanged but for what a proxy must change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_lab::pattern::Pattern;
use steerage_tests::stand::{Choices, QUICK, Stand, l7};

fn one_backend() -> Stand {
    Stand::start(&Choices { weights: vec![1], ..Choices::default() }).unwrap()
}

#[test]
fn curl_gets_the_backends_answer() {
    let stand = one_backend();
    let reply = stand.curl("/", &[]).unwrap();
    assert_eq!((reply.exit, reply.status, &*reply.text), (0, 200, "backend-1\n"), "{reply:?}");
    let reply = stand.curl("/status/404", &["-i"]).unwrap();
    assert_eq!(reply.status, 404);
    assert!(reply.text.to_lowercase().contains("x-backend: backend-1"), "{}", reply.text);
    let reply = stand.curl("/", &["-I"]).unwrap();
    assert_eq!((reply.exit, reply.status), (0, 200), "HEAD: {reply:?}");
}

#[test]
fn the_backend_learns_who_asked_and_hop_by_hop_headers_end_here() {
    let stand = one_backend();
    let forged =
        ["-H", "X-Forwarded-For: 203.0.113.9", "-H", "Connection: X-Hop", "-H", "X-Hop: 1"];
    let kept = ["-H", "X-Twice: a", "-H", "X-Twice: b"];
    let reply = stand.curl("/head?q=1", &[&forged[..], &kept[..]].concat()).unwrap();
    let head = reply.text.to_lowercase();
    assert!(head.starts_with("get /head?q=1 http/1.1\n"), "{head}");
    assert!(head.contains("x-forwarded-for: 10.80.0.2\n"), "{head}");
    assert!(head.contains("x-forwarded-proto: http\n"), "{head}");
    assert!(head.contains(&format!("host: {}\n", l7())), "{head}");
    assert!(head.contains("x-twice: a\nx-twice: b\n"), "{head}");
    assert!(!head.contains("x-hop") && !head.contains("203.0.113.9"), "{head}");
}

#[test]
fn bodies_arrive_whole_however_they_are_framed() {
    let stand = one_backend();
    let mut client = stand.connect(l7()).unwrap();
    for length in [0, 1, 65_535, 65_536, 3_000_000] {
        let digest = Pattern::digest(length);
        let up = client.post("/hash", Pattern::new(length)).unwrap();
        assert_eq!(up.text(), format!("{digest} {length}\n"));
        for way in ["bytes", "chunked"] {
            let down = client.get(&format!("/{way}/{length}")).unwrap();
            assert_eq!((down.length, &*down.digest), (length, &*digest), "{way} {length}");
        }
    }
    // All of it went over one connection to the backend as well, but for probes.
    assert_eq!(stand.backend(1).requests(), 15);
}

#[test]
fn a_failing_service_is_a_502_or_503_that_says_why() {
    let mut stand = one_backend();
    let reply = stand.curl("/close", &["-X", "POST"]).unwrap();
    assert_eq!((reply.exit, reply.status), (0, 502), "{reply:?}");
    assert!(!reply.text.trim().is_empty(), "no reason given");
    stand.kill_backend(1);
    stand.daemon.wait_available(0).unwrap();
    let reply = stand.curl("/", &[]).unwrap();
    // All are down: a panic, in which the probes are not believed.
    assert_eq!((reply.exit, reply.status), (0, 502), "{reply:?}");
    assert!(reply.text.starts_with("502 connect"), "{reply:?}");
}

#[test]
fn without_a_panic_a_dead_service_is_a_503() {
    let service = format!("panic_percent = 0\n{QUICK}").leak();
    let mut stand =
        Stand::start(&Choices { weights: vec![1], service, ..Choices::default() }).unwrap();
    stand.kill_backend(1);
    stand.daemon.wait_available(0).unwrap();
    let reply = stand.curl("/", &[]).unwrap();
    assert_eq!((reply.exit, reply.status), (0, 503), "{reply:?}");
    assert!(reply.text.starts_with("503 no_backend"), "{reply:?}");
}

#[test]
fn a_request_that_is_no_http_gets_400() {
    let stand = one_backend();
    let mut client = stand.connect(l7()).unwrap();
    client
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")
        .unwrap();
    assert_eq!(client.response().unwrap().status, 400);
    assert_eq!(stand.backend(1).requests(), 0);
}

#[test]
fn status_and_metrics_count_what_passed() {
    let stand = one_backend();
    for _ in 0..7 {
        assert_eq!(stand.curl("/", &[]).unwrap().status, 200);
    }
    let status = stand.daemon.status().unwrap();
    let responses = &status["services"][0]["backends"][0]["l7"]["responses"];
    let ok = responses.as_array().unwrap().iter().find(|class| class["name"] == "2xx").unwrap();
    assert_eq!(ok["count"], 7, "{responses}");
    let text = stand.daemon.status_text().unwrap();
    assert!(text.contains("10.81.1.2:8080") && text.contains("up"), "{text}");
    let url = "http://127.0.0.1:9900/metrics";
    let metrics = steerage_lab::client::curl(&stand.topology.balancer, &[url]).unwrap();
    assert_eq!(metrics.status, 200);
    let line =
        metrics.text.lines().find(|line| line.contains("10.81.1.2:8080") && line.ends_with(" 7"));
    assert!(line.is_some(), "{}", metrics.text);
}
