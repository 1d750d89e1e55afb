//! Whatever is in a file, it becomes a configuration or an error, and nothing of it is lost in silence.

use std::path::Path;

use proptest::prelude::*;

use super::draft::Draft;
use super::{haproxy, nginx};
use crate::config;

/// What is wrong with the text of a draft; services that nothing made are no fault of it.
fn problems(draft: &Draft) -> Option<String> {
    config::parse(Path::new("steerage.toml"), &draft.text()).err().map(|error| error.to_string())
}

fn said(draft: &Draft) -> Vec<String> {
    draft.remarks().iter().map(ToString::to_string).collect()
}

fn any_of(all: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(all)
}

const IN_LOCATIONS: &[&str] = &[
    "proxy_pass http://app;",
    "proxy_pass http://app/x/;",
    "proxy_pass http://10.0.0.9;",
    "return 301 https://$host$request_uri;",
    "return 404;",
    "return 200 'a\"b';",
    "root /srv;",
    "proxy_set_header Host $host;",
    "proxy_set_header X $remote_addr;",
    "add_header X-A b;",
    "rewrite ^/a/(.*)$ /b/$1 break;",
    "proxy_read_timeout 5s;",
    "deny all;",
    "client_max_body_size 1m;",
    "proxy_pass http://$backend;",
];

const LOCATIONS: &[&str] =
    &["/", "/a", "/a/", "= /a", "^~ /a/b/", "~ \\.php$", "~* ^/(a|b)$", "@x"];

const NAMES: &[&str] = &["a.test", "*.a.test", ".b.test", "~^x", "_"];

const LISTENS: &[&str] =
    &["80", "[::]:80", "80 default_server", "127.0.0.1:81", "unix:/x", "443 quic"];

const FRONT: &[&str] = &[
    "acl a path_beg /a",
    "acl a path /b",
    "acl b hdr(host) -i x.test",
    "acl c src 10.0.0.0/8",
    "http-request deny if a",
    "http-request deny if a !b",
    "http-request deny unless b",
    "http-request redirect scheme https if !{ ssl_fc }",
    "use_backend two if a",
    "use_backend two if b or a",
    "use_backend two unless a b",
    "use_backend two if c",
    "http-request set-header X y",
    "http-request set-header X %[src]",
    "stick-table type ip",
    "redirect prefix https://x.test if { path_end .php }",
    "default_backend one",
    "option httplog",
];

const BACK: &[&str] = &[
    "server a 10.0.0.1:80",
    "server b 10.0.0.2:80 check backup weight 5",
    "server c name:80",
    "balance source",
    "balance hdr(X-A)",
    "option httpchk GET /x",
    "http-check expect status 200",
    "http-request deny if { path /x }",
    "http-request replace-path ^/a(.*) /b\\1",
    "timeout server 5s",
    "cookie A insert",
    "errorfile 503 /x",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_nginx_conf_becomes_a_configuration(
        servers in proptest::collection::vec(
            (
                any_of(LISTENS), any_of(NAMES),
                proptest::collection::vec(
                    (any_of(LOCATIONS), proptest::collection::vec(any_of(IN_LOCATIONS), 0..4)), 0..5,
                ),
            ),
            1..4,
        ),
    ) {
        let mut text = "http { upstream app { server 10.0.0.1:80; }\n".to_owned();
        for (listen, name, locations) in servers {
            text.push_str(&format!("server {{ listen {listen}; server_name {name};\n"));
            for (location, lines) in locations {
                text.push_str(&format!("location {location} {{ {} }}\n", lines.join("\n")));
            }
            text.push_str("}\n");
        }
        text.push('}');
        let draft = nginx::of_text(&text).unwrap();
        if !draft.listeners.is_empty() {
            prop_assert_eq!(problems(&draft), None, "{}\n{}", text, draft.text());
        }
    }

    #[test]
    fn any_haproxy_cfg_becomes_a_configuration(
        front in proptest::collection::vec(any_of(FRONT), 0..8),
        one in proptest::collection::vec(any_of(BACK), 0..6),
        two in proptest::collection::vec(any_of(BACK), 0..6),
    ) {
        let (front, one, two) = (front.join("\n"), one.join("\n"), two.join("\n"));
        let text = format!(
            "defaults\nmode http\nfrontend web\nbind :80\n{front}\ndefault_backend one\nbackend one\n{one}\n\
             backend two\n{two}\n"
        );
        let draft = haproxy::of_text(&text).unwrap();
        prop_assert_eq!(problems(&draft), None, "{}\n{}", text, draft.text());
    }
}

#[test]
fn what_is_left_out_is_said_with_file_line_and_directive() {
    let draft = nginx::of_text(
        "http {\n gzip on;\n server {\n  listen 80;\n  location / {\n   allow 10.0.0.0/8;\n   root /srv;\n  }\n }\n}",
    );
    let draft = draft.unwrap();
    let all = said(&draft);
    assert!(
        all[0].starts_with("nginx.conf:2: gzip on: left out: nothing is compressed"),
        "{all:?}"
    );
    assert!(
        all.iter().any(|remark| remark.starts_with("nginx.conf:6: allow 10.0.0.0/8: left out"))
    );
    assert!(all.iter().any(|remark| remark.starts_with("nginx.conf:7: root /srv: left out")));
    let text = draft.text();
    let (_, route) = text.split_once("[[listener.route]]").unwrap();
    assert!(route.contains("# nginx.conf:7: root /srv"), "{text}");
    assert!(route.contains("answer = { status = 501"), "{text}");
}

#[test]
fn passed_on_connections_go_by_name() {
    let draft = nginx::of_text(
        "stream {\n map $ssl_preread_server_name $to {\n git.test git;\n *.x.test web;\n default web;\n }\n\
         upstream git { server 10.0.0.1:443; }\n upstream web { server 10.0.0.2:443; }\n\
         server { listen 443; ssl_preread on; proxy_pass $to; proxy_timeout 10m; }\n\
         server { listen 5432; proxy_pass 10.0.0.3:5432; proxy_protocol on; }\n}",
    );
    let draft = draft.unwrap();
    assert_eq!(problems(&draft), None, "{}", draft.text());
    let text = draft.text();
    assert!(text.contains("protocol = \"tls\"\ntimeouts = { tunnel = \"600s\" }"), "{text}");
    assert!(text.contains("sni = \"git.test\"\nservice = \"git\""), "{text}");
    assert!(text.contains("protocol = \"tcp\"\nservice = \"10.0.0.3:5432\""), "{text}");
    assert!(text.contains("upstream = { proxy_protocol = \"v1\" }"), "{text}");
    let draft = haproxy::of_text(
        "frontend in\n bind :443\n mode tcp\n timeout client 1h\n tcp-request inspect-delay 5s\n\
         use_backend git if { req.ssl_sni -i git.test }\n default_backend web\n\
         backend git\n server a 10.0.0.1:443 send-proxy-v2\nbackend web\n server b 10.0.0.2:443\n",
    );
    let draft = draft.unwrap();
    assert_eq!(problems(&draft), None, "{}", draft.text());
    assert!(draft.text().contains("sni = \"git.test\"\nservice = \"git\""), "{}", draft.text());
    assert!(draft.text().contains("proxy_protocol = \"v2\""), "{}", draft.text());
}
