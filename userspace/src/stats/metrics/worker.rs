//! Workers. What a worker counted stays on its line, whichever process has it.

use super::family::{Described, Kind, Metric, Read, describe, metrics};
use super::page::{Page, Subject};
use crate::stats::status::{Status, Worker};

const WORKER: &[Metric<Worker>] = metrics![
    "steerage_worker_live" Gauge Read::Whole(|w| w.live.into()),
        "1 if the worker accepts connections.";
    "steerage_worker_starts_total" Counter Read::Each("cause", |w| &w.starts),
        "Processes that were started: with the daemon, or in another one's place, by why.";
    "steerage_worker_age_seconds" Gauge Read::Real(|w| Some(w.age_ms as f64 / 1e3)),
        "Time since the process was started.";
    "steerage_worker_resident_memory_bytes" Gauge Read::Whole(|w| w.memory_bytes),
        "Memory of the process in RAM, what it shares with others included.";
    "steerage_worker_cpu_seconds_total" Counter Read::Real(|w| Some(w.cpu_seconds)),
        "Processor time of the process.";
    "steerage_worker_heartbeat_age_seconds" Gauge
        Read::Real(|w| Some(w.heartbeat_age_ms as f64 / 1e3)),
        "Time since the worker was heard of.";
    "steerage_worker_loop_lag_seconds" Histogram Read::Latency(|w| &w.lag),
        "How late the worker's loop came to a timer that is due ten times a second.";
    "steerage_worker_connections" Gauge Read::Whole(|w| w.connections.into()),
        "Open connections of clients.";
    "steerage_worker_pending" Gauge Read::Whole(|w| w.pending.into()),
        "Connections that the kernel gave to the worker and that it has not accepted yet.";
    "steerage_worker_full" Gauge Read::Whole(|w| w.full.into()),
        "1 if the worker has all the connections that it may, and accepts none.";
    "steerage_worker_active_requests" Gauge Read::Whole(|w| w.active_requests),
        "Requests being served, and connections being passed on.";
    "steerage_worker_accepted_total" Counter Read::Whole(|w| w.accepted),
        "Connections accepted.";
    "steerage_worker_connections_ended_total" Counter Read::Sparse("cause", |w| &w.ends),
        "Connections of clients that ended, those that were refused among them.";
    "steerage_worker_streams_cut_total" Counter Read::Sparse("cause", |w| &w.stream_ends),
        "Streams and tunnels in clients' connections that were cut off.";
    "steerage_worker_errors_total" Counter Read::Sparse("class", |w| &w.errors),
        "Requests that Steerage answered itself, and connections that it refused.";
    "steerage_worker_tls_handshakes_total" Counter Read::Sparse("end", |w| &w.handshakes),
        "TLS handshakes with clients, by how they ended.";
    "steerage_worker_access_log_lines_total" Counter Read::Whole(|w| w.log_lines),
        "Lines of the access log that the supervisor took.";
    "steerage_worker_access_log_dropped_total" Counter Read::Whole(|w| w.log_dropped),
        "Lines of the access log that found no room on their way.";
];

pub(super) fn write(page: &mut Page, status: &Status) {
    let all = status.workers.iter().chain(&status.former_workers);
    let all = all.map(|worker| Subject::new(worker, &[("worker", &worker.line.to_string())]));
    let all: Vec<_> = all.collect();
    let living = &all[..status.workers.len()];
    for metric in WORKER {
        let is_of_process = metric.kind == Kind::Gauge || matches!(metric.read, Read::Real(_));
        page.group(std::slice::from_ref(metric), if is_of_process { living } else { &all });
    }
}

pub(super) fn families() -> Vec<Described> {
    describe(&["worker"], WORKER)
}
