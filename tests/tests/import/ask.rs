//! Requests, and what of their answers must be the same.

use std::collections::BTreeMap;

use steerage_lab::client::curl;

use crate::peers::{Ground, address};

/// A request, asked so many times.
#[derive(Debug)]
pub struct Question {
    host: &'static str,
    path: &'static str,
    arguments: &'static [&'static str],
    times: usize,
    is_secure: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// How often each status came from each backend.
    from: BTreeMap<(u16, String), usize>,
    /// Headers of the last one that the proxy has a say in.
    headers: BTreeMap<String, String>,
    /// What the backend saw, or the proxy's own body.
    body: Vec<String>,
}

/// A request for a host and path.
pub fn get(host: &'static str, path: &'static str) -> Question {
    Question { host, path, arguments: &[], times: 1, is_secure: false }
}

/// The same over TLS, by the host's name.
pub fn secure(host: &'static str, path: &'static str) -> Question {
    Question { is_secure: true, ..get(host, path) }
}

impl Question {
    /// With more of curl's arguments.
    pub fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    /// Asked so many times.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    pub fn ask(&self, ground: &Ground) -> Answer {
        let (url, host, resolved) = if self.is_secure {
            let name = format!("{}:8443", self.host);
            let url = format!("https://{name}{}", self.path);
            (url, format!("Host: {name}"), format!("{name}:{}", address().ip()))
        } else {
            let url = format!("http://{}{}", address(), self.path);
            (url, format!("Host: {}", self.host), String::new())
        };
        let ca = ground.authority.ca();
        let mut arguments = vec!["-i", "--http1.1", "--path-as-is", "-H", &host];
        if self.is_secure {
            arguments.extend(["--resolve", &resolved, "--cacert", &ca]);
        }
        arguments.extend(self.arguments);
        arguments.push(&url);
        let mut answer =
            Answer { from: BTreeMap::new(), headers: BTreeMap::new(), body: Vec::new() };
        for _ in 0..self.times {
            let got = curl(&ground.topology.client, &arguments).unwrap();
            assert_eq!(got.exit, 0, "{self:?}: {}", got.error);
            let (head, body) = got.text.split_once("\r\n\r\n").unwrap_or((&got.text, ""));
            let headers: BTreeMap<String, String> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(lowered)
                .collect();
            let backend = headers.get("x-backend").cloned().unwrap_or_default();
            // Its own error pages are each proxy's own.
            let is_own_page = backend.is_empty() && got.status >= 300;
            *answer.from.entry((got.status, backend)).or_default() += 1;
            answer.headers = headers;
            answer.headers.retain(|name, _| name == "location" || name.starts_with("x-test"));
            answer.body = if is_own_page || self.times > 1 { Vec::new() } else { seen(body) };
        }
        answer
    }
}

fn lowered((name, value): (&str, &str)) -> (String, String) {
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

/// Lines of a body; of headers that a backend saw, those that the configurations speak of.
fn seen(body: &str) -> Vec<String> {
    let of_the_proxy = |line: &&str| {
        let name = line.split(": ").next().unwrap_or_default().to_ascii_lowercase();
        !(name.starts_with("x-forwarded-")
            || ["connection", "via", "x-request-id"].contains(&&*name))
    };
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = body.lines().filter(of_the_proxy).map(lower).collect();
    lines.sort();
    lines
}
