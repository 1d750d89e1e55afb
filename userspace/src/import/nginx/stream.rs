//! `stream`: connections that are passed on, by name or all to one upstream.

use std::path::Path;

use super::listen;
use super::scope::{Scope, time_ms};
use super::token::Directive;
use super::unknown::remark_others;
use super::upstream::{Services, Target};
use crate::import::draft::{Draft, Listener, Table};
use crate::import::millis;
use crate::import::remark::{Remark, Weight};

const TRANSLATED: [&str; 10] = [
    "listen",
    "proxy_pass",
    "proxy_connect_timeout",
    "proxy_timeout",
    "proxy_protocol",
    "ssl_preread",
    "server",
    "upstream",
    "preread_timeout",
    "access_log",
];

pub fn import(stream: &Directive, directory: &Path, draft: &mut Draft) {
    let block = stream.block.as_deref().unwrap_or_default();
    let outer = Scope::new(block);
    let services = Services::new(block, directory);
    let used =
        |directive: &Directive| directive.name() == "map" && names(block, directive).is_some();
    let mut global = Table::default();
    for directive in block.iter().filter(|directive| !used(directive)) {
        remark_others(std::slice::from_ref(directive), &TRANSLATED, &mut global);
    }
    draft.global.merge(&global);
    let (servers, scopes): (Vec<_>, Vec<_>) = outer.inner("server").into_iter().unzip();
    let mut rest = Table::default();
    for group in listen::groups(&scopes, &mut rest) {
        let server = &scopes[group.default];
        let mut listener = Listener::default();
        let table = &mut listener.table;
        let port = group.addresses[0].port();
        table.set(&["name"], draft.listener_name(&format!("stream-{port}")));
        for address in &group.addresses {
            table.push(&["bind"], address.to_string());
        }
        remark_others(server.own(), &TRANSLATED, table);
        if group.is_tls {
            let why = "a listener that ends TLS speaks HTTP; pass TLS on to the backends";
            let remark = Remark::new(
                &servers[group.default].place,
                &["listen ... ssl"],
                Weight::LeftOut,
                why,
            );
            rest.remark(remark);
            continue;
        }
        let Some(pass) = server.get("proxy_pass") else { continue };
        let target = pass.words.get(1).map_or("", String::as_str);
        let mut service = |authority: &str| {
            let target = Target { authority, is_tls: false, is_grpc: false };
            let name = services.service(draft, &target, server);
            if server.is_on("proxy_protocol") {
                let named = |service: &&mut crate::import::draft::Service| {
                    service.table.get(&["name"]).and_then(|n| n.as_str()) == Some(&name)
                };
                if let Some(service) = draft.services.iter_mut().find(named) {
                    service.table.set(&["upstream", "proxy_protocol"], "v1");
                }
            }
            name
        };
        match target.strip_prefix('$') {
            None => {
                table.set(&["protocol"], "tcp");
                let name = service(target);
                table.set(&["service"], name);
            }
            Some(variable) => {
                let map = block.iter().find(|directive| {
                    directive.name() == "map" && names(block, directive) == Some(variable)
                });
                let Some(map) = map.filter(|_| server.is_on("ssl_preread")) else {
                    let why =
                        "variables can't name backends, but for a map of $ssl_preread_server_name";
                    rest.remark(Remark::new(&pass.place, &pass.all(), Weight::LeftOut, why));
                    continue;
                };
                table.set(&["protocol"], "tls");
                listener.routes = by_name(map, &mut listener.table, &mut service);
            }
        }
        for (name, key) in [("proxy_connect_timeout", "connect"), ("proxy_timeout", "tunnel")] {
            if let Some(ms) = server.value(name).and_then(time_ms) {
                listener.table.set(&["timeouts", key], millis(ms));
            }
        }
        if group.has_proxy_header {
            for net in ["0.0.0.0/0", "::/0"] {
                listener.table.push(&["proxy_protocol", "accept_from"], net);
            }
        }
        draft.listeners.push(listener);
    }
    draft.rest.merge(&rest);
}

/// The variable that a map makes of the name which a TLS client asks for.
fn names<'a>(_: &[Directive], map: &'a Directive) -> Option<&'a str> {
    match map.arguments()[..] {
        ["$ssl_preread_server_name", variable] => variable.strip_prefix('$'),
        _ => None,
    }
}

fn by_name(
    map: &Directive,
    listener: &mut Table,
    service: &mut impl FnMut(&str) -> String,
) -> Vec<Table> {
    let mut routes = Vec::new();
    for entry in map.block.as_deref().unwrap_or_default() {
        let [name, target] = entry.words.as_slice() else { continue };
        let mut route = Table::default();
        match name.as_str() {
            "default" => {}
            "hostnames" | "volatile" => continue,
            regex if regex.starts_with('~') => {
                let why = "names are whole ones, or wildcards as *.example.com";
                listener.remark(Remark::new(&entry.place, &entry.all(), Weight::LeftOut, why));
                continue;
            }
            name => match name.strip_prefix('.') {
                Some(domain) => {
                    let mut exact = Table::default();
                    exact.set(&["sni"], domain);
                    exact.set(&["service"], service(target));
                    routes.push(exact);
                    route.set(&["sni"], format!("*.{domain}"));
                }
                None => route.set(&["sni"], name),
            },
        }
        route.set(&["service"], service(target));
        routes.push(route);
    }
    // One without a name takes what no other does, wherever it stands.
    routes
}
