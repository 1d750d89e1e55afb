//! nginx's.

use std::path::Path;

use steerage_lab::process::Process;

use crate::ask::{get, secure};
use crate::peers::{Ground, directory, import};

fn start(ground: &Ground, file: &Path) -> Process {
    let scratch = ground.scratch.path().display().to_string();
    let options = format!("daemon off; user root; pid {scratch}/nginx.pid; error_log stderr;");
    let file = file.display().to_string();
    ground.start("nginx", &["-p", &scratch, "-c", &file, "-g", &options])
}

#[test]
fn locations_and_servers_take_the_requests_that_they_take_in_nginx() {
    let ground = Ground::new();
    let questions = [
        get("www.example.com", "/"),
        get("www.example.com", "/head?a=b"),
        get("WWW.example.com", "/api/head?x=1"),
        get("www.example.com:8080", "/api"),
        get("www.example.com", "/api/status/503"),
        get("www.example.com", "/exact"),
        get("www.example.com", "/exact/x"),
        get("www.example.com", "/img/a.png"),
        get("www.example.com", "/static/a.png"),
        get("www.example.com", "/api/a.png"),
        get("www.example.com", "/v1/head"),
        get("www.example.com", "/health"),
        get("www.example.com", "/secret/x"),
        get("www.example.com:8080", "/old/page?x=1"),
        get("any.wild.example.com", "/head"),
        get("wild.example.com", "/head"),
        get("both.example.org", "/head"),
        get("sub.both.example.org", "/head"),
        get("moved.example.com", "/a/b?c=d"),
        get("bare.example.com", "/nothing"),
        get("unknown.test", "/head"),
        get("unknown.test", "/exact"),
        get("www.example.com", "/head").with(&["-H", "X-Debug: 1"]),
        get("www.example.com", "/upload").with(&["-d", "more than sixteen bytes of body"]),
    ];
    let said = ground.compare("locations.conf", start, &questions);
    assert!(said.contains("locations.conf:"), "{said}");
    assert!(said.contains("gzip on: left out"), "{said}");
}

#[test]
fn upstreams_spread_as_in_nginx() {
    let ground = Ground::new();
    let questions = [
        get("weighted", "/").times(40),
        get("backup", "/").times(6),
        get("down", "/").times(6),
        get("hashed", "/one").times(4),
    ];
    ground.compare("upstreams.conf", start, &questions[..3]);
    // By another hash, but always to the same one.
    let (text, said) = import(&directory().join("upstreams.conf"));
    assert!(text.contains("balance = \"maglev\"\nhash_key = \"path\""), "{text}");
    assert!(said.contains("hash $request_uri consistent: differs"), "{said}");
}

#[test]
fn names_have_their_certificates_and_servers_as_in_nginx() {
    let ground = Ground::new();
    let questions = [
        get("one.example.com", "/a?b=c"),
        secure("one.example.com", "/head"),
        secure("two.example.com", "/head"),
        secure("two.example.com", "/status/404"),
    ];
    ground.compare("tls.conf", start, &questions);
}
