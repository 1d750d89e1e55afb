//! The daemon itself, its configuration and its certificates.

use super::family::{Described, Metric, Read, describe, metrics};
use super::page::{Page, Subject};
use crate::stats::status::{Certificate, Status};

const INFO: &[Metric<()>] = metrics![
    "steerage_info" Info Read::Whole(|()| 1),
        "The running daemon: its version, its instance, and whether its tables are the kernel's.";
];

const DAEMON: &[Metric<Status>] = metrics![
    "steerage_uptime_seconds" Gauge Read::Whole(|s| s.uptime_seconds),
        "Time since the supervisor started.";
    "steerage_config_generation" Gauge Read::Whole(|s| s.generation),
        "The generation of the tables in force.";
    "steerage_config_reloads_total" Counter Read::Each("result", |s| &s.reloads),
        "Attempts to put another configuration in force.";
    "steerage_config_reload_refused" Gauge Read::Whole(|s| s.reload_refused.into()),
        "1 if the latest attempt was refused: what is in force is not what was asked for.";
    "steerage_config_taken_timestamp_seconds" Gauge Read::Whole(|s| s.config_since),
        "When a configuration was put in force last, since 1970.";
    "steerage_access_log_lost_total" Counter Read::Whole(|s| s.access_log_lost),
        "Lines of the access log that its destination did not take.";
    "steerage_probe_lag_seconds" Histogram Read::Histogram(|s| &s.probe_lag),
        "How late probes began.";
];

const CERTIFICATE_LABELS: &[&str] = &["cert", "listener", "subject"];

const CERTIFICATE: &[Metric<Certificate>] = metrics![
    "steerage_certificate_not_before_timestamp_seconds" Gauge
        Read::Real(|c| Some(c.not_before as f64)),
        "When its time begins, since 1970.";
    "steerage_certificate_not_after_timestamp_seconds" Gauge
        Read::Real(|c| Some(c.not_after as f64)),
        "When its time ends, since 1970.";
    "steerage_certificate_faulty" Gauge Read::Whole(|c| c.fault.is_some().into()),
        "1 if something is wrong with its files, and what was read before is in force.";
];

pub(super) fn write(page: &mut Page, status: &Status) {
    let Status { version, instance, plane, .. } = status;
    let labels = [("version", &**version), ("instance", instance), ("plane", plane)];
    page.group(INFO, &[Subject::new(&(), &labels)]);
    page.group(DAEMON, &[Subject::new(status, &[])]);
    let certificates = status.certificates.iter().map(|certificate| {
        let Certificate { cert, listeners, subject, .. } = certificate;
        let listeners = listeners.join(",");
        let labels = [("cert", &**cert), ("listener", &listeners), ("subject", subject)];
        Subject::new(certificate, &labels)
    });
    page.group(CERTIFICATE, &certificates.collect::<Vec<_>>());
}

pub(super) fn families() -> Vec<Described> {
    let info = describe(&["version", "instance", "plane"], INFO);
    [info, describe(&[], DAEMON), describe(CERTIFICATE_LABELS, CERTIFICATE)].concat()
}
