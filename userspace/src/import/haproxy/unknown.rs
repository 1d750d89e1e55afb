//! Lines without a counterpart, and what to do instead.

use super::token::Line;
use crate::import::draft::Table;
use crate::import::remark::{Remark, Weight};

/// First words of what is translated elsewhere, or belongs to it.
const TRANSLATED: [&str; 22] = [
    "bind",
    "mode",
    "acl",
    "use_backend",
    "default_backend",
    "balance",
    "server",
    "default-server",
    "server-template",
    "timeout",
    "http-request",
    "http-response",
    "redirect",
    "cookie",
    "http-check",
    "maxconn",
    "retries",
    "description",
    "no",
    "log",
    "option",
    "tcp-request",
];

/// Says of each line that is not translated what becomes of it.
pub fn remark_others(lines: &[Line], table: &mut Table) {
    for line in lines {
        let reason = match line.all()[..] {
            ["option", option, ..] => of_option(option),
            ["log", ..] => of_log(line),
            ["tcp-request", ..] => of_tcp_request(line),
            ["maxconn", ..] => Some((
                Weight::LeftOut,
                "global.max_connections is for all listeners; see also backends' max_connections",
            )),
            [name, ..] if TRANSLATED.contains(&name) => None,
            [name, ..] => Some(of_name(name)),
            [] => None,
        };
        if let Some((weight, why)) = reason {
            table.remark(Remark::new(&line.place, &line.all(), weight, why));
        }
    }
}

fn of_log(line: &Line) -> Option<(Weight, &'static str)> {
    match line.all()[..] {
        ["log", "global"] => None,
        _ => Some((Weight::LeftOut, "see global.access_log: docs/operations.md")),
    }
}

fn of_tcp_request(line: &Line) -> Option<(Weight, &'static str)> {
    use Weight::{LeftOut, Unneeded};
    let words = line.all();
    let is_preread = words.contains(&"inspect-delay")
        || words.iter().any(|word| word.contains("ssl_hello_type"));
    Some(if is_preread {
        (Unneeded, "a tls listener waits for the ClientHello: timeouts.header_read")
    } else if words.contains(&"reject") || words.contains(&"deny") {
        (
            LeftOut,
            "refuse addresses by [listener.guard]: docs/l4.md; until then they are LET THROUGH",
        )
    } else {
        (LeftOut, "see limits.connections_per_address and [guard]")
    })
}

fn of_option(option: &str) -> Option<(Weight, &'static str)> {
    use Weight::{LeftOut, Unneeded};
    Some(match option {
        "httpchk" | "redispatch" | "mysql-check" | "redis-check" | "smtpchk" | "pgsql-check"
        | "ldap-check" | "ssl-hello-chk" | "tcp-check" | "external-check" => return None,
        "forwardfor" => (
            Weight::Differs,
            "X-Forwarded-For is set in any case; what strangers say in it is replaced: name the \
             proxies before this one in global.trusted_proxies",
        ),
        "httplog"
        | "tcplog"
        | "dontlognull"
        | "dontlog-normal"
        | "log-health-checks"
        | "logasap"
        | "log-separate-errors" => (Unneeded, "see global.access_log: docs/operations.md"),
        "http-server-close"
        | "http-keep-alive"
        | "httpclose"
        | "forceclose"
        | "tcpka"
        | "clitcpka"
        | "srvtcpka"
        | "splice-auto"
        | "splice-request"
        | "splice-response"
        | "http-buffer-request"
        | "prefer-last-server"
        | "contstats"
        | "socket-stats"
        | "http-use-htx"
        | "nolinger"
        | "tcp-smart-accept"
        | "tcp-smart-connect"
        | "abortonclose"
        | "allbackups"
        | "http-no-delay"
        | "http-ignore-probes" => (Unneeded, "connections and tunnels see to this themselves"),
        _ => (LeftOut, "there is no counterpart"),
    })
}

fn of_name(name: &str) -> (Weight, &'static str) {
    use Weight::{LeftOut, Unneeded};
    match name {
        "stick-table" | "stick" => (
            LeftOut,
            "there are no tables of clients: sticky = { cookie = NAME }, or balance = \"maglev\", keep \
             a client's backend; limits are limits.connections_per_address and [guard]",
        ),
        "errorfile" | "errorfiles" | "http-error" => (
            LeftOut,
            "error_pages = { 503 = FILE }: the file without its head (all up to the first empty line)",
        ),
        "errorloc" | "errorloc302" | "errorloc303" => {
            (LeftOut, "errors are not redirected; see error_pages")
        }
        "stats" => (LeftOut, "see `steerage status`, and global.metrics"),
        "monitor-uri" => (LeftOut, "write a route with answer = { status = 200 }"),
        "compression" | "filter" => (LeftOut, "nothing is changed or compressed on the way"),
        "capture" | "log-format" | "log-tag" | "unique-id-format" | "unique-id-header"
        | "declare" => (LeftOut, "see global.access_log and forwarding.request_id"),
        "fullconn" | "backlog" | "rate-limit" => {
            (LeftOut, "see limits and queue of docs/configuration.md")
        }
        "hash-type" | "hash-balance-factor" => (Unneeded, "hashing is always consistent: Maglev"),
        "email-alert" => (LeftOut, "see alerts on the metrics"),
        _ => (LeftOut, "there is no counterpart"),
    }
}
