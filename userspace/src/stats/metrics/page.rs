//! Metrics as text.

use std::fmt::{Display, Write as _};

use steerage_common::latency::bound_ns;

use super::accept::Format;
use super::family::{Kind, Metric, Read};
use crate::stats::status::Latency;

/// The buckets of a [`Latency`] whose bounds are exported, from 250 µs to 4.1 s: enough to see an objective
/// kept or missed, few enough that thousands of backends can be scraped.
pub(super) const EXPORTED: [usize; 13] = [4, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32];

/// A subject, with its labels as they are written.
pub(super) struct Subject<'a, T> {
    labels: String,
    of: &'a T,
}

impl<'a, T> Subject<'a, T> {
    pub(super) fn new(of: &'a T, labels: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            push_label(&mut text, name, value);
        }
        Self { labels: text, of }
    }
}

/// A page in the making.
pub(super) struct Page {
    text: String,
    format: Format,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { text: String::with_capacity(64 * 1024), format }
    }

    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// Writes some metrics of all subjects.
    pub(super) fn group<T>(&mut self, metrics: &[Metric<T>], subjects: &[Subject<'_, T>]) {
        for metric in metrics {
            self.family(metric.name, metric.kind, metric.help);
            for subject in subjects {
                self.values(metric, subject);
            }
        }
    }

    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (name, kind) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => (base(name, "_total"), kind.name()),
            (Format::OpenMetrics, Kind::Info) => (base(name, "_info"), kind.name()),
            (Format::Text, Kind::Info) => (name, Kind::Gauge.name()),
            (_, kind) => (name, kind.name()),
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    fn values<T>(&mut self, metric: &Metric<T>, subject: &Subject<'_, T>) {
        let (name, labels, of) = (metric.name, &*subject.labels, subject.of);
        match &metric.read {
            Read::Whole(read) => self.sample(name, "", labels, None, read(of)),
            Read::Real(read) => {
                if let Some(value) = read(of) {
                    self.sample(name, "", labels, None, value);
                }
            }
            Read::Each(label, read) => {
                for count in read(of) {
                    self.sample(name, "", labels, Some((label, &count.name)), count.count);
                }
            }
            Read::Sparse(label, read) => {
                for count in read(of).iter().filter(|count| count.count > 0) {
                    self.sample(name, "", labels, Some((label, &count.name)), count.count);
                }
            }
            Read::Named(label, read) => {
                for (value, count) in read(of) {
                    self.sample(name, "", labels, Some((label, value)), count);
                }
            }
            Read::Label(label, read) => self.sample(name, "", labels, Some((label, read(of))), 1),
            Read::Latency(read) => self.latency(name, labels, read(of)),
            Read::Histogram(read) => {
                let histogram = read(of);
                let bounds = histogram.bounds.iter().copied();
                self.histogram(name, labels, bounds, (histogram.total, histogram.sum));
            }
        }
    }

    fn latency(&mut self, name: &str, labels: &str, latency: &Latency) {
        if latency.count == 0 || latency.buckets.is_empty() {
            return;
        }
        let (mut from, mut below) = (0, 0);
        let bounds = EXPORTED.map(|last| {
            below += latency.buckets[from..=last].iter().sum::<u64>();
            from = last + 1;
            (bound_ns(last) as f64 / 1e9, below)
        });
        self.histogram(name, labels, bounds.into_iter(), (latency.count, latency.seconds));
    }

    fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        bounds: impl Iterator<Item = (f64, u64)>,
        (count, sum): (u64, f64),
    ) {
        for (bound, below) in bounds {
            self.sample(name, "_bucket", labels, Some(("le", &bound.to_string())), below);
        }
        self.sample(name, "_bucket", labels, Some(("le", "+Inf")), count);
        self.sample(name, "_sum", labels, None, sum);
        self.sample(name, "_count", labels, None, count);
    }

    fn sample(
        &mut self,
        name: &str,
        part: &str,
        labels: &str,
        label: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(name);
        self.text.push_str(part);
        if !labels.is_empty() || label.is_some() {
            self.text.push('{');
            self.text.push_str(labels);
            if let Some((label, value)) = label {
                if !labels.is_empty() {
                    self.text.push(',');
                }
                write_label(&mut self.text, label, value);
            }
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn base<'a>(name: &'a str, suffix: &str) -> &'a str {
    name.strip_suffix(suffix).unwrap_or(name)
}

fn push_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    write_label(text, name, value);
}

fn write_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_values_follow() {
        let mut page = Page::new(Format::OpenMetrics);
        let subject = Subject::new(&(), &[("a", "x\"\\\ny"), ("b", "z")]);
        page.sample("m", "_sum", &subject.labels, Some(("c", "d")), 7);
        page.sample("n", "", "", None, 0.5);
        page.sample("o", "", "", Some(("c", "d")), 1);
        let text = "m_sum{a=\"x\\\"\\\\\\ny\",b=\"z\",c=\"d\"} 7\nn 0.5\no{c=\"d\"} 1\n# EOF\n";
        assert_eq!(page.end(), text);
    }
}
