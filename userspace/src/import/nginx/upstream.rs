//! `upstream` blocks, and what locations say of the way to them, as services.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::scope::{Scope, time_ms};
use super::token::Directive;
use super::unknown::remark_others;
use crate::import::draft::{Draft, Service, Table};
use crate::import::file_beside;
use crate::import::millis;
use crate::import::remark::{Remark, Weight};

/// The services of a configuration.
pub struct Services<'a> {
    upstreams: HashMap<&'a str, &'a Directive>,
    directory: std::path::PathBuf,
}

/// Where `proxy_pass` leads.
pub struct Target<'a> {
    /// As its URL has it.
    pub authority: &'a str,
    pub is_tls: bool,
    pub is_grpc: bool,
}

const TRANSLATED: [&str; 16] = [
    "server",
    "least_conn",
    "ip_hash",
    "hash",
    "random",
    "keepalive",
    "keepalive_timeout",
    "keepalive_requests",
    "keepalive_time",
    "zone",
    "sticky",
    "least_time",
    "ntlm",
    "queue",
    "state",
    "resolver",
];

impl<'a> Services<'a> {
    pub fn new(block: &'a [Directive], directory: &std::path::Path) -> Self {
        let upstreams = block.iter().filter(|directive| directive.name() == "upstream");
        let named = |d: &'a Directive| d.words.get(1).map(|name| (name.as_str(), d));
        Self { upstreams: upstreams.filter_map(named).collect(), directory: directory.to_owned() }
    }

    /// The name of the service for a target; a second one of the same backends if it differs.
    pub fn service(&self, draft: &mut Draft, target: &Target<'_>, scope: &Scope<'_>) -> String {
        let mut service = Service::default();
        match self.upstreams.get(target.authority) {
            Some(upstream) => read_upstream(upstream, &mut service),
            None => add_address(&mut service, target),
        }
        self.set_tls(&mut service.table, target, scope);
        set_retry(&mut service.table, scope);
        let base = target.authority.to_owned();
        for number in 1.. {
            let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let known = draft.services.iter().find(|s| is_named(&s.table, &name));
            let mut named = service.clone();
            let mut table = Table::default();
            table.set(&["name"], name.as_str());
            table.merge(&named.table);
            named.table = table;
            match known {
                Some(known) if written(known) == written(&named) => return name,
                Some(_) => {}
                None => {
                    draft.services.push(named);
                    return name;
                }
            }
        }
        base
    }

    fn set_tls(&self, table: &mut Table, target: &Target<'_>, scope: &Scope<'_>) {
        if target.is_grpc {
            table.set(&["upstream", "protocol"], "h2");
        }
        if !target.is_tls {
            return;
        }
        let host = target.authority.split(':').next().unwrap_or_default();
        let verifies = scope.is_on("proxy_ssl_verify");
        if scope.is_on("proxy_ssl_server_name") || verifies {
            table.set(&["upstream_tls", "sni"], scope.value("proxy_ssl_name").unwrap_or(host));
        }
        match scope.value("proxy_ssl_trusted_certificate") {
            Some(ca) if verifies => {
                table.set(&["upstream_tls", "ca"], file_beside(&self.directory, ca));
            }
            _ if verifies => table.set(&["upstream_tls", "verify"], true),
            _ => {
                table.set(&["upstream_tls", "verify"], false);
                if let Some(pass) = scope.get("proxy_pass").or_else(|| scope.get("grpc_pass")) {
                    let why = "the backends' certificates are not verified there (proxy_ssl_verify \
                               is off), so neither here: better give upstream_tls a ca";
                    let remark = Remark::new(&pass.place, &pass.all(), Weight::Differs, why);
                    table.remark(remark);
                }
            }
        }
        for (name, key) in [("proxy_ssl_certificate", "cert"), ("proxy_ssl_certificate_key", "key")]
        {
            if let Some(file) = scope.value(name) {
                table.set(&["upstream_tls", key], file_beside(&self.directory, file));
            }
        }
    }
}

fn is_named(table: &Table, name: &str) -> bool {
    table.get(&["name"]).and_then(|known| known.as_str()) == Some(name)
}

fn written(service: &Service) -> String {
    Draft { services: vec![service.clone()], ..Draft::default() }.text()
}

fn add_address(service: &mut Service, target: &Target<'_>) {
    let default = if target.is_tls { 443 } else { 80 };
    match socket(target.authority, default) {
        Some(address) => {
            let mut backend = Table::default();
            backend.set(&["address"], address.to_string());
            service.backends.push(backend);
        }
        None => service.table.set(&["discover", "dns"], with_port(target.authority, default)),
    }
}

fn with_port(name: &str, port: u16) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}:{port}") }
}

/// An address with a port; `None` for a name.
pub fn socket(text: &str, port: u16) -> Option<SocketAddr> {
    let text =
        text.strip_prefix("localhost").map_or(text.to_owned(), |rest| format!("127.0.0.1{rest}"));
    let alone = || text.trim_matches(['[', ']']).parse().ok().map(|ip| SocketAddr::new(ip, port));
    text.parse().ok().or_else(alone)
}

fn read_upstream(upstream: &Directive, service: &mut Service) {
    let block = upstream.block.as_deref().unwrap_or_default();
    let scope = Scope::new(block);
    service.table.set(&["balance"], "round_robin");
    set_balance(block, &mut service.table);
    let keep = [("keepalive_requests", "max_requests"), ("keepalive", "max_idle")];
    for (name, key) in keep {
        if let Some(number) = scope.value(name).and_then(|text| text.parse::<i64>().ok()) {
            service.table.set(&["pool", key], number);
        }
    }
    for (name, key) in [("keepalive_timeout", "idle"), ("keepalive_time", "max_age")] {
        if let Some(ms) = scope.value(name).and_then(time_ms) {
            service.table.set(&["pool", key], millis(ms));
        }
    }
    for server in block.iter().filter(|directive| directive.name() == "server") {
        read_server(server, service);
    }
    remark_others(block, &TRANSLATED, &mut service.table);
}

fn set_balance(block: &[Directive], table: &mut Table) {
    for directive in block {
        let arguments = directive.arguments();
        let differs =
            |why: &str| Remark::new(&directive.place, &directive.all(), Weight::Differs, why);
        match directive.name() {
            "least_conn" | "least_time" => table.set(&["balance"], "least_requests"),
            "random" if arguments.first() == Some(&"two") => {
                table.set(&["balance"], "least_requests");
            }
            "random" => table.set(&["balance"], "random"),
            "ip_hash" => {
                table.set(&["balance"], "maglev");
                table.set(&["hash_key"], "source");
                table.remark(differs(
                    "the whole address is hashed, not the first three bytes of it, so clients get \
                     other backends than there; a backend with far more than its share passes on",
                ));
            }
            "hash" => {
                let Some(key) = hash_key(arguments.first().copied().unwrap_or_default()) else {
                    let why = "hash_key is one of source, header:NAME, cookie:NAME, path, host; \
                               requests are spread in turn until then";
                    let remark =
                        Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
                    table.remark(remark);
                    continue;
                };
                table.set(&["balance"], "maglev");
                table.set(&["hash_key"], key);
                table.remark(differs(
                    "by Maglev, so keys get other backends than there (but always the same); the \
                     query is no part of a path",
                ));
            }
            "sticky" => {
                if let ["cookie", name, ..] = arguments.as_slice() {
                    table.set(&["sticky", "cookie"], *name);
                }
                table.remark(differs("the cookie's value is another: clients get new ones"));
            }
            _ => {}
        }
    }
}

fn hash_key(key: &str) -> Option<String> {
    let name = key.trim_start_matches('$').trim_start_matches('{').trim_end_matches('}');
    Some(match name {
        "remote_addr" | "binary_remote_addr" => "source".into(),
        "uri" | "request_uri" => "path".into(),
        "host" | "http_host" => "host".into(),
        _ => {
            let (kind, name) = name.split_once('_')?;
            match kind {
                "http" => format!("header:{}", name.replace('_', "-")),
                "cookie" => format!("cookie:{name}"),
                _ => return None,
            }
        }
    })
}

fn read_server(server: &Directive, service: &mut Service) {
    let arguments = server.arguments();
    let Some((address, options)) = arguments.split_first() else { return };
    let remark = |weight, why: &str| Remark::new(&server.place, &server.all(), weight, why);
    let mut backend = Table::default();
    match socket(address, 80) {
        Some(address) if service.has(&address.to_string()) => {
            let why = "it is there already; a backend's share is its weight";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        Some(address) => backend.set(&["address"], address.to_string()),
        None if address.starts_with("unix:") => {
            let why = "backends are reached by TCP; give it an address and a port";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        None if service.table.has(&["discover"]) => {
            let why = "a service has one name to discover; make another one, or give addresses";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        None => {
            service.table.set(&["discover", "dns"], with_port(address, 80));
            return;
        }
    }
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let number = value.parse::<i64>().ok();
        match (name, number) {
            ("weight", Some(weight)) => {
                if weight > 256 {
                    let why = "weights are 256 at most; scale those of the service down";
                    backend.remark(remark(Weight::Differs, why));
                }
                backend.set(&["weight"], weight.min(256));
            }
            ("max_conns", Some(most)) if most > 0 => backend.set(&["max_connections"], most),
            ("backup", _) => backend.set(&["tier"], 1),
            ("down", _) => backend.set(&["weight"], 0),
            ("max_fails", Some(0)) => service.table.set(&["ejection", "max_percent"], 0),
            ("max_fails", Some(count)) => {
                service.table.set(&["ejection", "consecutive"], count.min(255));
            }
            ("fail_timeout", _) if let Some(ms) = time_ms(value) => {
                service.table.set(&["ejection", "base"], millis(ms));
            }
            ("slow_start", _) if let Some(ms) = time_ms(value) => {
                service.table.set(&["slow_start"], millis(ms));
            }
            ("resolve" | "max_conns", _) => {}
            _ => backend
                .remark(remark(Weight::LeftOut, &format!("{option}: there is no counterpart"))),
        }
    }
    service.backends.push(backend);
}

fn set_retry(table: &mut Table, scope: &Scope<'_>) {
    let tries = scope.value("proxy_next_upstream_tries").and_then(|text| text.parse::<i64>().ok());
    if let Some(tries) = tries.filter(|tries| *tries > 0) {
        table.set(&["retry", "attempts"], tries - 1);
    }
    let Some(next) = scope.get("proxy_next_upstream") else { return };
    let arguments = next.arguments();
    if arguments.contains(&"off") {
        table.set(&["retry", "attempts"], 0);
        table.set(&["retry", "lost"], false);
    }
    let others = |word: &&&str| {
        word.starts_with("http_") || ["invalid_header", "non_idempotent"].contains(word)
    };
    let others: Vec<&str> = arguments.iter().filter(others).copied().collect();
    if !others.is_empty() {
        let why = format!(
            "{}: what was answered is never asked again, and what is not idempotent only where the \
             backend provably did not get it: docs/l7.md",
            others.join(", ")
        );
        table.remark(Remark::new(&next.place, &next.all(), Weight::Differs, why));
    }
}
