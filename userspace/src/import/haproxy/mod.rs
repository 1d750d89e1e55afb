//! `haproxy.cfg`.
//!
//! A `frontend` (or the half of a `listen` that is one) becomes a listener for each way in which its
//! addresses are spoken to. `http-request` lines that end a request, `use_backend` and `default_backend`
//! become rules in the order in which HAProxy looks at them; a backend's own come within those that lead
//! to it. Servers become services.

mod backend;
mod bind;
mod condition;
mod http;
mod probe;
mod proxy;
mod token;
mod unknown;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bind::Bind;
use condition::{Acls, Clause};
use http::{Step, Target};
use proxy::{Proxy, time_ms};
use token::Section;
use unknown::remark_others;

use super::draft::{Draft, Listener, Table};
use super::remark::{Remark, Weight};
use super::route::{self, Action, End};
use super::rules::{Host, Match};
use super::{Error, millis};

/// Imports the file.
pub fn import(path: &Path) -> Result<Draft, Error> {
    let directory = path.parent().unwrap_or(Path::new(""));
    Ok(draft(&token::read(path)?, directory))
}

/// What becomes of a text.
#[cfg(test)]
pub(super) fn of_text(text: &str) -> Result<Draft, Error> {
    token::parse("haproxy.cfg", text).map(|sections| draft(&sections, Path::new("/etc")))
}

/// Where files are whose names do not begin with a slash.
struct Bases {
    certificates: PathBuf,
    authorities: PathBuf,
}

impl Bases {
    fn new(sections: &[Section], directory: &Path) -> Self {
        let base = |name: &str| {
            let lines = sections.iter().flat_map(|section| &section.lines);
            let line = lines.rev().find(|line| line.words[0] == name);
            directory.join(line.and_then(|line| line.words.get(1)).map_or("", String::as_str))
        };
        Self { certificates: base("crt-base"), authorities: base("ca-base") }
    }
}

fn draft(sections: &[Section], directory: &Path) -> Draft {
    let bases = &Bases::new(sections, directory);
    let proxies = proxy::all(sections);
    let mut draft = Draft::default();
    for section in sections {
        set_section(section, &mut draft);
    }
    for proxy in &proxies {
        if proxy.kind() != "frontend" {
            let mut service = backend::service(proxy, bases);
            if proxy.kind() == "backend" {
                remark_others(&proxy.section.lines, &mut service.table);
            }
            if proxy.kind() == "backend" || !service.backends.is_empty() {
                draft.services.push(service);
            }
        }
    }
    for proxy in proxies.iter().filter(|proxy| proxy.kind() != "backend") {
        let mut rest = Table::default();
        let binds = bind::all(proxy, bases, &mut rest);
        let is_one = binds.len() == 1;
        for bind in binds {
            let name = match (is_one, bind.is_tls) {
                (true, _) => proxy.name.to_owned(),
                (false, _) => format!("{}-{}", proxy.name, bind.port),
            };
            let name = draft.listener_name(&name);
            let listener = if proxy.is_tcp() {
                tcp(proxy, &name, bind, &mut rest)
            } else {
                Some(http_listener(proxy, &name, bind, &proxies))
            };
            draft.listeners.extend(listener);
        }
        draft.rest.merge(&rest);
    }
    draft
}

fn set_section(section: &Section, draft: &mut Draft) {
    let head = &section.head;
    match head.words[0].as_str() {
        "global" => set_global(section, &mut draft.global),
        "defaults" => remark_others(&section.lines, &mut draft.global),
        "frontend" | "backend" | "listen" => {}
        "userlist" => {
            let why = "nobody is asked for a password here; have the backend do it";
            draft.rest.remark(Remark::new(&head.place, &head.all(), Weight::LeftOut, why));
        }
        "resolvers" => {
            let why = "names are asked of /etc/resolv.conf's servers; see discover.servers";
            draft.rest.remark(Remark::new(&head.place, &head.all(), Weight::LeftOut, why));
        }
        _ => {
            let why = "there is no counterpart";
            draft.rest.remark(Remark::new(&head.place, &head.all(), Weight::LeftOut, why));
        }
    }
}

fn set_global(section: &Section, global: &mut Table) {
    for line in &section.lines {
        let remark = |weight, why: &str| Remark::new(&line.place, &line.all(), weight, why);
        let value = line.words.get(1).map_or("", String::as_str);
        match (line.words[0].as_str(), value.parse::<i64>()) {
            ("maxconn", Ok(count)) => global.set(&["max_connections"], count),
            ("nbthread", Ok(count)) => global.set(&["workers"], count),
            ("hard-stop-after", _) => {
                if let Some(ms) = time_ms(value) {
                    global.set(&["drain"], millis(ms));
                }
            }
            ("user", _) => global.set(&["user"], value),
            ("log", _) if value == "stdout" || value == "stderr" => {
                global.set(&["access_log", "path"], "-");
            }
            ("log", _) if value.starts_with('/') => global.set(&["access_log", "path"], "syslog"),
            ("log", _) => {
                let why = "lines go to files, the local syslog or the journal: docs/operations.md";
                global.remark(remark(Weight::LeftOut, why));
            }
            (
                "daemon" | "group" | "chroot" | "pidfile" | "master-worker" | "nbproc" | "cpu-map",
                _,
            ) => {
                global.remark(remark(Weight::Unneeded, "see docs/operations.md"));
            }
            ("stats", _) => {
                global.remark(remark(Weight::Unneeded, "see global.admin and `steerage status`"));
            }
            (name, _) if name.starts_with("tune.") || name.starts_with("spread-checks") => {
                global.remark(remark(Weight::Unneeded, "it has no meaning here"));
            }
            ("ca-base" | "crt-base", _) => {}
            (name, _) if name.starts_with("ssl-default-") => {
                let why = "TLS is that of rustls: 1.2 and 1.3";
                global.remark(remark(Weight::LeftOut, why));
            }
            _ => global.remark(remark(Weight::LeftOut, "there is no counterpart")),
        }
    }
}

fn listener(proxy: &Proxy<'_>, name: &str, bind: &Bind, protocol: &str) -> Table {
    let mut table = Table::default();
    table.set(&["name"], name);
    table.merge(&bind.table);
    table.set(&["protocol"], protocol);
    remark_others(&proxy.section.lines, &mut table);
    table
}

/// A listener of connections that are passed on; `None` if it leads nowhere.
fn tcp(proxy: &Proxy<'_>, name: &str, bind: Bind, rest: &mut Table) -> Option<Listener> {
    if bind.is_tls {
        let why = "a listener that ends TLS speaks HTTP; pass TLS on to the backends";
        rest.remark(Remark::new(
            &proxy.section.head.place,
            &proxy.section.head.all(),
            Weight::LeftOut,
            why,
        ));
        return None;
    }
    let acls = Acls::new(proxy.lines(), false);
    let own = proxy.lines().any(|line| line.words[0] == "server");
    let default = proxy.value(&["default_backend"]).or(own.then_some(proxy.name));
    let mut routes = Vec::new();
    let mut table = listener(proxy, name, &bind, "tcp");
    for line in proxy.lines().filter(|line| line.words[0] == "use_backend") {
        let (words, clauses) = acls.split(&line.words[1..]);
        for clause in clauses {
            let Match { host, path: super::rules::Path::Any, .. } = &clause.matches else {
                continue;
            };
            let sni = match host {
                Host::Exact(host) => host.clone(),
                Host::Suffix(suffix) => format!("*{suffix}"),
                Host::Any => String::new(),
            };
            if sni.is_empty() || !clause.not.is_empty() || !clause.unknown.is_empty() {
                let why = "connections are told apart by the name in their ClientHello alone";
                table.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
                continue;
            }
            let mut route = Table::default();
            route.set(&["sni"], sni);
            route.set(&["service"], words.first().copied().unwrap_or_default());
            routes.push(route);
        }
    }
    match (routes.is_empty(), default) {
        (true, None) => return None,
        (true, Some(service)) => table.set(&["service"], service),
        (false, default) => {
            table.set(&["protocol"], "tls");
            if let Some(service) = default {
                let mut route = Table::default();
                route.set(&["service"], service);
                routes.push(route);
            }
        }
    }
    if let Some(ms) = proxy.timeout("connect") {
        table.set(&["timeouts", "connect"], millis(ms));
    }
    let idle = proxy.timeout("tunnel").or(proxy.timeout("client").max(proxy.timeout("server")));
    if let Some(ms) = idle {
        table.set(&["timeouts", "tunnel"], millis(ms));
    }
    Some(Listener { table, routes })
}

fn http_listener(proxy: &Proxy<'_>, name: &str, bind: Bind, proxies: &[Proxy<'_>]) -> Listener {
    let mut table = listener(proxy, name, &bind, if bind.is_tls { "https" } else { "http" });
    // HAProxy says nothing of itself to backends.
    table.set(&["forwarding", "via"], "off");
    table.set(&["forwarding", "request_id"], "off");
    let client = proxy.timeout("client");
    let times = [
        ("header_read", proxy.timeout("http-request")),
        ("idle", proxy.timeout("http-keep-alive").or(client)),
        ("stall", client),
    ];
    for (key, ms) in times {
        if let Some(ms) = ms {
            table.set(&["timeouts", key], millis(ms));
        }
    }
    let acls = Acls::new(proxy.lines(), bind.is_tls);
    let mut steps = http::steps(proxy, &acls, &mut table);
    for line in proxy.lines().filter(|line| line.words[0] == "use_backend") {
        let (words, mut clauses) = acls.split(&line.words[1..]);
        clauses.retain(|clause| {
            if !clause.unknown.is_empty() {
                let why = format!("{}: no route can ask for that", clause.unknown.join(", "));
                table.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
            }
            clause.unknown.is_empty()
        });
        let backend = words.first().copied().unwrap_or_default();
        if !proxies.iter().any(|proxy| proxy.name == backend) {
            let why = "there is no such backend by this name alone";
            table.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
            continue;
        }
        let target = Target::Backend(backend.to_owned());
        steps.push(Step { clauses, target, place: line.place.clone() });
    }
    let own = proxy.lines().any(|line| line.words[0] == "server").then_some(proxy.name);
    if let Some(default) = proxy.value(&["default_backend"]).or(own) {
        let place = proxy.get(&["default_backend"]).unwrap_or(&proxy.section.head).place.clone();
        let target = Target::Backend(default.to_owned());
        steps.push(Step { clauses: vec![Clause::ANY], target, place });
    }
    let mut keys = Table::default();
    http::set_changes(proxy, &acls, &mut keys);
    let mut inner = Table::default();
    let mut made: Vec<(String, Vec<super::rules::Rule<Action>>)> = Vec::new();
    let mut resolve = |name: &str| {
        if let Some((_, rules)) = made.iter().find(|(known, _)| known == name) {
            return rules.clone();
        }
        let rules = to_backend(name, proxy, &keys, bind.is_tls, proxies, &mut inner);
        made.push((name.to_owned(), rules.clone()));
        rules
    };
    let rules = http::rules(&steps, &mut resolve, &mut table);
    table.merge(&inner);
    let routes = route::routes(rules, &mut table);
    Listener { table, routes }
}

/// The rules of a backend, for all requests that come to it from one listener.
fn to_backend(
    name: &str,
    front: &Proxy<'_>,
    keys: &Table,
    is_tls: bool,
    proxies: &[Proxy<'_>],
    remarks: &mut Table,
) -> Vec<super::rules::Rule<Action>> {
    let Some(back) = proxies.iter().find(|proxy| proxy.name == name && proxy.kind() != "frontend")
    else {
        return Vec::new();
    };
    let mut table = Table::default();
    let times = [
        ("connect", back.timeout("connect")),
        ("first_byte", back.timeout("server")),
        ("stall", back.timeout("server")),
        ("tunnel", back.timeout("tunnel")),
        ("half_closed", front.timeout("client-fin").or(back.timeout("server-fin"))),
    ];
    for (key, ms) in times {
        if let Some(ms) = ms {
            table.set(&["timeouts", key], millis(ms));
        }
    }
    table.merge(keys);
    let acls = Acls::new(back.lines(), is_tls);
    let mut rewrite = None;
    let mut steps = Vec::new();
    // Those of a `listen` are its frontend's already.
    if back.kind() == "backend" {
        steps = http::steps(back, &acls, remarks);
        rewrite = http::set_changes(back, &acls, &mut table);
    }
    let action = Rc::new(Action { end: End::Service(name.to_owned()), rewrite, table });
    let place = back.section.head.place.clone();
    steps.push(Step { clauses: vec![Clause::ANY], target: Target::Action(action), place });
    http::rules(&steps, &mut |_| Vec::new(), remarks)
}
