//! `check`, `option httpchk` and `http-check`, as a probe.

use super::backend::Options;
use super::proxy::{Proxy, time_ms};
use super::token::Line;
use crate::import::draft::Table;
use crate::import::millis;
use crate::import::remark::{Remark, Weight};

/// What HAProxy waits between checks if it is not told.
const INTERVAL_MS: u64 = 2_000;

/// Sets the probe that one of the servers asks for, for all of them.
pub fn of(proxy: &Proxy<'_>, options: &Options<'_>, table: &mut Table) {
    let is_tls = options.has("ssl") || options.has("check-ssl");
    match proxy.get(&["option", "httpchk"]) {
        Some(line) => set_http(proxy, line, is_tls, table),
        None => {
            table.set(&["probe", "kind"], "tcp");
            let others = [
                "mysql-check",
                "redis-check",
                "smtpchk",
                "pgsql-check",
                "ldap-check",
                "ssl-hello-chk",
                "tcp-check",
                "external-check",
            ];
            for line in others.iter().filter_map(|other| proxy.get(&["option", other])) {
                let why = "probes are http, grpc, or a connection alone: it is that";
                table.remark(Remark::new(&line.place, &line.all(), Weight::Differs, why));
            }
        }
    }
    let interval = options.value("inter").and_then(time_ms).unwrap_or(INTERVAL_MS);
    table.set(&["probe", "interval"], millis(interval));
    if let Some(timeout) = proxy.timeout("check") {
        table.set(&["probe", "timeout"], millis(timeout.min(interval)));
    }
    for (name, least) in [("rise", 1), ("fall", 1)] {
        if let Some(count) = options.number(name) {
            table.set(&["probe", name], count.clamp(least, 255));
        }
    }
    if let Some(port) = options.number("port") {
        table.set(&["probe", "port"], port);
    }
}

fn set_http(proxy: &Proxy<'_>, line: &Line, is_tls: bool, table: &mut Table) {
    table.set(&["probe", "kind"], if is_tls { "https" } else { "http" });
    let (mut method, mut path) = ("OPTIONS", "/");
    match line.all()[2..] {
        [] => {}
        [uri] => path = uri,
        [verb, uri, ref rest @ ..] => {
            (method, path) = (verb, uri);
            for header in rest.iter().flat_map(|text| text.split(['\r', '\n'])) {
                set_header(header.split_once(':'), table);
            }
        }
    }
    for check in checks(proxy) {
        let words = check.all();
        match words[1..] {
            ["send", ref rest @ ..] => {
                let mut rest = rest.iter().copied();
                while let Some(word) = rest.next() {
                    match word {
                        "meth" => method = rest.next().unwrap_or(method),
                        "uri" => path = rest.next().unwrap_or(path),
                        "ver" => drop(rest.next()),
                        "hdr" => set_header(rest.next().zip(rest.next()), table),
                        _ => {}
                    }
                }
            }
            ["expect", ref rest @ ..] => set_expect(check, rest, table),
            _ => {
                let why = "a probe is one request";
                table.remark(Remark::new(&check.place, &words, Weight::LeftOut, why));
            }
        }
    }
    match method {
        "GET" => {}
        "HEAD" => table.set(&["probe", "method"], "HEAD"),
        _ => {
            let why = "probes ask by GET or HEAD: it is HEAD";
            table.set(&["probe", "method"], "HEAD");
            table.remark(Remark::new(&line.place, &line.all(), Weight::Differs, why));
        }
    }
    table.set(&["probe", "path"], path);
}

fn checks<'a>(proxy: &Proxy<'a>) -> Vec<&'a Line> {
    let own: Vec<&Line> = proxy.lines().filter(|line| line.words[0] == "http-check").collect();
    if !own.is_empty() {
        return own;
    }
    let defaults = proxy.defaults.iter().flat_map(|section| &section.lines);
    defaults.filter(|line| line.words[0] == "http-check").collect()
}

fn set_header(header: Option<(&str, &str)>, table: &mut Table) {
    let Some((name, value)) = header else { return };
    match name.to_ascii_lowercase().as_str() {
        "host" => table.set(&["probe", "host"], value.trim()),
        "connection" | "user-agent" => {}
        _ => table.set(&["probe", "headers", name.trim()], value.trim()),
    }
}

fn set_expect(line: &Line, words: &[&str], table: &mut Table) {
    let left_out = |why: &str| Remark::new(&line.place, &line.all(), Weight::LeftOut, why);
    match words {
        ["status", statuses] => {
            for status in statuses.split(',') {
                match status.parse::<i64>() {
                    Ok(status) => table.push(&["probe", "expect", "status"], status),
                    Err(_) => table.push(&["probe", "expect", "status"], status),
                }
            }
        }
        ["rstatus", regex] => {
            let class =
                regex.trim_start_matches('^').bytes().next().filter(|b| (b'1'..=b'5').contains(b));
            match class {
                Some(class) if regex.len() <= 12 && !regex.contains('|') => {
                    let class = char::from(class);
                    table.push(&["probe", "expect", "status"], format!("{class}00-{class}99"));
                    let why = "as the whole class of statuses";
                    table.remark(Remark::new(&line.place, &line.all(), Weight::Differs, why));
                }
                _ => table.remark(left_out("statuses are numbers and ranges: expect.status")),
            }
        }
        ["string", text] => table.set(&["probe", "expect", "body"], *text),
        _ => table.remark(left_out("what a probe expects is statuses and a text: docs/health.md")),
    }
}
