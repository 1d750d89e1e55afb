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
    /// Whether clients come over TLS.
    pub tls: bool,
}

/// A load generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// HTTP/1.1, with more arguments.
    Wrk(&'static [&'static str]),
    /// HTTP/2, over TLS or with prior knowledge, and so many streams on each connection.
    H2load(u32),
    /// A connection for each request, and a TLS handshake for each connection.
    Handshakes(Session),
}

/// Whether clients come back with what they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// They do not: each handshake is a whole one.
    Full,
    /// They do.
    Resumed,
}

/// What is measured.
pub const CASES: &[Case] = &[
    Case { name: "get_128", ..GET },
    Case {
        name: "connection_per_request",
        by: Generator::Wrk(&["-H", "Connection: close"]),
        ..GET
    },
    Case { name: "get_64k", path: "/64k", ..GET },
    Case { name: "post_1m", path: "/upload", uploads: true, connections: 16, ..GET },
    Case { name: "h2c_get_128", by: Generator::H2load(32), connections: 16, ..GET },
    Case { name: "tls_get_128", tls: true, ..GET },
    Case { name: "tls_get_64k", path: "/64k", tls: true, ..GET },
    Case { name: "tls_h2_get_128", by: Generator::H2load(32), connections: 16, tls: true, ..GET },
    Case {
        name: "tls_handshake_full",
        by: Generator::Handshakes(Session::Full),
        connections: 8,
        tls: true,
        ..GET
    },
    Case {
        name: "tls_handshake_resumed",
        by: Generator::Handshakes(Session::Resumed),
        connections: 8,
        tls: true,
        ..GET
    },
    Case { name: "tls_to_backend_get_128", path: "/tls/128", ..GET },
];

const GET: Case =
    Case { name: "", path: "/128", by: PLAIN, uploads: false, connections: 64, tls: false };

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
        Generator::Handshakes(session) => read_handshakes(report, session),
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

/// `handshakes: 900 full, 0 resumed in 3.00 s`
fn read_handshakes(report: &str, session: Session) -> Result<Count> {
    let read = || {
        let line = report.lines().find_map(|line| line.strip_prefix("handshakes: "))?;
        let (counts, seconds) = line.strip_suffix(" s")?.split_once(" in ")?;
        let (full, resumed) = counts.strip_suffix(" resumed")?.split_once(" full, ")?;
        let numbers: (u64, u64) = (full.parse().ok()?, resumed.parse().ok()?);
        Some((numbers.0, numbers.1, seconds.parse::<f64>().ok()?))
    };
    let (full, resumed, seconds) =
        read().with_context(|| format!("no counts in the report:\n{report}"))?;
    let requests = full + resumed;
    // Each client's first one is full, and a ticket may be used up.
    let is_as_asked = match session {
        Session::Full => resumed == 0,
        Session::Resumed => resumed * 100 >= requests * 90,
    };
    if !is_as_asked {
        bail!("{full} handshakes were full and {resumed} resumed");
    }
    #[allow(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52")]
    let per_second = requests as f64 / seconds;
    Ok(Count { requests, per_second })
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
    fn handshakes_are_as_they_were_asked_for() {
        let report = "handshakes: 10 full, 990 resumed in 2.00 s\n";
        let count = read(Generator::Handshakes(Session::Resumed), report).unwrap();
        assert_eq!(count, Count { requests: 1000, per_second: 500.0 });
        assert!(read(Generator::Handshakes(Session::Full), report).is_err());
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
