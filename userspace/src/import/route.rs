//! What is done with requests, and the routes that say so.

use std::rc::Rc;

use toml_edit::{Array, Value as Toml};

use super::draft::Table;
use super::expression;
use super::remark::{Place, Remark, Weight};
use super::rules::{self, Host, Lowered, Match, Path, Rule, Value};

/// What is done with a request. Two are the same if they are one.
#[derive(Debug)]
pub struct Action {
    /// Where it ends.
    pub end: End,
    /// What becomes of its path.
    pub rewrite: Option<Rewrite>,
    /// Other keys of the route, and remarks.
    pub table: Table,
}

impl PartialEq for Action {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// Where a request ends.
#[derive(Clone, Debug)]
pub enum End {
    /// At a service.
    Service(String),
    /// Elsewhere.
    Redirect {
        /// A template.
        to: String,
        /// 301, 302, 307 or 308.
        status: u16,
    },
    /// Here.
    Answer {
        /// 200 to 599.
        status: u16,
        /// A text.
        body: String,
        /// Its type, if it is not plain text.
        content_type: Option<String>,
    },
}

/// What becomes of a path.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// Its first segments are replaced.
    Prefix {
        /// Without a slash at its end.
        from: String,
        /// A path.
        to: String,
    },
    /// It is replaced if it matches.
    Whole {
        /// For the whole path.
        regex: String,
        /// A template.
        to: String,
    },
}

/// A rule for an action.
#[must_use]
pub fn rule(matches: Match, action: &Rc<Action>, place: &Place) -> Rule<Action> {
    let to = match (&action.end, &action.rewrite) {
        (End::Redirect { to, .. }, _) => to.as_str(),
        _ => "",
    };
    let uses_groups =
        to.split('$').skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    Rule { matches, action: Rc::clone(action), uses_groups, place: place.clone() }
}

/// Text as a template has it.
#[must_use]
pub fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// The routes for rules; what is to be said of them goes to the listener.
#[must_use]
pub fn routes(rules: Vec<Rule<Action>>, listener: &mut Table) -> Vec<Table> {
    let Lowered { routes, shadowed, crossed } = rules::lower(rules);
    let is_left = |place: &Place| routes.iter().any(|route| route.place == *place);
    for (place, by) in shadowed.into_iter().filter(|(place, _)| !is_left(place)) {
        let why = format!("{by} takes all that this would, there too");
        listener.remark(Remark::new(&place, &["this"], Weight::Unneeded, why));
    }
    for (earlier, later) in crossed {
        let why = format!(
            "requests that {later} matches too go there: here the more specific route is taken, not \
             the first; see `steerage check --explain`"
        );
        listener.remark(Remark::new(&earlier, &["this"], Weight::Differs, why));
    }
    routes.iter().map(table).collect()
}

fn table(rule: &Rule<Action>) -> Table {
    let mut table = Table::default();
    let Match { host, path, methods, headers } = &rule.matches;
    match host {
        Host::Any => {}
        Host::Suffix(suffix) => table.set(&["host"], format!("*{suffix}")),
        Host::Exact(host) => table.set(&["host"], host.as_str()),
    }
    match path {
        Path::Any => {}
        Path::Exact(path) => table.set(&["path_exact"], path.as_str()),
        Path::Prefix(prefix) => table.set(&["path"], prefix.as_str()),
        Path::Regex(regex) => table.set(&["path_regex"], regex.as_str()),
    }
    if !methods.is_empty() {
        table.set(&["method"], methods.iter().map(String::as_str).collect::<Array>());
    }
    for (name, value) in headers {
        match value {
            Value::Is(there) => table.set(&["headers", name], *there),
            Value::Exact(text) => table.set(&["headers", name], text.as_str()),
            Value::Regex(regex) => table.set(&["headers", name, "regex"], regex.as_str()),
        }
    }
    match &rule.action.end {
        End::Service(service) => table.set(&["service"], service.as_str()),
        End::Redirect { to, status } => {
            table.set(&["redirect", "to"], to.as_str());
            table.set(&["redirect", "status"], i64::from(*status));
        }
        End::Answer { status, body, content_type } => {
            table.set(&["answer", "status"], i64::from(*status));
            if !body.is_empty() {
                table.set(&["answer", "body"], quoted(body));
            }
            if let Some(content_type) = content_type {
                table.set(&["answer", "type"], content_type.as_str());
            }
        }
    }
    if let Some(rewrite) = &rule.action.rewrite {
        set_rewrite(&mut table, rewrite, path);
    }
    table.merge(&rule.action.table);
    table
}

/// A text in one line, whatever is in it.
fn quoted(text: &str) -> Toml {
    let mut escaped = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped.push('"');
    escaped.parse().unwrap_or_else(|_| text.into())
}

fn set_rewrite(table: &mut Table, rewrite: &Rewrite, path: &Path) {
    let (regex, to) = match rewrite {
        Rewrite::Whole { regex, to } => (regex.clone(), to.clone()),
        Rewrite::Prefix { from, to } => {
            let is_own = match path {
                Path::Prefix(prefix) => prefix == from,
                Path::Any => from.is_empty(),
                Path::Exact(_) | Path::Regex(_) => false,
            };
            if is_own {
                table.set(&["rewrite", "prefix"], to.as_str());
                return;
            }
            let to = literal(to.trim_end_matches('/'));
            (format!("{}/?(.*)", expression::escape(from)), format!("{to}/$1"))
        }
    };
    if !matches!(path, Path::Regex(own) if *own == regex) {
        table.set(&["rewrite", "regex"], regex.as_str());
    }
    table.set(&["rewrite", "to"], to.as_str());
}
