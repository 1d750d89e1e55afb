//! What a metric is: its name, what it means, and how it is read from a subject.

use crate::stats::status::{Count, Histogram, Latency};

/// A metric of subjects of one kind.
#[derive(Debug)]
pub(super) struct Metric<T: 'static> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// A sentence.
    pub(super) help: &'static str,
    pub(super) read: Read<T>,
}

/// What Prometheus may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rises and falls.
    Gauge,
    /// Only rises; its name ends in `_total`.
    Counter,
    /// Buckets, which only rise, with their sum and count.
    Histogram,
    /// Labels alone; its name ends in `_info`.
    Info,
}

impl Kind {
    /// Its name in OpenMetrics and in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// How a subject's values are read.
#[derive(Debug)]
pub(super) enum Read<T: 'static> {
    /// One number.
    Whole(fn(&T) -> u64),
    /// One number, if there is one.
    Real(fn(&T) -> Option<f64>),
    /// One for each value of a label.
    Each(&'static str, fn(&T) -> &[Count]),
    /// One for each value of a label that has counted anything.
    Sparse(&'static str, fn(&T) -> &[Count]),
    /// One for each value of a label, of those that are not kept as counts.
    Named(&'static str, fn(&T) -> Vec<(&'static str, u64)>),
    /// 1, with what it is as a label.
    Label(&'static str, fn(&T) -> &str),
    /// The buckets of [`steerage_common::latency`], if there is anything in them.
    Latency(fn(&T) -> &Latency),
    /// Other buckets.
    Histogram(fn(&T) -> &Histogram),
}

impl<T> Read<T> {
    /// The label that it adds to the subject's.
    const fn label(&self) -> Option<&'static str> {
        match self {
            Self::Each(label, _)
            | Self::Sparse(label, _)
            | Self::Named(label, _)
            | Self::Label(label, _) => Some(label),
            Self::Whole(_) | Self::Real(_) | Self::Latency(_) | Self::Histogram(_) => None,
        }
    }
}

/// A metric as its documentation has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels; `le` of histograms is not among them.
    pub labels: Vec<&'static str>,
    /// A sentence.
    pub help: &'static str,
}

/// Metrics of subjects with these labels.
pub(super) fn describe<T>(labels: &[&'static str], metrics: &[Metric<T>]) -> Vec<Described> {
    let described = metrics.iter().map(|metric| Described {
        name: metric.name,
        kind: metric.kind,
        labels: labels.iter().copied().chain(metric.read.label()).collect(),
        help: metric.help,
    });
    described.collect()
}

macro_rules! metrics {
    ($($name:literal $kind:ident $read:expr, $help:literal;)+) => {
        &[$($crate::stats::metrics::family::Metric {
            name: $name,
            kind: $crate::stats::metrics::family::Kind::$kind,
            help: $help,
            read: $read,
        }),+]
    };
}
pub(super) use metrics;
