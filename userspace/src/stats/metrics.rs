//! The snapshot as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;

use steerage_common::latency::bound_ns;

use super::status::{Backend, Count, Histogram, L4, Latency, Status};

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders every metric.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    daemon(&mut page, status);
    certificates(&mut page, status);
    workers(&mut page, status);
    backend_health(&mut page, status);
    backend_l7(&mut page, status);
    backend_times(&mut page, status);
    l4(&mut page, status);
    page.0
}

fn daemon(page: &mut Page, status: &Status) {
    page.family("steerage_info", "gauge", "The running daemon.");
    page.sample(
        "steerage_info",
        &[("version", &status.version), ("instance", &status.instance), ("plane", &status.plane)],
        1,
    );
    page.family("steerage_uptime_seconds", "gauge", "Time since the supervisor started.");
    page.sample("steerage_uptime_seconds", &[], status.uptime_seconds);
    page.family("steerage_config_generation", "counter", "The generation in force.");
    page.sample("steerage_config_generation", &[], status.generation);
    let name = "steerage_access_log_lost_total";
    page.family(name, "counter", "Lines of the access log that its destination did not take.");
    page.sample(name, &[], status.access_log_lost);
    page.histogram("steerage_probe_lag_seconds", "How late probes began.", &status.probe_lag);
}

fn certificates(page: &mut Page, status: &Status) {
    type Read = fn(&super::status::Certificate) -> i64;
    let families: [(&str, &str, Read); 3] = [
        ("steerage_certificate_not_before_seconds", "When its time begins, since 1970.", |c| {
            c.not_before
        }),
        ("steerage_certificate_not_after_seconds", "When its time ends, since 1970.", |c| {
            c.not_after
        }),
        (
            "steerage_certificate_faulty",
            "Whether something is wrong with its files, and what was read before is in force.",
            |c| c.fault.is_some().into(),
        ),
    ];
    for (name, help, read) in families {
        page.family(name, "gauge", help);
        for certificate in &status.certificates {
            let listeners = certificate.listeners.join(",");
            let labels = [
                ("cert", &*certificate.cert),
                ("listener", &listeners),
                ("subject", &certificate.subject),
            ];
            page.sample(name, &labels, read(certificate));
        }
    }
}

fn workers(page: &mut Page, status: &Status) {
    type Read = fn(&super::status::Worker) -> u64;
    let families: [(&str, &str, &str, Read); 9] = [
        ("steerage_worker_live", "gauge", "Whether the worker accepts connections.", |w| {
            w.live.into()
        }),
        ("steerage_worker_connections", "gauge", "Open client connections.", |w| {
            w.connections.into()
        }),
        ("steerage_worker_active_requests", "gauge", "Requests being served.", |w| {
            w.active_requests
        }),
        ("steerage_worker_accepted_total", "counter", "Connections accepted.", |w| w.accepted),
        ("steerage_worker_pending", "gauge", "Connections sent to it, not accepted yet.", |w| {
            w.pending.into()
        }),
        ("steerage_worker_full", "gauge", "Whether it has all the connections it may.", |w| {
            w.full.into()
        }),
        ("steerage_worker_heartbeat_age_milliseconds", "gauge", "Time since it was heard.", |w| {
            w.heartbeat_age_ms
        }),
        (
            "steerage_worker_access_log_lines_total",
            "counter",
            "Lines of the access log that the supervisor took.",
            |w| w.log_lines,
        ),
        (
            "steerage_worker_access_log_dropped_total",
            "counter",
            "Lines of the access log that found no room on their way.",
            |w| w.log_dropped,
        ),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for worker in &status.workers {
            page.sample(name, &[("worker", &worker.line.to_string())], read(worker));
        }
    }
    type Counts = fn(&super::status::Worker) -> &[Count];
    let by_label: [(&str, &str, &str, Counts); 4] = [
        (
            "steerage_worker_errors_total",
            "class",
            "Requests that Steerage answered itself, by class.",
            |w| &w.errors,
        ),
        (
            "steerage_worker_connections_ended_total",
            "cause",
            "Clients' connections that ended, by cause.",
            |w| &w.ends,
        ),
        (
            "steerage_worker_streams_cut_total",
            "cause",
            "Streams and tunnels in clients' connections that were cut off, by cause.",
            |w| &w.stream_ends,
        ),
        (
            "steerage_worker_tls_handshakes_total",
            "end",
            "TLS handshakes with clients, by how they ended.",
            |w| &w.handshakes,
        ),
    ];
    for (name, label, help, counts) in by_label {
        page.family(name, "counter", help);
        for worker in &status.workers {
            let line = worker.line.to_string();
            for count in counts(worker) {
                page.sample(name, &[("worker", &line), (label, &count.name)], count.count);
            }
        }
    }
}

fn backend_health(page: &mut Page, status: &Status) {
    let name = "steerage_service_panicking";
    page.family(name, "gauge", "Whether health is ignored: too few backends are left.");
    for service in &status.services {
        page.sample(name, &[("service", &service.name)], u8::from(service.panicking));
    }
    page.family("steerage_backend_up", "gauge", "Whether the backend takes new work.");
    each_backend(status, |backend, labels| {
        page.sample("steerage_backend_up", labels, u8::from(backend.accepts_new));
    });
    page.family("steerage_backend_state", "gauge", "1 for the state that the backend is in.");
    each_backend(status, |backend, labels| {
        let labels = [labels[0], labels[1], ("state", backend.state.as_str())];
        page.sample("steerage_backend_state", &labels, 1);
    });
    page.family("steerage_backend_weight", "gauge", "The configured weight.");
    each_backend(status, |backend, labels| {
        page.sample("steerage_backend_weight", labels, backend.weight);
    });
    let name = "steerage_backend_probes_total";
    page.family(name, "counter", "Probes, of all services that share them.");
    each_backend(status, |backend, labels| {
        let Some(probe) = &backend.probe else { return };
        for (result, count) in [("ok", probe.ok), ("failed", probe.failed)] {
            page.sample(name, &[labels[0], labels[1], ("result", result)], count);
        }
    });
    let name = "steerage_backend_probe_seconds";
    page.family(name, "gauge", "How long the latest probe took.");
    each_backend(status, |backend, labels| {
        if let Some(probe) = &backend.probe {
            page.sample(name, labels, probe.seconds);
        }
    });
}

fn backend_l7(page: &mut Page, status: &Status) {
    type Counts = fn(&Backend) -> &[Count];
    let by_label: [(&str, &str, &str, Counts); 6] = [
        ("steerage_backend_responses_total", "class", "Responses by status class.", |b| {
            &b.l7.responses
        }),
        ("steerage_backend_failures_total", "class", "Failed attempts by class.", |b| {
            &b.l7.failures
        }),
        ("steerage_backend_connections_ended_total", "cause", "Connections that ended.", |b| {
            &b.l7.ends
        }),
        ("steerage_backend_replays_total", "rule", "Requests sent again, by rule.", |b| {
            &b.l7.replays
        }),
        ("steerage_backend_replays_refused_total", "reason", "Requests not sent again.", |b| {
            &b.l7.refusals
        }),
        ("steerage_backend_tls_handshakes_total", "kind", "TLS handshakes.", |b| &b.l7.handshakes),
    ];
    for (name, label, help, counts) in by_label {
        page.family(name, "counter", help);
        each_backend(status, |backend, labels| {
            for count in counts(backend) {
                let labels = [labels[0], labels[1], (label, count.name.as_str())];
                page.sample(name, &labels, count.count);
            }
        });
    }
    type Read = fn(&Backend) -> f64;
    let plain: [(&str, &str, &str, Read); 9] = [
        ("steerage_backend_connections_created_total", "counter", "Connections opened.", |b| {
            b.l7.connections_created as f64
        }),
        (
            "steerage_backend_connections_reused_total",
            "counter",
            "Requests on a connection that had carried one before.",
            |b| b.l7.connections_reused as f64,
        ),
        ("steerage_backend_request_body_bytes_total", "counter", "Bytes to the backend.", |b| {
            b.l7.request_body_bytes as f64
        }),
        ("steerage_backend_response_body_bytes_total", "counter", "Bytes from the backend.", |b| {
            b.l7.response_body_bytes as f64
        }),
        ("steerage_backend_active_requests", "gauge", "Requests in flight.", |b| {
            b.l7.active as f64
        }),
        ("steerage_backend_pool_idle", "gauge", "Idle pooled connections.", |b| b.l7.idle as f64),
        ("steerage_backend_connections", "gauge", "Open connections.", |b| b.l7.connections as f64),
        ("steerage_backend_tunnels", "gauge", "Open tunnels.", |b| b.l7.tunnels as f64),
        ("steerage_backend_ejections_total", "counter", "Ejections after failed requests.", |b| {
            b.l7.ejections as f64
        }),
    ];
    for (name, kind, help, read) in plain {
        page.family(name, kind, help);
        each_backend(status, |backend, labels| page.sample(name, labels, read(backend)));
    }
}

/// The buckets whose bounds are exported: enough to see an objective kept or missed, few enough that
/// thousands of backends can be scraped.
const EXPORTED: [usize; 13] = [4, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32];

fn backend_times(page: &mut Page, status: &Status) {
    type Read = fn(&Backend) -> &Latency;
    let timers: [(&str, &str, Read); 4] = [
        ("steerage_backend_queue_seconds", "Waits in line for the backend.", |b| &b.l7.queue),
        ("steerage_backend_connect_seconds", "The making of connections, with TLS.", |b| {
            &b.l7.connect
        }),
        ("steerage_backend_first_byte_seconds", "Times until responses began.", |b| {
            &b.l7.first_byte
        }),
        ("steerage_backend_request_seconds", "Whole times of requests.", |b| &b.l7.total),
    ];
    for (name, help, read) in timers {
        page.family(name, "histogram", help);
        let names = [format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count")];
        each_backend(status, |backend, labels| {
            let latency = read(backend);
            if latency.count == 0 {
                return;
            }
            for last in EXPORTED {
                let below: u64 = latency.buckets[..=last].iter().sum();
                let le = bound_ns(last) as f64 / 1e9;
                page.sample(&names[0], &[labels[0], labels[1], ("le", &le.to_string())], below);
            }
            page.sample(&names[0], &[labels[0], labels[1], ("le", "+Inf")], latency.count);
            page.sample(&names[1], labels, latency.seconds);
            page.sample(&names[2], labels, latency.count);
        });
    }
}

type ReadL4 = fn(&L4) -> u64;

const L4_FAMILIES: [(&str, &str, ReadL4); 6] = [
    ("in_packets_total", "Packets from clients.", |l4| l4.in_packets),
    ("in_bytes_total", "Bytes from clients.", |l4| l4.in_bytes),
    ("out_packets_total", "Packets from backends.", |l4| l4.out_packets),
    ("out_bytes_total", "Bytes from backends.", |l4| l4.out_bytes),
    ("flows_total", "Flows begun.", |l4| l4.flows),
    ("remembered_total", "Flows entered into the flow table.", |l4| l4.remembered),
];

fn l4(page: &mut Page, status: &Status) {
    for (suffix, help, read) in L4_FAMILIES {
        let name = format!("steerage_vip_{suffix}");
        page.family(&name, "counter", help);
        for vip in &status.vips {
            page.sample(&name, &[("vip", &vip.name)], read(&vip.l4));
        }
        let name = format!("steerage_backend_l4_{suffix}");
        page.family(&name, "counter", help);
        each_backend(status, |backend, labels| page.sample(&name, labels, read(&backend.l4)));
    }
    let name = "steerage_vip_table_misses_total";
    page.family(name, "counter", "Packets whose flow the flow table was asked for in vain.");
    for vip in &status.vips {
        page.sample(name, &[("vip", &vip.name)], vip.l4.misses);
    }
    page.family(
        "steerage_l4_reasons_total",
        "counter",
        "L4 packets by what became of them, but for plain forwards.",
    );
    for reason in &status.l4_reasons {
        page.sample("steerage_l4_reasons_total", &[("reason", &reason.name)], reason.count);
    }
}

fn each_backend(status: &Status, mut f: impl FnMut(&Backend, &[(&str, &str); 2])) {
    for service in &status.services {
        for backend in &service.backends {
            let address = backend.address.to_string();
            f(backend, &[("service", &service.name), ("backend", &address)]);
        }
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in &histogram.bounds {
            self.sample(&bucket, &[("le", &bound.to_string())], count);
        }
        self.sample(&bucket, &[("le", "+Inf")], histogram.total);
        self.sample(&format!("{name}_sum"), &[], histogram.sum);
        self.sample(&format!("{name}_count"), &[], histogram.total);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if i == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_values_follow() {
        let mut page = Page(String::new());
        page.sample("m", &[("a", "x\"\\\ny"), ("b", "z")], 7);
        page.sample("n", &[], 0.5);
        assert_eq!(page.0, "m{a=\"x\\\"\\\\\\ny\",b=\"z\"} 7\nn 0.5\n");
    }

    #[test]
    fn every_sample_stands_under_its_family() {
        let text = render(&super::super::table::tests::sample());
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{family}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let part = name.strip_prefix(family);
                assert!(matches!(part, Some("" | "_bucket" | "_sum" | "_count")), "{line}");
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains(
            "steerage_backend_responses_total{service=\"api\",backend=\"10.0.0.1:80\",class=\"2xx\"} 12"
        ));
        assert!(text.contains(
            "steerage_backend_probes_total{service=\"api\",backend=\"10.0.0.1:80\",result=\"failed\"} 1"
        ));
        assert!(text.contains("steerage_probe_lag_seconds_bucket{le=\"0.001\"} 2\n"));
        assert!(text.contains("steerage_probe_lag_seconds_bucket{le=\"+Inf\"} 3\n"));
    }
}
