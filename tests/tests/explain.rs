//! `steerage check --explain`: the command, as an operator uses it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use steerage_lab::command;
use steerage_lab::daemon;
use steerage_lab::scratch::Scratch;
use steerage_tests::stand::PREFIX;

const CONFIG: &str = r#"
[[listener]]
name = "web"
bind = ["192.0.2.1:80"]
protocol = "http"
[[listener.route]]
host = "*.example.com"
path = "/v1"
headers = { X-Version = "2" }
rewrite = { prefix = "/" }
service = "api"
[[listener.route]]
redirect = { to = "https://${host}${uri}", status = 301 }
[[service]]
name = "api"
[[service.backend]]
address = "10.0.0.1:80"
"#;

/// Exit status, standard output and standard error.
fn explain(arguments: &[&str]) -> (Option<i32>, String, String) {
    let scratch = Scratch::new(PREFIX).unwrap();
    let file = scratch.write("steerage.toml", CONFIG).unwrap();
    let mut check = Command::new(daemon::binary().unwrap());
    check.current_dir(file.parent().unwrap()).args(["check", "steerage.toml"]).args(arguments);
    let output = command::finish(&mut check).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn each_route_is_told_with_its_line_until_one_is_taken() {
    let url = "http://api.example.com/v1/users?page=2";
    let (status, said, _) =
        explain(&["--explain", url, "--method", "POST", "--header", "X-Version: 2"]);
    assert_eq!(status, Some(0));
    assert_eq!(
        said,
        "listener \"web\" (192.0.2.1:80):\n  \
         steerage.toml:6: host *.example.com, path /v1, header x-version: taken\n  \
         to service \"api\", 1 backends\n  \
         as POST /users?page=2, Host: api.example.com\n"
    );
    let (_, said, _) = explain(&["--explain", url, "--listener", "web"]);
    assert_eq!(
        said,
        "listener \"web\" (192.0.2.1:80):\n  \
         steerage.toml:6: host *.example.com, path /v1, header x-version: no, \
         there is no header x-version\n  \
         steerage.toml:12: any host, any path: taken\n  \
         to a redirect, 301: https://api.example.com/v1/users?page=2\n"
    );
}

#[test]
fn what_cannot_be_explained_fails_with_a_reason() {
    for (arguments, reason) in [
        (&["--explain", "/v1"][..], "\"/v1\" is no URL of a request"),
        (
            &["--explain", "http://a/", "--listener", "x"],
            "there is no listener \"x\"; there are: web",
        ),
        (&["--explain", "http://a/", "--header", "X"], "\"X\" is no header"),
        (&["--method", "GET"], "--explain"),
    ] {
        let (status, said, error) = explain(arguments);
        assert_ne!(status, Some(0), "{arguments:?}");
        assert!(said.is_empty() && error.contains(reason), "{arguments:?}: {error}");
    }
}
