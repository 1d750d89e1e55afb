//! `backend` and the servers of `listen`, as services.

use std::net::SocketAddr;

use super::Bases;
use super::probe;
use super::proxy::{Proxy, time_ms};
use super::token::Line;
use crate::import::draft::{Service, Table};
use crate::import::remark::{Remark, Weight};
use crate::import::{file_beside, millis};

/// Options of `server` lines, `default-server`'s before its own.
pub struct Options<'a>(Vec<&'a str>);

impl<'a> Options<'a> {
    /// Whether it is said, and not taken back.
    pub fn has(&self, name: &str) -> bool {
        let no = format!("no-{name}");
        self.0.iter().rev().find(|word| **word == name || **word == no).is_some_and(|w| *w == name)
    }

    /// The word after the last of that name.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().rposition(|word| *word == name)?;
        self.0.get(at + 1).copied()
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.value(name)?.parse().ok()
    }
}

/// The service that a proxy's servers are.
pub fn service(proxy: &Proxy<'_>, bases: &Bases) -> Service {
    let mut service = Service::default();
    let table = &mut service.table;
    table.set(&["name"], proxy.name);
    set_balance(proxy, table);
    if let Some(cookie) = proxy.get(&["cookie"]) {
        set_cookie(cookie, table);
    }
    if let Some(ms) = proxy.timeout("queue").or_else(|| proxy.timeout("connect")) {
        table.set(&["queue", "timeout"], millis(ms));
    }
    if let Some(retries) = proxy.value(&["retries"]).and_then(|text| text.parse::<i64>().ok()) {
        table.set(&["retry", "attempts"], retries);
    }
    let defaults = proxy.defaults.iter().flat_map(|section| &section.lines);
    let general: Vec<&str> = defaults
        .chain(&proxy.section.lines)
        .filter(|line| line.words[0] == "default-server")
        .flat_map(|line| line.words[1..].iter().map(String::as_str))
        .collect();
    let mut is_checked = false;
    for line in proxy.lines() {
        let words = line.all();
        let (address, rest) = match words.as_slice() {
            ["server", _, address, rest @ ..] => (address, rest),
            ["server-template", _, _, address, rest @ ..] => (address, rest),
            _ => continue,
        };
        let mut all = general.clone();
        all.extend_from_slice(rest);
        let options = Options(all);
        if options.has("check") && !is_checked {
            is_checked = true;
            probe::of(proxy, &options, &mut service.table);
        }
        set_way(&options, line, bases, &mut service.table);
        add_server(address, &options, line, &mut service);
    }
    service
}

fn set_balance(proxy: &Proxy<'_>, table: &mut Table) {
    let line = proxy.get(&["balance"]);
    let text = line.and_then(|line| line.words.get(1)).map_or("roundrobin", String::as_str);
    let (name, argument) = text.split_once('(').unwrap_or((text, ""));
    let argument = argument.trim_end_matches(')');
    let differs = "by Maglev, so keys get other servers than there (but always the same); a backend \
                   with far more than its share passes on";
    let (balance, key, why) = match name {
        "roundrobin" | "static-rr" => ("round_robin", None, None),
        "leastconn" => ("least_requests", None, None),
        "random" => ("random", None, None),
        "first" => ("least_requests", None, Some("the least busy server is taken, not the first")),
        "source" => ("maglev", Some("source".to_owned()), Some(differs)),
        "uri" => ("maglev", Some("path".to_owned()), Some(differs)),
        "hdr" if argument.eq_ignore_ascii_case("host") => {
            ("maglev", Some("host".to_owned()), Some(differs))
        }
        "hdr" => ("maglev", Some(format!("header:{argument}")), Some(differs)),
        _ => ("round_robin", None, Some("there is no such key; requests are spread in turn")),
    };
    table.set(&["balance"], balance);
    if let Some(key) = key {
        table.set(&["hash_key"], key);
    }
    if let (Some(line), Some(why)) = (line, why) {
        table.remark(Remark::new(&line.place, &line.all(), Weight::Differs, why));
    }
}

fn set_cookie(line: &Line, table: &mut Table) {
    let words = line.all();
    let remark = |weight, why: &str| Remark::new(&line.place, &words, weight, why);
    if !words.contains(&"insert") {
        let why = "cookies of backends are not changed; sticky makes one of its own";
        table.remark(remark(Weight::LeftOut, why));
        return;
    }
    table.set(&["sticky", "cookie"], words[1]);
    table.remark(remark(Weight::Differs, "the cookie's value is another: clients get new ones"));
}

/// How all of a service's backends are spoken to, as one of them says it.
fn set_way(options: &Options<'_>, line: &Line, bases: &Bases, table: &mut Table) {
    if options.has("ssl") {
        if options.value("verify") == Some("none") {
            table.set(&["upstream_tls", "verify"], false);
        } else if let Some(ca) = options.value("ca-file") {
            match ca {
                "@system-ca" => table.set(&["upstream_tls", "verify"], true),
                ca => table.set(&["upstream_tls", "ca"], file_beside(&bases.authorities, ca)),
            }
        } else {
            table.set(&["upstream_tls", "verify"], true);
        }
        let fixed = options.value("sni").and_then(|sni| sni.strip_prefix("str("));
        let name = options.value("verifyhost").or(fixed.map(|name| name.trim_end_matches(')')));
        match (name, options.value("sni")) {
            (Some(name), _) => table.set(&["upstream_tls", "sni"], name),
            (None, Some(_)) => {
                let why = "sni: is one name for all requests; give it in upstream_tls.sni";
                table.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
            }
            (None, None) => {}
        }
        if let Some(pem) = options.value("crt") {
            table.set(&["upstream_tls", "cert"], file_beside(&bases.certificates, pem));
            table.set(&["upstream_tls", "key"], file_beside(&bases.certificates, pem));
        }
    }
    if options.value("proto") == Some("h2") || options.value("alpn") == Some("h2") {
        table.set(&["upstream", "protocol"], "h2");
    }
    if options.has("send-proxy-v2") {
        table.set(&["upstream", "proxy_protocol"], "v2");
    } else if options.has("send-proxy") {
        table.set(&["upstream", "proxy_protocol"], "v1");
    }
    if let Some(ms) = options.value("slowstart").and_then(time_ms) {
        table.set(&["slow_start"], millis(ms));
    }
}

fn add_server(address: &str, options: &Options<'_>, line: &Line, service: &mut Service) {
    let remark = |weight, why: &str| Remark::new(&line.place, &line.all(), weight, why);
    let mut backend = Table::default();
    let text = address.strip_prefix("ipv4@").or(address.strip_prefix("ipv6@")).unwrap_or(address);
    match text.parse::<SocketAddr>() {
        Ok(address) if service.has(&address.to_string()) => {
            let why = "it is there already; a backend's share is its weight";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        Ok(address) => backend.set(&["address"], address.to_string()),
        Err(_) if text.starts_with(['/', '@']) || text.contains('@') => {
            let why = "backends are reached by TCP; give it an address and a port";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        Err(_) if text.parse::<std::net::IpAddr>().is_ok() || !text.contains(':') => {
            let why = "a backend needs a port";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        Err(_) if service.table.has(&["discover"]) => {
            let why = "a service has one name to discover; make another one, or give addresses";
            service.table.remark(remark(Weight::LeftOut, why));
            return;
        }
        Err(_) => {
            service.table.set(&["discover", "dns"], text);
            return;
        }
    }
    if let Some(weight) = options.number("weight") {
        backend.set(&["weight"], weight.clamp(0, 256));
    }
    if options.has("disabled") {
        backend.set(&["weight"], 0);
        backend.remark(remark(Weight::Differs, "by a weight of 0: it takes no new work"));
    }
    if options.has("backup") {
        backend.set(&["tier"], 1);
    }
    if let Some(most) = options.number("maxconn").filter(|most| *most > 0) {
        backend.set(&["max_connections"], most);
    }
    service.backends.push(backend);
}
