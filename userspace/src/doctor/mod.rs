//! `steerage doctor`: whether this host has what the daemon needs, and what to do where it has not.
//!
//! Each check tries the thing itself where that does no harm (programs are loaded, a ring is made) and
//! reads what the kernel says where it might. Nothing is changed, nothing is left behind.

mod host;
mod links;

use std::fmt::Write as _;

use serde::Serialize;

use crate::config::Model;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// The daemon, or what this configuration asks of it, can't work.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    fn warn(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (verdict, found, remedy) = (Verdict::Warn, found.into(), remedy.into());
        Self { what: what.into(), verdict, found, remedy }
    }

    fn fail(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(what, found, remedy) }
    }
}

/// Looks at everything. With `model` also at what that configuration needs.
#[must_use]
pub fn examine(model: Option<&Model>) -> Vec<Finding> {
    let mut findings = host::examine(model);
    findings.extend(links::examine(model));
    findings
}

/// The findings for people, one a line, and what to do below each that is not as it should be.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, verdict, found, remedy } in findings {
        let mark = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let _ = writeln!(text, "{mark}  {what:<width$}  {found}");
        if !remedy.is_empty() {
            let _ = writeln!(text, "      {:width$}  -> {remedy}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_a_line_each_and_remedies_stand_below() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::warn("backlog", "128", "sysctl -w net.core.somaxconn=4096"),
            Finding::fail("user", "none", "useradd"),
        ];
        assert_eq!(
            render(&findings),
            "ok    kernel   6.18\nwarn  backlog  128\n               -> sysctl -w \
             net.core.somaxconn=4096\nFAIL  user     none\n               -> useradd\n"
        );
    }

    #[test]
    fn this_host_is_examined_without_a_configuration() {
        let findings = examine(None);
        for what in ["kernel", "privileges", "eBPF", "io_uring", "open files", "listen backlog"] {
            assert!(findings.iter().any(|finding| finding.what == what), "{what}: {findings:?}");
        }
        let is_told =
            |finding: &Finding| finding.verdict == Verdict::Ok || !finding.remedy.is_empty();
        assert!(findings.iter().all(is_told), "{findings:?}");
    }
}
