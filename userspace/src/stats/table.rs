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
        Backend, Count, Histogram, L4, L7, Probe, Service, Status, Vip, Worker,
    };
    use super::*;

    pub fn sample() -> Status {
        let count = |name: &str, count| Count { name: name.into(), count };
        let backend = Backend {
            address: "10.0.0.1:80".parse().unwrap(),
            slot: 3,
            epoch: 0,
            weight: 5,
            state: "up".into(),
            why: "probe ok".into(),
            probe: Some(Probe { ok: 8, failed: 1, seconds: 0.002 }),
            accepts_new: true,
            keeps_flows: true,
            l7: L7 {
                responses: vec![count("2xx", 12)],
                failures: vec![count("connect", 1)],
                ends: vec![count("idle", 2)],
                handshakes: vec![count("resumed", 3)],
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
            plane: "ebpf".into(),
            probe_lag: Histogram { bounds: vec![(0.001, 2)], total: 3, sum: 0.25 },
            listeners: Vec::new(),
            workers: vec![Worker {
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
                errors: vec![count("no_route", 1)],
                ends: vec![count("drained", 1)],
                stream_ends: Vec::new(),
            }],
            services: vec![Service {
                name: "api".into(),
                balance: "round_robin".into(),
                available: 1,
                panicking: false,
                backends: vec![backend],
            }],
            vips: vec![Vip {
                name: "api-l4".into(),
                address: "192.0.2.10:80".parse().unwrap(),
                protocol: "tcp".into(),
                service: "api".into(),
                interfaces: vec!["eth0 (native)".into()],
                l4: L4::default(),
            }],
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
        assert!(text.contains("L4 packets by reason: no_backend 4\n"), "{text}");
        assert_eq!(
            serde_json::from_str::<Status>(&serde_json::to_string(&sample()).unwrap()).unwrap(),
            sample()
        );
    }
}
