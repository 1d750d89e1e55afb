//! Reading a client's record: who answered how often, and when a change showed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use steerage_lab::poller::Sample;

/// How often each name answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, usize>);

impl Tally {
    /// Counts lines, each a backend's name.
    pub fn of_lines(text: &str) -> Self {
        let mut tally = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            *tally.0.entry(line.to_owned()).or_default() += 1;
        }
        tally
    }

    /// How often this one answered.
    pub fn count(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All answers.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        f.write_str(&parts.join("   "))
    }
}

/// What a client saw of a backend's death.
#[derive(Debug)]
pub struct Loss {
    /// Requests since then.
    pub requests: usize,
    /// Those that got no answer.
    pub failed: usize,
    /// From the death to the last of these.
    pub last_failure: Option<Duration>,
    /// What the first of these said.
    pub first_error: Option<String>,
}

impl Loss {
    /// Reads it off the samples since `death`.
    pub fn read(samples: &[Sample], death: Instant) -> Self {
        let after: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= death).collect();
        let failures: Vec<&&Sample> = after.iter().filter(|s| s.answer.is_err()).collect();
        Self {
            requests: after.len(),
            failed: failures.len(),
            last_failure: failures.last().map(|sample| sample.at - death),
            first_error: failures.first().and_then(|sample| sample.answer.clone().err()),
        }
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, failed, .. } = self;
        write!(f, "{failed} of {requests} failed")?;
        if let (Some(last), Some(error)) = (self.last_failure, &self.first_error) {
            write!(f, ", the last {} after the kill (\"{error}\")", milliseconds(last))?;
        }
        Ok(())
    }
}

/// From `since` to the first answer of `name`.
pub fn first_answer(samples: &[Sample], name: &str, since: Instant) -> Option<Duration> {
    let of_name = |sample: &&Sample| sample.answer.as_deref() == Ok(name);
    samples.iter().filter(|sample| sample.at >= since).find(of_name).map(|s| s.at - since)
}

/// A time in milliseconds, as precise as it was measured.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_how_long_failures_lasted() {
        let death = Instant::now();
        let at = |ms: u64| death + Duration::from_millis(ms);
        let answer =
            |ms, name: &str| Sample { at: at(ms), answer: Ok(name.to_owned()), again: false };
        let failure = |ms| Sample { at: at(ms), answer: Err("refused".into()), again: false };
        let samples = [answer(1, "b"), failure(2), answer(3, "a"), failure(7), answer(9, "a")];
        let loss = Loss::read(&samples, death);
        assert_eq!((loss.requests, loss.failed), (5, 2));
        assert_eq!(loss.last_failure, Some(Duration::from_millis(7)));
        assert_eq!(first_answer(&samples, "a", at(2)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn lines_are_counted_by_name() {
        let tally = Tally::of_lines("a\nb\n\na\n");
        assert_eq!(
            (tally.count("a"), tally.total(), tally.to_string()),
            (2, 3, "a 2   b 1".into())
        );
    }
}
