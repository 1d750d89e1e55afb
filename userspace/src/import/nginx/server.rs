//! `http` and its servers, as listeners and their routes.

use std::cmp::Reverse;
use std::path::Path as FilePath;
use std::rc::Rc;

use super::listen::{self, Group};
use super::location::{self, Kind, Rewritten};
use super::pass;
use super::scope::{Scope, time_ms};
use super::token::Directive;
use super::unknown::remark_others;
use super::upstream::Services;
use crate::import::draft::{Draft, Listener, Table};
use crate::import::remark::{Remark, Weight};
use crate::import::route::{self, Action, End, Rewrite};
use crate::import::rules::{Host, Match, Path, Rule};
use crate::import::{file_beside, millis};

pub fn import_http(http: &Directive, directory: &FilePath, draft: &mut Draft) {
    let block = http.block.as_deref().unwrap_or_default();
    let outer = Scope::new(block);
    let services = Services::new(block, directory);
    set_global(&outer, directory, &mut draft.global);
    let others: Vec<&str> =
        ["server", "upstream", "access_log"].into_iter().chain(pass::TRANSLATED).collect();
    let mut global = Table::default();
    remark_others(block, &others, &mut global);
    draft.global.merge(&global);
    let (servers, scopes): (Vec<_>, Vec<_>) = outer.inner("server").into_iter().unzip();
    let mut rest = Table::default();
    for group in listen::groups(&scopes, &mut rest) {
        let default = &scopes[group.default];
        let mut listener = Listener::default();
        listener.table.set(&["name"], draft.listener_name(&name(&group)));
        set_listener(&mut listener.table, &group, &scopes, directory);
        let mut rules = Vec::new();
        for index in &group.servers {
            let server = &scopes[*index];
            remark_others(server.own(), &server_translated(), &mut listener.table);
            let hosts = if *index == group.default {
                vec![Host::Any]
            } else {
                hosts(server, &mut listener.table)
            };
            if server.own().as_ptr() != default.own().as_ptr() {
                remark_of_defaults(server, default, &mut listener.table);
            }
            let all = rules_of(server, servers[*index], (&services, &mut *draft), &mut listener);
            for host in hosts {
                let at_host = all.iter().cloned().filter_map(|rule| restricted(rule, &host));
                rules.extend(at_host);
            }
        }
        // A name decides before a wildcard, the longer one first, and these before the default server.
        rules.sort_by_key(|rule| match &rule.matches.host {
            Host::Exact(_) => (0, Reverse(0)),
            Host::Suffix(suffix) => (1, Reverse(suffix.len())),
            Host::Any => (2, Reverse(0)),
        });
        listener.routes = route::routes(rules, &mut listener.table);
        draft.listeners.push(listener);
    }
    draft.rest.merge(&rest);
}

fn server_translated() -> Vec<&'static str> {
    // Conditions are looked at one by one.
    ["location", "if"].into_iter().chain(pass::TRANSLATED).collect()
}

/// The rule for one host; `None` if it is for another.
fn restricted(mut rule: Rule<Action>, host: &Host) -> Option<Rule<Action>> {
    match (&rule.matches.host, host) {
        (Host::Any, _) => rule.matches.host = host.clone(),
        (_, Host::Any) => {}
        (own, host) if own == host => {}
        _ => return None,
    }
    Some(rule)
}

fn set_global(http: &Scope<'_>, directory: &FilePath, global: &mut Table) {
    if let Some(log) = http.get("access_log") {
        match log.arguments()[..] {
            [] => {}
            ["off", ..] => global.set(&["access_log"], "off"),
            [path, ref rest @ ..] => {
                global.set(&["access_log", "path"], file_beside(directory, path));
                global.set(&["access_log", "format"], "combined");
                if rest.first().is_some_and(|format| *format != "combined") {
                    let why = "its format is nginx's `combined`; docs/operations.md has others";
                    let remark = Remark::new(&log.place, &log.all(), Weight::Differs, why);
                    global.remark(remark);
                }
            }
        }
    }
    for trusted in http.all("set_real_ip_from") {
        if let Some(net) = trusted.words.get(1) {
            global.push(&["trusted_proxies"], net_of(net));
        }
    }
}

/// A network, as lists of them have it.
fn net_of(text: &str) -> String {
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) => ipnet::IpNet::from(ip).to_string(),
        Err(_) => text.to_owned(),
    }
}

fn name(group: &Group) -> String {
    let (ip, port) = (group.addresses[0].ip(), group.addresses[0].port());
    let kind = if group.is_tls { "https" } else { "http" };
    if ip.is_unspecified() { format!("{kind}-{port}") } else { format!("{kind}-{ip}-{port}") }
}

fn set_listener(table: &mut Table, group: &Group, scopes: &[Scope<'_>], directory: &FilePath) {
    let default = &scopes[group.default];
    for address in &group.addresses {
        table.push(&["bind"], address.to_string());
    }
    table.set(&["protocol"], if group.is_tls { "https" } else { "http" });
    if group.has_proxy_header {
        set_proxy_header(table, default);
    }
    if group.is_tls {
        set_tls(table, group, scopes, directory);
    }
    let times = [
        ("client_header_timeout", "header_read"),
        ("keepalive_timeout", "idle"),
        ("send_timeout", "stall"),
    ];
    for (name, key) in times {
        if let Some(ms) = default.value(name).and_then(time_ms) {
            table.set(&["timeouts", key], millis(ms));
        }
    }
    // nginx says nothing of itself to backends.
    table.set(&["forwarding", "via"], "off");
    table.set(&["forwarding", "request_id"], "off");
    let own_log = default.own().iter().find(|directive| directive.name() == "access_log");
    if own_log.and_then(|log| log.words.get(1)).is_some_and(|path| path == "off") {
        table.set(&["access_log"], false);
    }
}

fn set_proxy_header(table: &mut Table, scope: &Scope<'_>) {
    let trusted = scope.all("set_real_ip_from");
    if !trusted.is_empty() {
        for net in trusted.iter().filter_map(|directive| directive.words.get(1)) {
            table.push(&["proxy_protocol", "accept_from"], net_of(net));
        }
        return;
    }
    for net in ["0.0.0.0/0", "::/0"] {
        table.push(&["proxy_protocol", "accept_from"], net);
    }
    let listens = scope.own().iter().filter(|directive| directive.name() == "listen");
    for listen in listens.filter(|listen| listen.words.iter().any(|word| word == "proxy_protocol"))
    {
        let why =
            "anybody may say who the client is, as there: name the proxies alone in accept_from";
        table.remark(Remark::new(&listen.place, &listen.all(), Weight::Differs, why));
    }
}

fn set_tls(table: &mut Table, group: &Group, scopes: &[Scope<'_>], directory: &FilePath) {
    let default = &scopes[group.default];
    let others = group.servers.iter().filter(|index| **index != group.default);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for server in [&group.default].into_iter().chain(others).map(|index| &scopes[*index]) {
        let (certs, keys) = (server.all("ssl_certificate"), server.all("ssl_certificate_key"));
        for (cert, key) in certs.iter().zip(keys) {
            let file = |directive: &Directive| {
                directive.words.get(1).map(|file| file_beside(directory, file)).unwrap_or_default()
            };
            let pair = (file(cert), file(key));
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    for (cert, key) in pairs {
        let mut pair = toml_edit::InlineTable::new();
        pair.insert("cert", cert.into());
        pair.insert("key", key.into());
        table.push(&["certificates"], pair);
    }
    if let Some(versions) = default.get("ssl_protocols") {
        let arguments = versions.arguments();
        let old = arguments.iter().any(|version| ["TLSv1", "TLSv1.1", "SSLv3"].contains(version));
        if old {
            let why = "TLS 1.2 is the oldest version here";
            let remark = Remark::new(&versions.place, &versions.all(), Weight::LeftOut, why);
            table.remark(remark);
        }
        if arguments == ["TLSv1.3"] {
            table.set(&["tls", "min_version"], "1.3");
        }
    }
    let mode = match default.value("ssl_verify_client") {
        Some("on") => "required",
        Some("optional" | "optional_no_ca") => "optional",
        _ => return,
    };
    if let Some(ca) = default.value("ssl_client_certificate") {
        table.set(&["client_auth", "mode"], mode);
        table.set(&["client_auth", "ca"], file_beside(directory, ca));
    }
}

/// What a server says that holds for its listener's default server alone.
fn remark_of_defaults(server: &Scope<'_>, default: &Scope<'_>, table: &mut Table) {
    let names = [
        "client_header_timeout",
        "keepalive_timeout",
        "send_timeout",
        "ssl_protocols",
        "ssl_client_certificate",
        "ssl_verify_client",
    ];
    for directive in server.own().iter().filter(|directive| names.contains(&directive.name())) {
        if server.value(directive.name()) != default.value(directive.name()) {
            let why = "it is the listener's, for all names: that of its default server holds";
            let remark = Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
            table.remark(remark);
        }
    }
}

/// The hosts of a server that is not the default one.
fn hosts(server: &Scope<'_>, table: &mut Table) -> Vec<Host> {
    let mut hosts = Vec::new();
    for directive in server.own().iter().filter(|directive| directive.name() == "server_name") {
        for name in directive.arguments() {
            let lower = name.to_ascii_lowercase();
            let is_plain = |name: &str| {
                !name.is_empty()
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c))
            };
            match (lower.strip_prefix("*."), lower.strip_prefix('.')) {
                // None that anybody asks for.
                _ if lower == "_" || lower.is_empty() => {}
                (Some(domain), _) if is_plain(domain) => {
                    hosts.push(Host::Suffix(format!(".{domain}")));
                }
                (_, Some(domain)) if is_plain(domain) => {
                    hosts.push(Host::Exact(domain.to_owned()));
                    hosts.push(Host::Suffix(format!(".{domain}")));
                }
                _ if is_plain(&lower) => hosts.push(Host::Exact(lower)),
                _ => {
                    let why = format!("{name}: hosts are names, or wildcards as *.example.com");
                    let remark =
                        Remark::new(&directive.place, &directive.all(), Weight::LeftOut, why);
                    table.remark(remark);
                }
            }
        }
    }
    hosts
}

/// A server's rules in nginx's order, for any host.
fn rules_of(
    server: &Scope<'_>,
    directive: &Directive,
    (services, draft): (&Services<'_>, &mut Draft),
    listener: &mut Listener,
) -> Vec<Rule<Action>> {
    let rules = of_the_server(server, &mut listener.table);
    let mut locations = Vec::new();
    for location in server.own().iter().filter(|directive| directive.name() == "location") {
        match location::kind(location) {
            Ok(kind) => locations.push((kind, location)),
            Err(why) => {
                let remark = Remark::new(&location.place, &location.all(), Weight::LeftOut, why);
                listener.table.remark(remark);
            }
        }
    }
    // Exact ones, prefixes that end the search, expressions in their order, the longest prefix.
    locations.sort_by_key(|(kind, _)| match kind {
        Kind::Exact(_) => (0, Reverse(0)),
        Kind::Prefix(prefix, true) => (1, Reverse(prefix.len())),
        Kind::Regex(_) => (2, Reverse(0)),
        Kind::Prefix(prefix, false) => (3, Reverse(prefix.len())),
    });
    let kinds: Vec<Kind> = locations.iter().map(|(kind, _)| kind.clone()).collect();
    let (mut rules, mut slashes, mut of_locations) = (rules, Vec::new(), Vec::new());
    for (kind, location) in locations {
        remark_prefix(&kind, location, &kinds, &mut listener.table);
        let scope = server.within(location);
        let action = location::action(&scope, &kind, &location.place, (services, &mut *draft));
        if let (Kind::Prefix(prefix, _), End::Service(_)) = (&kind, &action.end)
            && let Some(alone) = prefix.strip_suffix('/').filter(|alone| !alone.is_empty())
            && !kinds.contains(&Kind::Exact(alone.to_owned()))
            && !kinds.contains(&Kind::Prefix(alone.to_owned(), false))
        {
            let matches = Match { path: Path::Exact(alone.to_owned()), ..Match::ANY };
            let rule = route::rule(matches, &with_slash(alone, &scope), &location.place);
            slashes.push(rule);
        }
        let matches = Match { path: kind.path(), ..Match::ANY };
        of_locations.push(route::rule(matches, &action, &location.place));
    }
    rules.append(&mut slashes);
    rules.append(&mut of_locations);
    let has_all = rules.iter().any(|rule| rule.matches == Match::ANY);
    if !has_all {
        // No other server takes what is left: there it is a file that is not there.
        let end = End::Answer { status: 404, body: "404\n".into(), content_type: None };
        let action = Rc::new(Action { end, rewrite: None, table: Table::default() });
        rules.push(route::rule(Match::ANY, &action, &directive.place));
    }
    rules
}

/// Says where a prefix means something else than there.
fn remark_prefix(kind: &Kind, location: &Directive, kinds: &[Kind], table: &mut Table) {
    let Kind::Prefix(prefix, is_last) = kind else { return };
    let mut differs = |why: String| {
        table.remark(Remark::new(&location.place, &location.all(), Weight::Differs, why));
    };
    if !prefix.ends_with('/') {
        differs(format!("whole segments count here: {prefix} and {prefix}/..., but not {prefix}x"));
    }
    let longer =
        |other: &Kind| matches!(other, Kind::Prefix(longer, false) if longer.starts_with(prefix));
    let has_regexes = kinds.iter().any(|kind| matches!(kind, Kind::Regex(_)));
    if *is_last && has_regexes && kinds.iter().any(longer) {
        differs("the longer prefixes within it are not looked at".into());
    }
}

/// nginx sends those who forget the slash to where it is.
fn with_slash(path: &str, scope: &Scope<'_>) -> Rc<Action> {
    let end = End::Redirect { to: "${scheme}://${authority}${uri}".into(), status: 301 };
    let regex = crate::import::expression::escape(path);
    let rewrite = Rewrite::Whole { regex, to: format!("{}/", route::literal(path)) };
    let mut table = Table::default();
    pass::set_response_headers(&mut table, scope);
    Rc::new(Action { end, rewrite: Some(rewrite), table })
}

/// What a server does before it looks for a location.
fn of_the_server(server: &Scope<'_>, table: &mut Table) -> Vec<Rule<Action>> {
    let mut rules = Vec::new();
    for directive in server.own() {
        let place = &directive.place;
        let mut add = |matches: Match, end: End, rewrite: Option<Rewrite>| {
            let mut keys = Table::default();
            pass::set_response_headers(&mut keys, server);
            let action = Rc::new(Action { end, rewrite, table: keys });
            rules.push(route::rule(matches, &action, place));
        };
        let mut left_out = |why: &str| {
            table.remark(Remark::new(place, &directive.all(), Weight::LeftOut, why));
        };
        match directive.name() {
            "return" => add(Match::ANY, location::returned(directive, table), None),
            "rewrite" => match location::rewritten(directive) {
                Ok(Rewritten::Redirect(end, rewrite, regex)) => {
                    add(Match { path: Path::Regex(regex), ..Match::ANY }, end, rewrite);
                }
                Ok(Rewritten::Path(_)) => {
                    left_out("paths are rewritten by routes: put it into the locations");
                }
                Err(why) => left_out(&why),
            },
            "if" => match condition(directive) {
                Some((matches, inner)) => {
                    let end = location::returned(inner, table);
                    add(matches, end, None);
                }
                None => left_out("conditions are those of routes: host, path, method, headers"),
            },
            _ => {}
        }
    }
    rules
}

/// `if ($host = NAME) { return ...; }`, as certbot writes it, and the same of methods.
fn condition(directive: &Directive) -> Option<(Match, &Directive)> {
    let words = directive.words[1..].join(" ");
    let inside = words.strip_prefix('(')?.strip_suffix(')')?.trim();
    let (variable, value) = inside.split_once('=')?;
    let value = value.trim().trim_matches(['"', '\'']);
    let mut matches = Match::ANY;
    match variable.trim() {
        "$host" | "$http_host" => matches.host = Host::Exact(value.to_ascii_lowercase()),
        "$request_method" => {
            matches.methods.insert(value.to_owned());
        }
        _ => return None,
    }
    match directive.block.as_deref()? {
        [inner] if inner.name() == "return" => Some((matches, inner)),
        _ => None,
    }
}
