//! `if` and `unless`: conditions as what a route can ask for, as far as it can.

use std::collections::HashMap;

use super::token::Line;
use crate::import::expression;
use crate::import::rules::{Host, Match, Path, Value, both};

/// What a condition asks of requests: all of it.
#[derive(Clone, Debug)]
pub struct Clause {
    pub matches: Match,
    /// None of these.
    pub not: Vec<Match>,
    /// What no route can ask for.
    pub unknown: Vec<String>,
}

impl Clause {
    pub const ANY: Self = Self { matches: Match::ANY, not: Vec::new(), unknown: Vec::new() };

    /// Both; `None` if nothing can be both.
    fn and(&self, other: &Self) -> Option<Self> {
        let mut clause = self.clone();
        clause.not.extend_from_slice(&other.not);
        clause.unknown.extend_from_slice(&other.unknown);
        match both(&self.matches, &other.matches) {
            Ok(Some(matches)) => clause.matches = matches,
            Ok(None) => return None,
            Err(()) => clause.unknown.push("two expressions at a time".into()),
        }
        Some(clause)
    }
}

/// The acls of a proxy, by name; and whether its listener has TLS.
pub struct Acls<'a> {
    by_name: HashMap<&'a str, Vec<&'a Line>>,
    is_tls: bool,
}

/// Requests that something is true of: any of the clauses.
type Any = Vec<Clause>;

impl<'a> Acls<'a> {
    pub fn new(lines: impl Iterator<Item = &'a Line>, is_tls: bool) -> Self {
        let mut by_name: HashMap<&str, Vec<&Line>> = HashMap::new();
        for line in lines.filter(|line| line.words[0] == "acl") {
            if let Some(name) = line.words.get(1) {
                by_name.entry(name).or_default().push(line);
            }
        }
        Self { by_name, is_tls }
    }

    /// The condition of a line's last words (`if ...`, `unless ...`); the words before it.
    pub fn split<'w>(&self, words: &'w [String]) -> (Vec<&'w str>, Any) {
        let all: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some(at) = all.iter().position(|word| ["if", "unless"].contains(word)) else {
            return (all, vec![Clause::ANY]);
        };
        let (before, condition) = all.split_at(at);
        (before.to_vec(), self.condition(&condition[1..], condition[0] == "unless"))
    }

    fn condition(&self, words: &[&str], is_negated: bool) -> Any {
        // Alternatives of terms that must all be so.
        let mut alternatives: Vec<Vec<Any>> = vec![Vec::new()];
        let (mut rest, mut is_not) = (words, false);
        while let Some((word, left)) = rest.split_first() {
            rest = left;
            let term = match *word {
                "or" | "||" => {
                    alternatives.push(Vec::new());
                    continue;
                }
                "!" => {
                    is_not = !is_not;
                    continue;
                }
                "{" | "!{" => {
                    let end = left.iter().position(|word| *word == "}").unwrap_or(left.len());
                    rest = left.get(end + 1..).unwrap_or_default();
                    self.test(&left[..end], is_not ^ (*word == "!{") ^ is_negated)
                }
                name => {
                    let (name, not) = match name.strip_prefix('!') {
                        Some(name) => (name, true),
                        None => (name, false),
                    };
                    self.named(name, is_not ^ not ^ is_negated)
                }
            };
            is_not = false;
            if let Some(last) = alternatives.last_mut() {
                last.push(term);
            }
        }
        // Negated, "all of" and "any of" change places.
        let all_of = |terms: &[Any]| {
            terms.iter().fold(vec![Clause::ANY], |clauses, term| product(&clauses, term))
        };
        if is_negated {
            let any_of: Vec<Any> = alternatives.iter().map(|terms| terms.concat()).collect();
            all_of(&any_of)
        } else {
            alternatives.iter().flat_map(|terms| all_of(terms)).collect()
        }
    }

    fn named(&self, name: &str, is_not: bool) -> Any {
        let Some(lines) = self.by_name.get(name) else {
            return match name {
                "TRUE" | "FALSE" => truth((name == "TRUE") != is_not),
                "METH_GET" => self.test(&["method", "GET", "HEAD"], is_not),
                _ if name.starts_with("METH_") => self.test(&["method", &name[5..]], is_not),
                _ => unknown(name, is_not),
            };
        };
        let tests = lines.iter().map(|line| {
            let words: Vec<&str> = line.words[2..].iter().map(String::as_str).collect();
            self.test(&words, is_not)
        });
        if is_not {
            tests.fold(vec![Clause::ANY], |clauses, test| product(&clauses, &test))
        } else {
            tests.flatten().collect()
        }
    }

    /// `path_beg -i /a /b`, `hdr(host) ...`.
    fn test(&self, words: &[&str], is_not: bool) -> Any {
        let Some((fetch, rest)) = words.split_first() else { return unknown("{ }", is_not) };
        let (mut values, mut is_caseless, mut kind) = (Vec::new(), false, None);
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match *word {
                "-i" => is_caseless = true,
                "-m" => kind = rest.next().copied(),
                "--" => values.extend(rest.by_ref().copied()),
                "-f" | "-M" | "-n" | "-u" => return unknown(&words.join(" "), is_not),
                value => values.push(value),
            }
        }
        if ["ssl_fc", "req.ssl_hello_type", "req_ssl_hello_type"].contains(fetch) {
            return truth((self.is_tls || *fetch != "ssl_fc") != is_not);
        }
        let test = Test { fetch, kind, is_caseless };
        let found: Option<Vec<Match>> = if values.is_empty() {
            test.one("").map(|found| vec![found])
        } else if *fetch == "method" {
            let methods = values.iter().map(|method| (*method).to_owned()).collect();
            Some(vec![Match { methods, ..Match::ANY }])
        } else {
            values.iter().map(|value| test.one(value)).collect::<Option<Vec<_>>>()
        };
        let Some(found) = found else { return unknown(&words.join(" "), is_not) };
        let hosts = test.and_domains(&found);
        let all = found.into_iter().chain(hosts);
        if is_not {
            let not = all.collect();
            return vec![Clause { not, ..Clause::ANY }];
        }
        all.map(|matches| Clause { matches, ..Clause::ANY }).collect()
    }
}

fn product(a: &[Clause], b: &[Clause]) -> Any {
    a.iter().flat_map(|a| b.iter().filter_map(|b| a.and(b))).collect()
}

fn truth(is_so: bool) -> Any {
    if is_so { vec![Clause::ANY] } else { Vec::new() }
}

/// What begins with "not " lets only some through.
fn unknown(text: &str, is_not: bool) -> Any {
    let text = format!("{}{text}", if is_not { "not " } else { "" });
    vec![Clause { unknown: vec![text], ..Clause::ANY }]
}

struct Test<'a> {
    fetch: &'a str,
    kind: Option<&'a str>,
    is_caseless: bool,
}

impl Test<'_> {
    /// The fetch, and how its value is compared.
    fn parts(&self) -> (&str, &str) {
        let (name, argument) = self.fetch.split_once('(').unwrap_or((self.fetch, ""));
        let argument = argument.trim_end_matches(')');
        let (name, by_name) = ["_beg", "_end", "_reg", "_dir", "_sub", "_dom"]
            .iter()
            .find_map(|end| name.strip_suffix(end).map(|name| (name, &end[1..])))
            .unwrap_or((name, "str"));
        let subject = match name {
            "path" => "path",
            "hdr" | "req.hdr" | "req.fhdr" => argument,
            "req.ssl_sni" | "req_ssl_sni" | "ssl_fc_sni" => "host",
            _ => "",
        };
        (subject, self.kind.unwrap_or(by_name))
    }

    /// What one value asks for.
    fn one(&self, value: &str) -> Option<Match> {
        let (subject, kind) = self.parts();
        let lower = value.to_ascii_lowercase();
        let mut matches = Match::ANY;
        match subject {
            "" => return None,
            "path" => matches.path = self.path(kind, value)?,
            subject if subject.eq_ignore_ascii_case("host") => {
                let (host, _) = lower.split_once(':').unwrap_or((&lower, ""));
                let end = host.strip_prefix('.');
                let is_name = |name: &str| {
                    !name.is_empty()
                        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
                };
                matches.host = match (kind, end) {
                    ("str" | "dom", None) if is_name(host) => Host::Exact(host.to_owned()),
                    ("end", Some(domain)) if is_name(domain) => Host::Suffix(host.to_owned()),
                    _ => return None,
                };
            }
            name => {
                let value = match kind {
                    "found" => Value::Is(true),
                    "str" if value.is_empty() => Value::Is(true),
                    "str" if !self.is_caseless => Value::Exact(value.to_owned()),
                    _ => Value::Regex(self.expression(kind, value)?),
                };
                matches.headers.insert(name.to_ascii_lowercase(), value);
            }
        }
        Some(matches)
    }

    /// `hdr_dom` finds a domain's own hosts too.
    fn and_domains(&self, found: &[Match]) -> Vec<Match> {
        if self.parts().1 != "dom" {
            return Vec::new();
        }
        let below = |matches: &Match| match &matches.host {
            Host::Exact(host) => {
                Some(Match { host: Host::Suffix(format!(".{host}")), ..Match::ANY })
            }
            _ => None,
        };
        found.iter().filter_map(below).collect()
    }

    fn path(&self, kind: &str, value: &str) -> Option<Path> {
        let is_path = value.starts_with('/') && !value.contains(['?', '#']);
        match kind {
            "str" if is_path && !self.is_caseless => Some(Path::Exact(value.to_owned())),
            "beg" if is_path && !self.is_caseless => match value.trim_end_matches('/') {
                "" => Some(Path::Any),
                prefix => Some(Path::Prefix(prefix.to_owned())),
            },
            _ => self.expression(kind, value).map(Path::Regex),
        }
    }

    fn expression(&self, kind: &str, value: &str) -> Option<String> {
        let text = expression::escape(value);
        let searched = match kind {
            "str" => format!("^{text}$"),
            "beg" => format!("^{text}"),
            "end" => format!("{text}$"),
            "sub" => text,
            "dir" => format!("/{}(?:/|$)", text.trim_matches('/')),
            "reg" => value.to_owned(),
            _ => return None,
        };
        expression::whole(&searched, self.is_caseless).ok()
    }
}
