//! The cases, and what the load generators report of one run.

use anyhow::{Context as _, Result, bail};

/// One kind of work.
#[derive(Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What is asked for.
    pub path: &'static str,
    /// Who makes the load.
    pub by: Generator,
    /// Whether the body goes up instead of down.
    pub uploads: bool,
    /// Connections at a time.
    pub connections: u32,
}

/// A load generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// HTTP/1.1, with more arguments.
    Wrk(&'static [&'static str]),
    /// HTTP/2 with prior knowledge, and so many streams on each connection.
    H2load(u32),
}

/// What is measured.
pub const CASES: &[Case] = &[
    Case { name: "get_128", path: "/128", by: PLAIN, uploads: false, connections: 64 },
    Case {
        name: "connection_per_request",
        path: "/128",
        by: Generator::Wrk(&["-H", "Connection: close"]),
        uploads: false,
        connections: 64,
    },
    Case { name: "get_64k", path: "/64k", by: PLAIN, uploads: false, connections: 64 },
    Case { name: "post_1m", path: "/upload", by: PLAIN, uploads: true, connections: 16 },
    Case {
        name: "h2c_get_128",
        path: "/128",
        by: Generator::H2load(32),
        uploads: false,
        connections: 16,
    },
];

const PLAIN: Generator = Generator::Wrk(&[]);

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count {
    /// Whole responses.
    pub requests: u64,
    /// Responses in a second.
    pub per_second: f64,
}

/// Reads the report of a generator.
///
/// # Errors
/// If a request failed, or the report is not as expected.
pub fn read(by: Generator, report: &str) -> Result<Count> {
    match by {
        Generator::Wrk(arguments) => read_wrk(report, arguments.contains(&"-H")),
        Generator::H2load(_) => read_h2load(report),
    }
}

fn read_h2load(report: &str) -> Result<Count> {
    let no_counts = || format!("no counts in h2load's report:\n{report}");
    let line = |start| report.lines().find_map(|line| line.strip_prefix(start));
    let counts = line("requests: ").with_context(no_counts)?;
    let count = |what: &str| {
        let number =
            counts.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok());
        number.with_context(no_counts)
    };
    let succeeded: u64 = count(" succeeded")?;
    let (failed, errored): (u64, u64) = (count(" failed")?, count(" errored")?);
    if failed + errored != 0 {
        bail!("requests failed under load: {counts}");
    }
    let speed = line("finished in ").and_then(|line| line.split(", ").nth(1));
    let per_second = speed.and_then(|speed| speed.strip_suffix(" req/s")?.parse().ok());
    Ok(Count { requests: succeeded, per_second: per_second.with_context(no_counts)? })
}

fn read_wrk(report: &str, closing: bool) -> Result<Count> {
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
        let count = read(PLAIN, GOOD).unwrap();
        assert_eq!(count, Count { requests: 90_000, per_second: 29_990.25 });
    }

    const H2LOAD: &str = "finished in 3.00s, 37022.00 req/s, 5.61MB/s\n\
        requests: 111066 total, 111578 started, 111066 done, 111066 succeeded, 0 failed, \
        0 errored, 0 timeout\nstatus codes: 111066 2xx, 0 3xx, 0 4xx, 0 5xx\n";

    #[test]
    fn h2loads_counts_are_read() {
        let by = Generator::H2load(32);
        let count = read(by, H2LOAD).unwrap();
        assert_eq!(count, Count { requests: 111_066, per_second: 37_022.0 });
        let bad = H2LOAD.replace("0 failed", "3 failed");
        assert!(read(by, &bad).unwrap_err().to_string().contains("3 failed"));
    }

    #[test]
    fn failures_are_errors() {
        let bad = format!("{GOOD}  Non-2xx or 3xx responses: 7\n");
        assert!(read(PLAIN, &bad).unwrap_err().to_string().contains('7'));
        let bad = format!("{GOOD}  Socket errors: connect 1, read 0, write 0, timeout 0\n");
        assert!(read(PLAIN, &bad).is_err());
        assert!(read(Generator::Wrk(&["-H", "Connection: close"]), &bad).is_ok());
    }
}
