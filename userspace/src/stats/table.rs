//! The snapshot as tables for people.

use std::fmt::Write as _;

use super::status::Status;

/// Renders the snapshot.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "steerage {} · instance {} · pid {} · up {} · generation {} · {}\n",
        status.version,
        status.instance,
        status.pid,
        humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds)),
        status.generation,
        status.plane,
    );
    services(&mut out, status);
    vips(&mut out, status);
    certificates(&mut out, status);
    workers(&mut out, status);
    out
}

/// Renders services and backends alone.
#[must_use]
pub fn render_backends(status: &Status) -> String {
    let mut out = String::new();
    services(&mut out, status);
    out
}

fn services(out: &mut String, status: &Status) {
    let mut table = Table::new(&[
        "SERVICE", "BACKEND", "SLOT", "WEIGHT", "STATE", "WHY", "REQUESTS", "FAILED", "ACTIVE",
        "IDLE", "FLOWS", "PACKETS",
    ]);
    for service in &status.services {
        for backend in &service.backends {
            table.row(vec![
                service.name.clone(),
                backend.address.to_string(),
                backend.slot.to_string(),
                backend.weight.to_string(),
                backend.state.clone(),
                backend.why.clone(),
                backend.l7.requests().to_string(),
                backend.l7.failed().to_string(),
                backend.l7.active.to_string(),
                backend.l7.idle.to_string(),
                backend.l4.flows.to_string(),
                (backend.l4.in_packets + backend.l4.out_packets).to_string(),
            ]);
        }
    }
    for backend in &status.leaving {
        let time = humantime::format_duration(std::time::Duration::from_secs(backend.seconds));
        let flows = backend.flows.unwrap_or(0);
        table.row(vec![
            backend.service.clone().unwrap_or_else(|| "-".into()),
            backend.address.to_string(),
            backend.slot.to_string(),
            "-".into(),
            backend.state.clone(),
            format!(
                "removed {time} ago; it has {} requests, {} connections, {} tunnels, {flows} flows",
                backend.requests, backend.connections, backend.tunnels
            ),
            "-".into(),
            "-".into(),
            backend.requests.to_string(),
            "-".into(),
            flows.to_string(),
            "-".into(),
        ]);
    }
    table.render(out);
}

fn vips(out: &mut String, status: &Status) {
    let mut table = Table::new(&[
        "VIP",
        "ADDRESS",
        "PROTOCOL",
        "SERVICE",
        "LINKS",
        "FLOWS",
        "REMEMBERED",
        "MISSES",
        "IN",
        "BYTES IN",
        "OUT",
        "BYTES OUT",
    ]);
    for vip in &status.vips {
        table.row(vec![
            vip.name.clone(),
            vip.address.to_string(),
            vip.protocol.clone(),
            vip.service.clone(),
            vip.interfaces.join(" "),
            vip.l4.flows.to_string(),
            vip.l4.remembered.to_string(),
            vip.l4.misses.to_string(),
            vip.l4.in_packets.to_string(),
            vip.l4.in_bytes.to_string(),
            vip.l4.out_packets.to_string(),
            vip.l4.out_bytes.to_string(),
        ]);
    }
    table.render(out);
    let reasons: Vec<String> = status
        .l4_reasons
        .iter()
        .filter(|reason| reason.count > 0)
        .map(|reason| format!("{} {}", reason.name, reason.count))
        .collect();
    if !reasons.is_empty() {
        let _ = writeln!(out, "L4 packets by reason: {}\n", reasons.join(", "));
    }
}

fn certificates(out: &mut String, status: &Status) {
    let mut table = Table::new(&["CERTIFICATE", "LISTENER", "NAMES", "UNTIL", "DAYS", "FAULT"]);
    for certificate in &status.certificates {
        table.row(vec![
            certificate.cert.clone(),
            certificate.listeners.join(" "),
            certificate.names.join(" "),
            date(certificate.not_after),
            certificate.days_left().to_string(),
            certificate.fault.clone().unwrap_or_default(),
        ]);
    }
    table.render(out);
}

/// A time since 1970 as people write it.
#[must_use]
pub fn date(seconds: i64) -> String {
    let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    // What lies past the year 9999 is as good as for ever.
    let last = std::time::Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since.min(last)).to_string()
}

fn workers(out: &mut String, status: &Status) {
    let mut table = Table::new(&["WORKER", "PID", "STATE", "CONNECTIONS", "ACTIVE", "ACCEPTED"]);
    for worker in &status.workers {
        let state = match (worker.live, worker.current) {
            (true, true) if worker.full => "full",
            (true, true) => "live",
            (_, false) => "of a former supervisor",
            (false, true) => "draining",
        };
        table.row(vec![
            worker.line.to_string(),
            worker.pid.to_string(),
            state.into(),
            worker.connections.to_string(),
            worker.active_requests.to_string(),
            worker.accepted.to_string(),
        ]);
    }
    table.render(out);
}

/// Columns as wide as their widest cell, two spaces apart.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Nothing at all for a table without rows.
    fn render(&self, out: &mut String) {
        if self.rows.len() < 2 {
            return;
        }
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|i| self.rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::status::{
        Backend, Certificate, Count, Histogram, L4, L7, Latency, Leaving, Listener, Probe, Route,
        Service, Status, Vip, Worker,
    };
    use super::*;

    /// Of 3 ms, 1 s and two minutes. Without the buckets, which are not told to everybody.
    fn latency() -> Latency {
        let (count, seconds) = (3, 121.003);
        Latency { count, seconds, p50_us: Some(1_000_000), p99_us: None, buckets: Vec::new() }
    }

    fn count(name: &str, count: u64) -> Count {
        Count { name: name.into(), count }
    }

    fn listener() -> Listener {
        Listener {
            name: "web".into(),
            addresses: vec!["192.0.2.1:80".parse().unwrap()],
            connections: 1,
            accepted: 9,
            responses: vec![count("2xx", 12), count("4xx", 0)],
            request_body_bytes: 3,
            response_body_bytes: 4,
            errors: vec![count("no_route", 1)],
            ends: vec![count("drained", 1), count("eof", 0)],
            stream_ends: vec![count("tunnel_idle", 1)],
            handshakes: vec![count("resumed", 5)],
            total: latency(),
            routes: vec![Route {
                name: "any host, path /\"a\"".into(),
                service: Some("api".into()),
                responses: vec![count("2xx", 12)],
                request_body_bytes: 3,
                response_body_bytes: 4,
                total: latency(),
            }],
        }
    }

    fn worker() -> Worker {
        Worker {
            line: 0,
            pid: 43,
            live: true,
            current: true,
            connections: 1,
            active_requests: 1,
            accepted: 9,
            pending: 0,
            full: false,
            heartbeat_age_ms: 10,
            age_ms: 61_000,
            memory_bytes: 1 << 24,
            cpu_seconds: 0.5,
            starts: vec![count("first", 1)],
            lag: latency(),
            errors: vec![count("no_route", 1)],
            ends: vec![count("drained", 1)],
            stream_ends: vec![count("tunnel_idle", 1)],
            handshakes: vec![count("resumed", 5)],
            log_lines: 0,
            log_dropped: 0,
        }
    }

    pub fn sample() -> Status {
        let backend = Backend {
            address: "10.0.0.1:80".parse().unwrap(),
            slot: 3,
            epoch: 0,
            weight: 5,
            state: "up".into(),
            why: "probe ok".into(),
            seconds: 7,
            probe: Some(Probe { ok: 8, failed: 1, seconds: 0.002 }),
            accepts_new: true,
            keeps_flows: true,
            l7: L7 {
                responses: vec![count("2xx", 12)],
                failures: vec![count("connect", 1)],
                ends: vec![count("idle", 2)],
                handshakes: vec![count("resumed", 3)],
                replays: vec![count("stale_proven", 1)],
                refusals: vec![count("late", 1)],
                queue: latency(),
                connect: latency(),
                first_byte: latency(),
                total: latency(),
                ..L7::default()
            },
            l4: L4 { in_packets: 7, out_packets: 5, flows: 2, ..L4::default() },
        };
        Status {
            version: "0.1.0".into(),
            instance: "default".into(),
            pid: 42,
            uptime_seconds: 61,
            generation: 3,
            reloads: vec![count("taken", 2), count("refused", 1)],
            reload_refused: true,
            config_since: 1_700_000_000,
            plane: "ebpf".into(),
            probe_lag: Histogram { bounds: vec![(0.001, 2)], total: 3, sum: 0.25 },
            listeners: vec![listener()],
            certificates: vec![Certificate {
                cert: "/tls/api.pem".into(),
                listeners: vec!["web".into()],
                names: vec!["api.example.com".into()],
                subject: "CN=api".into(),
                issuer: "CN=authority".into(),
                serial: "1f".into(),
                fingerprint: "00".into(),
                not_before: 1_700_000_000,
                not_after: 1_800_000_000,
                ocsp: false,
                fault: Some("/tls/api.key: is not the key of /tls/api.pem".into()),
            }],
            workers: vec![worker()],
            former_workers: Vec::new(),
            services: vec![Service {
                name: "api".into(),
                balance: "round_robin".into(),
                available: 1,
                panicking: false,
                backends: vec![backend],
            }],
            leaving: vec![Leaving {
                service: Some("api".into()),
                address: "10.0.0.9:80".parse().unwrap(),
                slot: 4,
                state: "leaving".into(),
                seconds: 61,
                requests: 2,
                connections: 3,
                tunnels: 1,
                flows: Some(5),
            }],
            vips: vec![Vip {
                name: "api-l4".into(),
                address: "192.0.2.10:80".parse().unwrap(),
                protocol: "tcp".into(),
                service: "api".into(),
                interfaces: vec!["eth0 (native)".into()],
                l4: L4::default(),
            }],
            access_log_lost: 0,
            l4_reasons: vec![count("no_backend", 4), count("no_port", 0)],
        }
    }

    #[test]
    fn columns_line_up_and_nothing_is_lost() {
        let text = render(&sample());
        assert!(text.contains("up 1m 1s"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().find(|line| line.starts_with("SERVICE")).unwrap();
        let row = lines.iter().find(|line| line.starts_with("api ")).unwrap();
        assert_eq!(head.find("STATE"), row.find("up"));
        let leaving = lines.iter().find(|line| line.contains("10.0.0.9:80")).unwrap();
        assert_eq!(head.find("STATE"), leaving.find("leaving"));
        let what = "removed 1m 1s ago; it has 2 requests, 3 connections, 1 tunnels, 5 flows";
        assert!(leaving.contains(what), "{leaving}");
        assert!(text.contains("L4 packets by reason: no_backend 4\n"), "{text}");
        assert!(text.contains("  2027-01-15T08:00:00Z  "), "{text}");
        assert!(text.contains("is not the key of /tls/api.pem\n"), "{text}");
        assert_eq!(
            serde_json::from_str::<Status>(&serde_json::to_string(&sample()).unwrap()).unwrap(),
            sample()
        );
    }
}
