//! What a new configuration changes, as an operator reads it: a pure function of two models.
//!
//! Things are told apart by their names (backends by their addresses, routes by what they match), so a
//! change of order alone is none, except among routes, where the order may decide. Keys are those of the
//! file.
//!
//! Some keys hold for the life of the process ([`is_fixed`]): what they build can't be built anew under
//! open connections. A reload says so for each that differs, leaves it as it is ([`applicable`]), and
//! applies the rest; the difference is shown until the restart.

mod streams;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::model::{
    Action, Global, Host, Listener, Log, Model, Path, Rewrite, Route, Service, Streams, Trust,
    UpstreamTls, Vip,
};
use super::template;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// What it is about: `service "api": backend 10.0.0.1:80: weight`.
    pub what: String,
    /// How it was; `None` for what is new.
    pub from: Option<String>,
    /// How it shall be; `None` for what goes.
    pub to: Option<String>,
    /// Whether it waits for a restart of the daemon.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (None, Some(to)) if to.is_empty() => write!(f, "+ {}", self.what)?,
            (None, Some(to)) => write!(f, "+ {}: {to}", self.what)?,
            (Some(_), None) => write!(f, "- {}", self.what)?,
            (from, to) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_default();
                write!(f, "~ {}: {} -> {}", self.what, shown(from), shown(to))?;
            }
        }
        f.write_str(if self.needs_restart { " (needs a restart)" } else { "" })
    }
}

/// Keys of `[global]` that hold for the life of the process, by the names of the model.
const FIXED: [&str; 13] = [
    "worker_seccomp",
    "instance",
    "workers",
    "user",
    "bpf_dir",
    "admin",
    "pid_file",
    "hash_seed",
    "max_flows",
    "max_sources",
    "flow_idle",
    "io",
    "log.format",
];

/// Whether a key of `[global]`, or of a table in it, holds for the life of the process.
#[must_use]
pub fn is_fixed(key: &str) -> bool {
    let is_in = |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    FIXED.iter().any(|fixed| key == *fixed || is_in(fixed))
}

/// All differences between the configuration in force and another one: empty if there are none that
/// matter.
#[must_use]
pub fn diff(before: &Model, after: &Model) -> Vec<Change> {
    let mut changes = Vec::new();
    let (old, new) = (value(&before.global), value(&after.global));
    for mut change in fields("global", &old, &new) {
        let key = change.what.trim_start_matches("global.");
        change.needs_restart = is_fixed(key);
        changes.push(change);
    }
    changes.extend(fields("guard", &value(&before.guard), &value(&after.guard)));
    listeners(before, after, &mut changes);
    vips(before, after, &mut changes);
    services(&before.services, &after.services, &mut changes);
    changes
}

/// `after`, with what holds for the life of the process as it is in `before`.
#[must_use]
pub fn applicable(before: &Model, after: &Model) -> Model {
    let fixed = before.global.clone();
    let log = Log { level: after.global.log.level, ..fixed.log };
    // Those of `FIXED`, in its order.
    let global = Global {
        worker_seccomp: fixed.worker_seccomp,
        instance: fixed.instance,
        workers: fixed.workers,
        user: fixed.user,
        bpf_dir: fixed.bpf_dir,
        admin: fixed.admin,
        pid_file: fixed.pid_file,
        hash_seed: fixed.hash_seed,
        max_flows: fixed.max_flows,
        max_sources: fixed.max_sources,
        flow_idle: fixed.flow_idle,
        io: fixed.io,
        log,
        ..after.global.clone()
    };
    Model { global, ..after.clone() }
}

fn listeners(before: &Model, after: &Model, changes: &mut Vec<Change>) {
    let name = |listener: &Listener| format!("listener {:?}", listener.name);
    let bind = |listener: &Listener| {
        listener.bind.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    for pair in matched(&before.listeners, &after.listeners, |listener| listener.name.clone()) {
        match pair {
            (Some(old), Some(new)) => {
                let strip = |listener: &Listener| {
                    let streams = listener.streams.as_ref();
                    let streams = streams.map(|of| Streams { routes: Vec::new(), ..of.clone() });
                    Listener { routes: Vec::new(), streams, ..listener.clone() }
                };
                changes.extend(fields(&name(old), &value(&strip(old)), &value(&strip(new))));
                routes(&name(old), (before, old), (after, new), changes);
                streams::routes(&name(old), (before, old), (after, new), changes);
            }
            (None, Some(new)) => changes.push(added(name(new), bind(new))),
            (Some(old), None) => changes.push(removed(name(old), bind(old))),
            (None, None) => {}
        }
    }
}

fn routes(
    of: &str,
    (before, old): (&Model, &Listener),
    (after, new): (&Model, &Listener),
    changes: &mut Vec<Change>,
) {
    // Where a route stands in the file and in the list of services says nothing of what it does.
    let shown = |model: &Model, route: &Route| {
        let mut shown = value(&Route { line: 0, ..route.clone() });
        if let Some(object) = shown.as_object_mut() {
            object.insert("action".into(), end(model, route).into());
            let rewrite = route.rewrite.as_ref().map(|rewrite| match rewrite {
                Rewrite::Prefix { with, .. } => format!("prefix {with}"),
                Rewrite::Whole { regex: None, to } => format!("to {}", template::text(to)),
                Rewrite::Whole { regex: Some(regex), to } => {
                    format!("regex {regex} to {}", template::text(to))
                }
            });
            object.insert("rewrite".into(), rewrite.into());
        }
        shown
    };
    let pairs = matched_nth(&old.routes, &new.routes, matcher);
    for pair in pairs {
        match pair {
            (Some(was), Some(is)) => {
                let what = format!("{of}: route {}", matcher(was));
                changes.extend(fields(&what, &shown(before, was), &shown(after, is)));
            }
            (None, Some(is)) => {
                changes.push(added(format!("{of}: route {}", matcher(is)), end(after, is)));
            }
            (Some(was), None) => {
                changes.push(removed(format!("{of}: route {}", matcher(was)), end(before, was)));
            }
            (None, None) => {}
        }
    }
    let order = |routes: &[Route]| routes.iter().map(matcher).collect::<Vec<_>>();
    let (was, is) = (order(&old.routes), order(&new.routes));
    let sorted = |mut order: Vec<String>| {
        order.sort();
        order
    };
    if was != is && sorted(was) == sorted(is) {
        let text = |text: &str| Some(text.to_owned());
        changes.push(Change {
            what: format!("{of}: routes"),
            from: text("one order"),
            to: text("another order"),
            needs_restart: false,
        });
    }
}

/// What a route matches, in one line.
fn matcher(route: &Route) -> String {
    let host = match &route.host {
        None => "*".to_owned(),
        Some(Host::Exact(host)) => host.clone(),
        Some(Host::Suffix(suffix)) => format!("*{suffix}"),
    };
    let path = match &route.path {
        Path::Any => "/*".to_owned(),
        Path::Prefix(prefix) => format!("{prefix}/*"),
        Path::Exact(path) => path.clone(),
        Path::Regex(regex) => format!("~{regex}"),
    };
    let methods = match route.methods.as_slice() {
        [] => String::new(),
        methods => format!("{} ", methods.join("|")),
    };
    let headers: String =
        route.headers.iter().map(|header| format!(" [{}]", header.name)).collect();
    format!("{methods}{host}{path}{headers}")
}

fn end(model: &Model, route: &Route) -> String {
    match &route.action {
        Action::Forward(service) => {
            let service = model.services.get(*service);
            format!("to service {}", service.map_or("", |service| &service.name))
        }
        Action::Redirect(redirect) => {
            format!("redirect {} to {}", redirect.status, template::text(&redirect.to))
        }
        Action::Answer(answer) => format!("answer {} {:?}", answer.status, answer.body),
    }
}

fn vips(before: &Model, after: &Model, changes: &mut Vec<Change>) {
    let name = |vip: &Vip| format!("vip {:?}", vip.name);
    let shown = |model: &Model, vip: &Vip| {
        let mut shown = value(vip);
        if let Some(object) = shown.as_object_mut() {
            object.insert("service".into(), model.services[vip.service].name.clone().into());
            object.remove("fallback");
            let fallback = if vip.fallback.is_some() { "proxy" } else { "error" };
            object.insert("l4_fallback".into(), fallback.into());
        }
        shown
    };
    for pair in matched(&before.vips, &after.vips, |vip| vip.name.clone()) {
        match pair {
            (Some(old), Some(new)) => {
                changes.extend(fields(&name(old), &shown(before, old), &shown(after, new)));
            }
            (None, Some(new)) => changes.push(added(name(new), new.address.to_string())),
            (Some(old), None) => changes.push(removed(name(old), old.address.to_string())),
            (None, None) => {}
        }
    }
}

fn services(before: &[Service], after: &[Service], changes: &mut Vec<Change>) {
    let name = |service: &Service| format!("service {:?}", service.name);
    let backends = |service: &Service| format!("{} backends", service.backends.len());
    for pair in matched(before, after, |service| service.name.clone()) {
        match pair {
            (Some(old), Some(new)) => {
                changes.extend(fields(&name(old), &service_value(old), &service_value(new)));
                for pair in matched(&old.backends, &new.backends, |backend| backend.address) {
                    let what = |address| format!("{}: backend {address}", name(old));
                    match pair {
                        (Some(was), Some(is)) => {
                            changes.extend(fields(&what(was.address), &value(was), &value(is)));
                        }
                        (None, Some(is)) => {
                            changes.push(added(what(is.address), format!("weight {}", is.weight)));
                        }
                        (Some(was), None) => {
                            changes.push(removed(what(was.address), String::new()));
                        }
                        (None, None) => {}
                    }
                }
            }
            (None, Some(new)) => changes.push(added(name(new), backends(new))),
            (Some(old), None) => changes.push(removed(name(old), backends(old))),
            (None, None) => {}
        }
    }
}

/// A service without its backends, and what it says of TLS as the file has it.
fn service_value(service: &Service) -> Value {
    let mut all = value(&Service { backends: Vec::new(), ..service.clone() });
    if let (Some(tls), Some(place)) = (&service.upstream_tls, all.get_mut("upstream_tls")) {
        *place = tls_value(tls);
    }
    let probe = service.probe.as_ref().and_then(|probe| probe.check.kind.tls());
    let kind = all.pointer_mut("/probe/check/kind").and_then(Value::as_object_mut);
    let place = kind.and_then(|kind| kind.values_mut().next()).and_then(|kind| kind.get_mut("tls"));
    if let (Some(tls), Some(place)) = (probe, place) {
        *place = tls_value(tls);
    }
    all
}

/// Of certificates, how many there are and which: not their bytes.
fn tls_value(tls: &UpstreamTls) -> Value {
    let ca = match &tls.trust {
        Trust::System | Trust::Anybody => Value::Null,
        Trust::Authorities(ca) => file(&ca.file, &ca.certificates).into(),
    };
    let client = tls.client.as_ref();
    serde_json::json!({
        "ca": ca,
        "sni": tls.name,
        "verify": tls.trust != Trust::Anybody,
        "cert": client.map(|client| file(&client.cert, &client.chain)),
        "key": client.map(|client| client.key.display().to_string()),
        "min_version": tls.min_version,
    })
}

/// A file of certificates, and what tells its content from another.
fn file(path: &std::path::Path, certificates: &[Vec<u8>]) -> String {
    let mut hash = Sha256::new();
    certificates.iter().for_each(|certificate| hash.update(certificate));
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{} ({}, sha256 {digest})", path.display(), certificates.len())
}

const fn added(what: String, to: String) -> Change {
    Change { what, from: None, to: Some(to), needs_restart: false }
}

const fn removed(what: String, from: String) -> Change {
    Change { what, from: Some(from), to: None, needs_restart: false }
}

/// Everything of both lists, by key; in the order of the former, then of the latter.
fn matched<'a, T, K: Ord>(
    before: &'a [T],
    after: &'a [T],
    key: impl Fn(&T) -> K,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let mut left: BTreeMap<K, &T> = after.iter().map(|item| (key(item), item)).collect();
    let mut pairs: Vec<_> =
        before.iter().map(|item| (Some(item), left.remove(&key(item)))).collect();
    pairs
        .extend(after.iter().filter(|item| left.contains_key(&key(item))).map(|i| (None, Some(i))));
    pairs
}

/// As [`matched`], where several may have one key: the first goes with the first.
fn matched_nth<'a, T, K: Ord + Clone>(
    before: &'a [T],
    after: &'a [T],
    key: impl Fn(&T) -> K,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let numbered = |items: &'a [T]| {
        let mut seen: BTreeMap<K, usize> = BTreeMap::new();
        let number = |item: &'a T| {
            let count = seen.entry(key(item)).or_default();
            *count += 1;
            ((key(item), *count), item)
        };
        items.iter().map(number).collect::<Vec<_>>()
    };
    let (before, after) = (numbered(before), numbered(after));
    let mut left: BTreeMap<&(K, usize), &T> =
        after.iter().map(|(key, item)| (key, *item)).collect();
    let mut pairs: Vec<_> =
        before.iter().map(|(key, item)| (Some(*item), left.remove(key))).collect();
    pairs.extend(
        after.iter().filter(|(key, _)| left.contains_key(key)).map(|(_, item)| (None, Some(*item))),
    );
    pairs
}

fn value(of: &impl Serialize) -> Value {
    // The model has nothing that JSON has not: the supervisor hands it to its workers as that.
    serde_json::to_value(of).unwrap_or_default()
}

/// Names that a key has in the file, where the model's differs.
const RENAMED: [(&str, &str); 4] = [
    ("sticky_cookie", "sticky.cookie"),
    ("queue_timeout", "queue.timeout"),
    ("action", "end"),
    ("probe.check", "probe"),
];

/// Keys whose values are nobody's business.
const SECRET: [&str; 1] = ["hash_seed"];

/// The keys that differ, as deep as there are keys.
fn fields(of: &str, old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(of, "", old, new, &mut changes);
    changes
}

fn compare(of: &str, key: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(was), Value::Object(is)) if !is_time(old) && !is_time(new) => {
            let keys: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
            for inner in keys {
                let path = if key.is_empty() { inner.clone() } else { format!("{key}.{inner}") };
                let of_key = |object: &serde_json::Map<String, Value>| {
                    object.get(inner).cloned().unwrap_or_default()
                };
                compare(of, &path, &of_key(was), &of_key(is), changes);
            }
        }
        _ => {
            let mut path = key.to_owned();
            for (model, file) in RENAMED {
                if let Some(rest) = path.strip_prefix(model)
                    && (rest.is_empty() || rest.starts_with('.'))
                {
                    path = format!("{file}{rest}");
                }
            }
            let is_table = ["global", "guard"].contains(&of);
            let is_secret = SECRET.contains(&key);
            // A route's end and rewriting are sentences already.
            let is_told = ["action", "rewrite"].contains(&key);
            let text = |value: &Value| match value {
                _ if is_secret => "(secret)".into(),
                Value::String(told) if is_told => told.clone(),
                value => shown(value),
            };
            changes.push(Change {
                what: if is_table { format!("{of}.{path}") } else { format!("{of}: {path}") },
                from: Some(text(old)),
                to: Some(text(new)),
                needs_restart: false,
            });
        }
    }
}

fn is_time(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|o| o.len() == 2 && o.contains_key("secs") && o.contains_key("nanos"))
}

/// A value as the file would have it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::Object(object) if is_time(value) => {
            let part = |key: &str| object.get(key).and_then(Value::as_u64).unwrap_or_default();
            let time = Duration::new(part("secs"), part("nanos") as u32);
            humantime::format_duration(time).to_string()
        }
        Value::Object(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
