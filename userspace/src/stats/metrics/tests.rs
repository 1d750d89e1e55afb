use std::collections::BTreeMap;
use std::path::Path;

use steerage_common::latency::{BUCKETS, bucket};

use super::family::{Described, Kind};
use super::*;
use crate::stats::status::Latency;
use crate::stats::table::tests::sample;

/// One of everything, with something counted in each.
fn full() -> Status {
    let mut status = sample();
    let fill = |latency: &mut Latency| {
        latency.buckets = vec![0; BUCKETS];
        for us in [3_000, 1_000_000, 120_000_000] {
            latency.buckets[bucket(us)] += 1;
        }
    };
    for listener in &mut status.listeners {
        fill(&mut listener.total);
        listener.routes.iter_mut().for_each(|route| fill(&mut route.total));
    }
    for worker in &mut status.workers {
        fill(&mut worker.lag);
    }
    for backend in status.services.iter_mut().flat_map(|service| &mut service.backends) {
        let l7 = &mut backend.l7;
        for latency in [&mut l7.queue, &mut l7.connect, &mut l7.first_byte, &mut l7.total] {
            fill(latency);
        }
    }
    status
}

/// Name and labels of a sample.
type Sample<'a> = (&'a str, Vec<&'a str>);

/// All samples by their family.
fn read(text: &str) -> BTreeMap<&str, Vec<Sample<'_>>> {
    let mut families = BTreeMap::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family, Vec::new()).is_none(), "{family} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            // Values here have no commas but in quotes.
            let labels =
                labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| label.split('=').next().unwrap()).collect();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            families.get_mut(family).unwrap().push((name, labels));
        }
    }
    families
}

#[test]
fn what_is_exported_is_what_is_described() {
    let text = render(&full(), Format::Text);
    let mut found = read(&text);
    for Described { name, kind, labels, .. } in families() {
        let samples = found.remove(name).unwrap_or_else(|| panic!("{name} is not exported"));
        assert!(!samples.is_empty(), "{name} has no sample");
        for (sample, of) in samples {
            let part = sample.strip_prefix(name).unwrap();
            let expected = match (kind, part) {
                (Kind::Histogram, "_bucket") => [&labels[..], &["le"]].concat(),
                (Kind::Histogram, "_sum" | "_count") => labels.clone(),
                (Kind::Gauge | Kind::Counter | Kind::Info, "") => labels.clone(),
                _ => panic!("{sample} of a {}", kind.name()),
            };
            assert_eq!(of, expected, "{sample}");
        }
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), kind == Kind::Info, "{name}");
    }
    assert!(found.is_empty(), "not described: {found:?}");
}

#[test]
fn counters_of_rare_causes_and_empty_histograms_take_no_room() {
    let text = render(&sample(), Format::Text);
    assert!(text.contains(
        "steerage_listener_connections_ended_total{listener=\"web\",cause=\"drained\"} 1\n"
    ));
    assert!(!text.contains("cause=\"eof\""));
    assert!(!text.contains("_request_seconds_count"));
    assert!(text.contains("steerage_listener_responses_total{listener=\"web\",class=\"4xx\"} 0\n"));
}

#[test]
fn histograms_are_cumulative_and_end_with_all() {
    let text = render(&full(), Format::Text);
    let of = |le: &str| {
        let line =
            format!("steerage_listener_request_seconds_bucket{{listener=\"web\",le=\"{le}\"}} ");
        text.split_once(&line).unwrap_or_else(|| panic!("{line}")).1.split_once('\n').unwrap().0
    };
    assert_eq!([of("0.002"), of("0.004"), of("0.512"), of("1.024")], ["0", "1", "1", "2"]);
    assert_eq!([of("4.096"), of("+Inf")], ["2", "3"]);
    assert!(text.contains("steerage_listener_request_seconds_sum{listener=\"web\"} 121.003\n"));
}

#[test]
fn open_metrics_has_its_own_names_units_and_end() {
    let text = render(&full(), Format::OpenMetrics);
    for line in [
        "# TYPE steerage info\n",
        "# TYPE steerage_config_reloads counter\n",
        "steerage_config_reloads_total{result=\"taken\"} 2\n",
        "# UNIT steerage_backend_request_seconds seconds\n",
        "# UNIT steerage_listener_request_body_bytes bytes\n",
        "# UNIT steerage_worker_resident_memory_bytes bytes\n",
    ] {
        assert!(text.contains(line), "{line}");
    }
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    assert_eq!(read(&text).len(), families().len());
}

/// `STEERAGE_BLESS=1` writes the tables anew.
#[test]
fn the_page_of_metrics_is_true() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once("<!-- metrics -->\n").unwrap();
    let (listed, after) = rest.split_once("<!-- end of metrics -->\n").unwrap();
    let mut table = String::from("\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for Described { name, kind, labels, help } in families() {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        table += &format!("| `{name}` | {} | {labels} | {help} |\n", kind.name());
    }
    table.push('\n');
    if std::env::var_os("STEERAGE_BLESS").is_some() {
        let text = format!("{before}<!-- metrics -->\n{table}<!-- end of metrics -->\n{after}");
        std::fs::write(path, text).unwrap();
        return;
    }
    assert_eq!(listed, table, "STEERAGE_BLESS=1 writes it");
}

/// Names in what is shipped for Prometheus and Grafana are exported ones.
#[test]
fn what_is_shipped_asks_for_what_there_is() {
    let families = families();
    let known = |word: &str| {
        let parts = ["", "_bucket", "_sum", "_count"].map(|part| word.strip_suffix(part));
        parts.into_iter().flatten().any(|name| families.iter().any(|family| family.name == name))
    };
    for file in ["grafana/steerage.json", "prometheus/steerage.rules.yml"] {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging")).join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("steerage_")).collect();
        assert!(named.len() > 10, "{file}");
        for word in named {
            assert!(known(word), "{file}: {word}");
        }
    }
}
