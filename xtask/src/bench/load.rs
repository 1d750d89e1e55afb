//! The cases, and wrk's report of one run.

use anyhow::{Context as _, Result, bail};

/// One kind of work.
#[derive(Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What is asked for.
    pub path: &'static str,
    /// More arguments of wrk.
    pub arguments: &'static [&'static str],
    /// Whether the body goes up instead of down.
    pub uploads: bool,
    /// Connections at a time.
    pub connections: u32,
}

/// What is measured.
pub const CASES: &[Case] = &[
    Case { name: "get_128", path: "/128", arguments: &[], uploads: false, connections: 64 },
    Case {
        name: "connection_per_request",
        path: "/128",
        arguments: &["-H", "Connection: close"],
        uploads: false,
        connections: 64,
    },
    Case { name: "get_64k", path: "/64k", arguments: &[], uploads: false, connections: 64 },
    Case { name: "post_1m", path: "/upload", arguments: &[], uploads: true, connections: 16 },
];

/// What wrk counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// Whole responses.
    pub requests: u64,
    /// Responses in a second.
    pub per_second: f64,
}

/// Reads wrk's report.
///
/// # Errors
/// If a request failed, or the report is not as expected.
pub fn read(report: &str, closing: bool) -> Result<Count> {
    for line in report.lines().map(str::trim) {
        // With a connection for each request wrk counts some ends as read errors when it stops.
        let errors = line.starts_with("Socket errors") && !closing;
        if errors || line.starts_with("Non-2xx") {
            bail!("requests failed under load: {line}");
        }
    }
    let requests = report.lines().find_map(|line| {
        let (count, _) = line.trim().split_once(" requests in ")?;
        count.parse().ok()
    });
    let per_second = report
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    let (requests, per_second) = requests
        .zip(per_second)
        .with_context(|| format!("no counts in wrk's report:\n{report}"))?;
    Ok(Count { requests, per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 3s test @ http://127.0.0.1:9000/128\n  1 threads and 64 connections\n  \
                        Thread Stats   Avg      Stdev     Max   +/- Stdev\n  90000 requests in 3.00s, \
                        20.1MB read\nRequests/sec:  29990.25\nTransfer/sec:      6.7MB\n";

    #[test]
    fn counts_are_read() {
        let count = read(GOOD, false).unwrap();
        assert_eq!(count, Count { requests: 90_000, per_second: 29_990.25 });
    }

    #[test]
    fn failures_are_errors() {
        let bad = format!("{GOOD}  Non-2xx or 3xx responses: 7\n");
        assert!(read(&bad, false).unwrap_err().to_string().contains('7'));
        let bad = format!("{GOOD}  Socket errors: connect 1, read 0, write 0, timeout 0\n");
        assert!(read(&bad, false).is_err());
        assert!(read(&bad, true).is_ok());
    }
}
