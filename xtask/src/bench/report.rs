//! Medians, ratios, and how they are printed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::peers::{Kind, Run};

/// All runs, by case in the order of their measurement.
#[derive(Default)]
pub struct Results {
    cases: Vec<&'static str>,
    runs: BTreeMap<(&'static str, Kind), Vec<Run>>,
}

impl Results {
    /// Notes a run.
    pub fn add(&mut self, case: &'static str, kind: Kind, run: Run) {
        if !self.cases.contains(&case) {
            self.cases.push(case);
        }
        self.runs.entry((case, kind)).or_default().push(run);
    }

    fn per_second(&self, case: &'static str, kind: Kind) -> Option<f64> {
        median(self.runs.get(&(case, kind))?.iter().map(|run| run.per_second).collect())
    }

    fn cpu_us(&self, case: &'static str, kind: Kind) -> Option<f64> {
        median(self.runs.get(&(case, kind))?.iter().filter_map(|run| run.cpu_us).collect())
    }

    /// CPU time of ours over that of a peer: under 1 is less work.
    fn ratio(&self, case: &'static str, peer: Kind) -> Option<f64> {
        Some(self.cpu_us(case, Kind::Steerage)? / self.cpu_us(case, peer)?)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<24} {:<10} {:>12} {:>16}   {}",
            "case", "impl", "requests/s", "CPU µs/request", "our CPU over theirs"
        )];
        for case in &self.cases {
            for kind in Kind::ALL {
                let rate = self.per_second(case, kind).unwrap_or(0.0);
                let cpu = self.cpu_us(case, kind).map_or("-".into(), |us| format!("{us:.2}"));
                let ratio = match kind {
                    Kind::Haproxy | Kind::Nginx => self.ratio(case, kind),
                    Kind::Steerage | Kind::Direct => None,
                };
                let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
                let line =
                    format!("{case:<24} {:<10} {rate:>12.0} {cpu:>16}   {ratio}", kind.name());
                lines.push(line.trim_end().to_owned());
            }
        }
        lines.join("\n")
    }

    /// Rows of `case`, `impl`, `value`, `unit`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut rows = Vec::new();
        for case in &self.cases {
            for kind in Kind::ALL {
                let values = [
                    (self.per_second(case, kind), "requests/s"),
                    (self.cpu_us(case, kind), "cpu_us/request"),
                ];
                for (value, unit) in values {
                    let Some(value) = value else { continue };
                    rows.push(json!({
                        "case": case, "impl": kind.name(), "value": value, "unit": unit
                    }));
                }
            }
        }
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle one; of an even number the mean of the middle two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_a_disturbed_run() {
        assert_eq!(median(vec![10.0, 300.0, 11.0]), Some(11.0));
        assert_eq!(median(vec![1.0, 2.0]), Some(1.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn ratios_are_of_cpu_time() {
        let mut results = Results::default();
        let run = |cpu| Run { per_second: 1.0, cpu_us: Some(cpu) };
        results.add("a", Kind::Steerage, run(12.0));
        results.add("a", Kind::Nginx, run(16.0));
        assert_eq!(results.ratio("a", Kind::Nginx), Some(0.75));
        assert_eq!(results.ratio("a", Kind::Haproxy), None);
        assert!(results.table().contains("0.75"));
    }
}
