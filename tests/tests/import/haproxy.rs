//! HAProxy's.

use std::path::Path;

use steerage_lab::process::Process;

use crate::ask::{get, secure};
use crate::peers::{Ground, directory, import};

fn start(ground: &Ground, file: &Path) -> Process {
    // Files that it names are looked for where it runs.
    let scratch = ground.scratch.path().display().to_string();
    ground.start("haproxy", &["-db", "-C", &scratch, "-f", &file.display().to_string()])
}

#[test]
fn rules_take_the_requests_that_they_take_in_haproxy() {
    let ground = Ground::new();
    let questions = [
        get("www.example.com", "/"),
        get("www.example.com", "/head?a=b"),
        get("www.example.com", "/static/x"),
        get("api.example.com", "/"),
        get("API.example.com", "/static/x"),
        get("api.example.com", "/head"),
        get("api.example.com", "/v2/head?q=1"),
        get("api.example.com", "/admin"),
        get("www.example.com", "/admin/x"),
        get("www.example.com", "/x.jpg"),
        get("api.example.com", "/x.JPG"),
        get("sub.files.example.com", "/head"),
        get("files.example.com", "/head"),
        get("www.example.com", "/old/a?b=c"),
        get("moved.example.com", "/a/b?c=d"),
        get("www.example.com", "/ping"),
        get("www.example.com", "/head").with(&["-H", "X-Version: 2"]),
        get("www.example.com", "/head").with(&["-H", "X-Version: 3", "-H", "X-Debug: 1"]),
        get("www.example.com", "/write").with(&["-X", "DELETE"]),
        get("readonly.example.com", "/write").with(&["-X", "POST", "-d", "x"]),
        get("readonly.example.com", "/open/write").with(&["-X", "POST", "-d", "x"]),
        get("readonly.example.com", "/read"),
        get("unknown.test", "/"),
    ];
    let said = ground.compare("rules.cfg", start, &questions);
    assert!(said.contains("rules.cfg:"), "{said}");
    assert!(said.contains("stick-table type ip size 1m: left out"), "{said}");
}

#[test]
fn servers_share_requests_as_in_haproxy() {
    let ground = Ground::new();
    let questions = [
        get("weighted.test", "/").times(40),
        get("backup.test", "/").times(6),
        get("down.test", "/").times(6),
    ];
    ground.compare("servers.cfg", start, &questions);
}

#[test]
fn a_condition_that_no_route_has_never_lets_more_through() {
    let (text, said) = import(&directory().join("refusals.cfg"));
    assert!(said.contains("src 10.0.0.0/8"), "{said}");
    assert!(text.contains("path = \"/admin\"\nanswer = { status = 403"), "{text}");
    assert!(text.contains("path = \"/inside\"\nanswer = { status = 403"), "{text}");
}

#[test]
fn names_have_their_certificates_and_backends_as_in_haproxy() {
    let ground = Ground::new();
    let questions = [
        get("one.example.com", "/a?b=c"),
        secure("one.example.com", "/head"),
        secure("two.example.com", "/head"),
        secure("two.example.com", "/status/404"),
    ];
    ground.compare("tls.cfg", start, &questions);
}
