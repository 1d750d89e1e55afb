//! What is done with requests of `mode http`: rules in their order.

use std::rc::Rc;

use super::condition::{Acls, Clause};
use super::proxy::Proxy;
use super::token::Line;
use crate::import::draft::Table;
use crate::import::expression;
use crate::import::remark::{Place, Remark, Weight};
use crate::import::route::{self, Action, End, Rewrite};
use crate::import::rules::{Match, Rule, both};

/// A rule that ends the way of the requests that it matches.
#[derive(Clone)]
pub struct Step {
    pub clauses: Vec<Clause>,
    pub target: Target,
    pub place: Place,
}

/// Where it leads.
#[derive(Clone)]
pub enum Target {
    Action(Rc<Action>),
    Backend(String),
}

/// Rules that can't be multiplied out any more are left out beyond this.
const RULES_MAX: usize = 1_000;

/// Steps as rules of which the first that matches is taken.
pub fn rules(
    steps: &[Step],
    resolve: &mut dyn FnMut(&str) -> Vec<Rule<Action>>,
    remarks: &mut Table,
) -> Vec<Rule<Action>> {
    let Some((step, rest)) = steps.split_first() else { return Vec::new() };
    let rest = rules(rest, resolve, remarks);
    let own = match &step.target {
        Target::Action(action) => vec![route::rule(Match::ANY, action, &step.place)],
        Target::Backend(name) => resolve(name),
    };
    let mut all = Vec::new();
    for clause in &step.clauses {
        if all.len() > RULES_MAX {
            break;
        }
        // Whom it is not about go on as if it were not there.
        for not in &clause.not {
            all.extend(narrowed(not, &rest, &step.place, remarks));
        }
        all.extend(narrowed(&clause.matches, &own, &step.place, remarks));
    }
    all.extend(rest);
    all
}

/// The rules for what this matches too.
fn narrowed(
    matches: &Match,
    rules: &[Rule<Action>],
    place: &Place,
    remarks: &mut Table,
) -> Vec<Rule<Action>> {
    let mut all = Vec::new();
    for rule in rules {
        match both(matches, &rule.matches) {
            Ok(Some(matches)) => {
                // Where one has groups, its expression is the one that stays.
                let keeps = !rule.uses_groups || matches.path == rule.matches.path;
                if keeps {
                    all.push(Rule { matches, place: place.clone(), ..rule.clone() });
                }
            }
            Ok(None) => {}
            Err(()) => {
                let why = format!("together with {}: a route has one expression", rule.place);
                remarks.remark(Remark::new(place, &["this"], Weight::LeftOut, why));
            }
        }
    }
    all
}

/// What a proxy's `http-request` and `redirect` lines end; those that no route can ask for are said, and
/// a refusal is made without what it can't ask for, so that it refuses more.
pub fn steps(proxy: &Proxy<'_>, acls: &Acls<'_>, remarks: &mut Table) -> Vec<Step> {
    let requests = proxy.lines().filter(|line| line.words[0] == "http-request");
    let redirects = proxy.lines().filter(|line| line.words[0] == "redirect");
    let mut steps = Vec::new();
    for line in requests.chain(redirects) {
        let skipped = usize::from(line.words[0] == "http-request");
        let (words, mut clauses) = acls.split(&line.words[skipped..]);
        let end = match words.as_slice() {
            ["redirect", rest @ ..] => redirect(rest),
            ["deny" | "tarpit" | "reject" | "silent-drop", rest @ ..] => Ok(denied(rest)),
            ["auth", ..] => Ok(denied(&["status", "401"])),
            ["return", rest @ ..] => answered(rest),
            _ => continue,
        };
        let is_refusal = matches!(words[0], "deny" | "tarpit" | "reject" | "silent-drop" | "auth");
        let (end, rewrite) = match end {
            Ok(end) => end,
            Err(why) => {
                remarks.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
                continue;
            }
        };
        clauses.retain_mut(|clause| {
            if clause.unknown.is_empty() {
                return true;
            }
            let unknown = clause.unknown.join(", ");
            // Of those who are let in alone, nobody is.
            let lets_in = clause.unknown.iter().any(|text| text.starts_with("not "));
            let says_more = lets_in || clause.matches != Match::ANY;
            let (weight, why) = if is_refusal && says_more {
                let why = "no route can ask for that: ALL requests that match the rest are refused";
                (Weight::Differs, why)
            } else {
                (Weight::LeftOut, "no route can ask for that; see [listener.guard] for addresses")
            };
            let why = format!("{unknown}: {why}");
            remarks.remark(Remark::new(&line.place, &line.all(), weight, why));
            clause.unknown.clear();
            is_refusal && says_more
        });
        if clauses.is_empty() {
            continue;
        }
        let action = Rc::new(Action { end, rewrite, table: Table::default() });
        steps.push(Step { clauses, target: Target::Action(action), place: line.place.clone() });
    }
    steps
}

type Ended = (End, Option<Rewrite>);

fn redirect(words: &[&str]) -> Result<Ended, String> {
    let (mut to, mut status) = (None, 302);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match (*word, rest.next()) {
            ("scheme", Some(scheme)) => to = Some(format!("{scheme}://${{authority}}${{uri}}")),
            ("location", Some(location)) => to = Some(template(location)?),
            ("prefix", Some(prefix)) => {
                to = Some(format!("{}${{uri}}", template(prefix.trim_end_matches('/'))?));
            }
            ("code", Some(code)) => status = code.parse().unwrap_or(302),
            (other, _) => return Err(format!("{other}: there is no counterpart")),
        }
    }
    let to = to.ok_or("it leads nowhere")?;
    let status = if status == 303 { 302 } else { status };
    Ok((End::Redirect { to, status }, None))
}

fn denied(words: &[&str]) -> Ended {
    let status = words.iter().position(|word| *word == "deny_status" || *word == "status");
    let status = status.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(403);
    let body = format!("{status}\n");
    (End::Answer { status, body, content_type: None }, None)
}

fn answered(words: &[&str]) -> Result<Ended, String> {
    let (mut status, mut body, mut content_type) = (200, String::new(), None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match (*word, rest.next()) {
            ("status", Some(text)) => status = text.parse().unwrap_or(200),
            ("content-type", Some(text)) => content_type = Some((*text).to_owned()),
            ("string" | "lf-string", Some(text)) if !text.contains('%') => body = (*text).into(),
            (other, _) => return Err(format!("{other}: an answer is a status and a text")),
        }
    }
    Ok((End::Answer { status, body, content_type }, None))
}

/// Text with HAProxy's samples as a template.
fn template(text: &str) -> Result<String, String> {
    let mut template = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        template.push_str(&route::literal(&rest[..at]));
        let Some((sample, left)) = rest[at..].strip_prefix("%[").and_then(|s| s.split_once(']'))
        else {
            return Err(format!("{text}: only %[...] is read"));
        };
        template.push_str(match sample {
            // A port of its own comes after it.
            "hdr(host)" | "req.hdr(host)" if left.starts_with(':') => "${host}",
            "hdr(host),field(1,:)" | "req.hdr(host),field(1,:)" => "${host}",
            "hdr(host)" | "req.hdr(host)" | "hdr(Host)" | "req.hdr(Host)" => "${authority}",
            "capture.req.uri" | "url" | "pathq" => "${uri}",
            "path" => "${path}",
            "query" => "${query}",
            _ => return Err(format!("%[{sample}] has no counterpart")),
        });
        rest = left;
    }
    template.push_str(&route::literal(rest));
    Ok(template)
}

/// Sets what is changed in requests and responses on the way, in frontend or backend.
pub fn set_changes(proxy: &Proxy<'_>, acls: &Acls<'_>, table: &mut Table) -> Option<Rewrite> {
    let mut rewrite = None;
    for line in proxy.lines() {
        let side = match line.words[0].as_str() {
            "http-request" => "request_headers",
            "http-response" => "response_headers",
            _ => continue,
        };
        let (words, clauses) = acls.split(&line.words[1..]);
        let is_always = clauses.iter().any(|clause| {
            clause.matches == Match::ANY && clause.not.is_empty() && clause.unknown.is_empty()
        });
        let is_end = ["redirect", "deny", "tarpit", "reject", "silent-drop", "return", "auth"];
        match words.as_slice() {
            [end, ..] if is_end.contains(end) && side == "request_headers" => {}
            // A condition that no request of this listener meets.
            _ if clauses.is_empty() => {}
            [change @ ("set-header" | "add-header"), name, value] => {
                set_header(line, (side, change, name, value), is_always, table);
            }
            ["del-header", name] if is_always => table.push(&[side, "remove"], *name),
            ["replace-path", searched, to] if is_always => {
                rewrite = replaced(searched, to);
                say(line, rewrite.is_none(), "the expression has no counterpart", table);
            }
            ["set-path", to] if is_always => {
                rewrite = path_set(to);
                say(line, rewrite.is_none(), "a path is made by route.rewrite", table);
            }
            _ if !is_always => {
                let why = "changes are made on whole routes: write it into those that it is about";
                say(line, true, why, table);
            }
            _ => say(line, true, "there is no counterpart", table),
        }
    }
    rewrite
}

fn say(line: &Line, is_so: bool, why: &str, table: &mut Table) {
    if is_so {
        table.remark(Remark::new(&line.place, &line.all(), Weight::LeftOut, why));
    }
}

fn set_header(
    line: &Line,
    (side, change, name, value): (&str, &str, &str, &str),
    is_always: bool,
    table: &mut Table,
) {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("x-forwarded-") && side == "request_headers" {
        let why = "X-Forwarded-For, -Proto and -Host are set in any case";
        table.remark(Remark::new(&line.place, &line.all(), Weight::Unneeded, why));
    } else if !is_always {
        let why = "changes are made on whole routes: write it into those that it is about";
        say(line, true, why, table);
    } else if value.contains("%[") || value.contains("%c") {
        say(line, true, "values are fixed texts, without samples", table);
    } else if lower == "host" {
        table.set(&["host_header"], format!("name:{value}"));
    } else {
        let way = if change == "set-header" { "set" } else { "add" };
        table.set(&[side, way, name], value.replace("%%", "%"));
    }
}

fn replaced(searched: &str, to: &str) -> Option<Rewrite> {
    let regex = expression::whole(searched, false).ok()?;
    let mut template = String::new();
    let mut rest = to.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.peek().is_some_and(char::is_ascii_digit) => {
                template.push_str(&format!("${{{}}}", rest.next()?));
            }
            '$' => template.push_str("$$"),
            c => template.push(c),
        }
    }
    template.starts_with('/').then_some(Rewrite::Whole { regex, to: template })
}

/// A path, or `%[path,regsub(^/prefix,/other)]`.
fn path_set(to: &str) -> Option<Rewrite> {
    if to.starts_with('/') && !to.contains('%') {
        return Some(Rewrite::Whole { regex: ".*".into(), to: route::literal(to) });
    }
    let inside = to.strip_prefix("%[path,regsub(")?.strip_suffix(")]")?;
    let (searched, with) = inside.split_once(',')?;
    let with = with.split(',').next().unwrap_or_default();
    let prefix = searched.strip_prefix('^').filter(|text| !text.contains(['(', '\\', '$', '|']))?;
    let regex = format!("{prefix}(.*)");
    crate::config::pattern::whole(&regex).ok()?;
    let to = format!("{}$1", route::literal(with));
    to.starts_with('/').then_some(Rewrite::Whole { regex, to })
}
