//! How a request is passed on: headers, limits, times.

use super::scope::{Scope, size, time_ms};
use super::token::Directive;
use crate::import::draft::Table;
use crate::import::millis;
use crate::import::remark::{Remark, Weight};

/// What a location says that the functions here, or their caller, translate.
pub const TRANSLATED: [&str; 34] = [
    "proxy_pass",
    "grpc_pass",
    "proxy_set_header",
    "proxy_hide_header",
    "proxy_pass_header",
    "add_header",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "client_max_body_size",
    "return",
    "rewrite",
    "proxy_ssl_verify",
    "proxy_ssl_server_name",
    "proxy_ssl_name",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "access_log",
    "listen",
    "server_name",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "ssl_client_certificate",
    "ssl_verify_client",
    "client_header_timeout",
    "keepalive_timeout",
    "send_timeout",
    "set_real_ip_from",
    "real_ip_header",
    "real_ip_recursive",
];

/// Sets what holds for requests to a service. `authority` is what its URL names.
pub fn set_keys(table: &mut Table, scope: &Scope<'_>, authority: &str) {
    set_request_headers(table, scope, authority);
    set_times(table, scope);
    if let Some(limit) = scope.value("client_max_body_size").and_then(size) {
        table.set(&["max_body"], limit);
    }
    for hidden in scope.all("proxy_hide_header") {
        if let Some(name) = hidden.words.get(1) {
            table.push(&["response_headers", "remove"], name.as_str());
        }
    }
}

fn set_times(table: &mut Table, scope: &Scope<'_>) {
    if let Some(ms) = scope.value("proxy_connect_timeout").and_then(time_ms) {
        table.set(&["timeouts", "connect"], millis(ms));
    }
    let read = scope.value("proxy_read_timeout").and_then(time_ms);
    let send = scope.value("proxy_send_timeout").and_then(time_ms);
    if let Some(ms) = read {
        table.set(&["timeouts", "first_byte"], millis(ms));
        table.set(&["timeouts", "tunnel"], millis(ms));
    }
    if let Some(ms) = read.max(send) {
        table.set(&["timeouts", "stall"], millis(ms));
    }
    if let (Some(read), Some(send), Some(directive)) = (read, send, scope.get("proxy_send_timeout"))
        && read != send
    {
        let why = "one time (stall) holds for both ways of a body: the longer one";
        let remark = Remark::new(&directive.place, &directive.all(), Weight::Differs, why);
        table.remark(remark);
    }
}

fn set_request_headers(table: &mut Table, scope: &Scope<'_>, authority: &str) {
    let mut has_host = false;
    for directive in scope.all("proxy_set_header") {
        let [name, value] = directive.arguments()[..] else { continue };
        has_host |= name.eq_ignore_ascii_case("host");
        set_request_header(table, directive, name, value, authority);
    }
    if !has_host {
        table.set(&["host_header"], format!("name:{authority}"));
    }
}

fn set_request_header(
    table: &mut Table,
    directive: &Directive,
    name: &str,
    value: &str,
    authority: &str,
) {
    let lower = name.to_ascii_lowercase();
    let remark = |weight, why: &str| Remark::new(&directive.place, &directive.all(), weight, why);
    match (lower.as_str(), value) {
        ("host", "$host" | "$http_host") => {
            if value == "$host" {
                let why = "Host is passed on as the client wrote it, with its port if it has one";
                table.remark(remark(Weight::Differs, why));
            }
        }
        ("host", "$proxy_host") => table.set(&["host_header"], format!("name:{authority}")),
        ("host", value) if !value.contains('$') => {
            table.set(&["host_header"], format!("name:{value}"));
        }
        ("connection" | "upgrade" | "te", _) => {
            let why = "connections are kept, and tunnels opened, by themselves";
            table.remark(remark(Weight::Unneeded, why));
        }
        ("x-forwarded-for", "$proxy_add_x_forwarded_for") => {
            let why = "what strangers say in it is replaced; name the proxies before this one in \
                       global.trusted_proxies";
            table.remark(remark(Weight::Differs, why));
        }
        ("x-forwarded-for", "$remote_addr")
        | ("x-forwarded-proto", "$scheme")
        | ("x-forwarded-host", "$host" | "$http_host") => {
            table.remark(remark(Weight::Unneeded, "it is set in any case"));
        }
        (_, "") => table.push(&["request_headers", "remove"], name),
        (_, value) if !value.contains('$') => {
            table.set(&["request_headers", "set", name], value);
        }
        ("x-real-ip", "$remote_addr") => {
            let why = "X-Forwarded-For has the client's address; values are fixed texts";
            table.remark(remark(Weight::LeftOut, why));
        }
        _ => table.remark(remark(Weight::LeftOut, "values are fixed texts, without variables")),
    }
}

/// Sets what is added to responses.
pub fn set_response_headers(table: &mut Table, scope: &Scope<'_>) {
    for directive in scope.all("add_header") {
        let arguments = directive.arguments();
        let (Some(name), Some(value)) = (arguments.first(), arguments.get(1)) else { continue };
        if value.contains('$') {
            let why = "values are fixed texts, without variables";
            let remark = Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
            table.remark(remark);
            continue;
        }
        table.set(&["response_headers", "add", name], *value);
        if !arguments.contains(&"always") {
            let why = "responses of every status get it, errors too";
            let remark = Remark::new(&directive.place, &directive.all(), Weight::Differs, why);
            table.remark(remark);
        }
    }
}
