//! Rules of which the first that matches is taken, as routes of which the most specific one is.
//!
//! nginx and HAProxy have an order, this configuration has a precedence (docs/l7.md): the host decides
//! first, then the path, then the number of conditions, and only then the order. [`lower`] makes routes
//! by which every request goes where the rules have it go. Where a later rule would be tried before an
//! earlier one that matches the same requests, either the earlier one is added once more, restricted
//! to the later one's host, path or conditions, so that it precedes; or the later one's path becomes a
//! regular expression, so that it follows. What can't be had so is said.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use regex::bytes::Regex;

use super::expression;
use super::remark::Place;
use crate::config::pattern;

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// All.
    Any,
    /// Those that end so; it begins with a dot.
    Suffix(String),
    /// One, in lower case.
    Exact(String),
}

/// Which paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// All.
    Any,
    /// One.
    Exact(String),
    /// Those that begin with these segments; it does not end with a slash.
    Prefix(String),
    /// Those of which the expression matches the whole.
    Regex(String),
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// There, or not there.
    Is(bool),
    /// This text.
    Exact(String),
    /// A text of which the expression matches the whole.
    Regex(String),
}

/// What a rule asks of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its host.
    pub host: Host,
    /// Its path.
    pub path: Path,
    /// Its method; empty for any.
    pub methods: BTreeSet<String>,
    /// Its headers, by names in lower case.
    pub headers: BTreeMap<String, Value>,
}

impl Match {
    /// Every request.
    pub const ANY: Self = Self {
        host: Host::Any,
        path: Path::Any,
        methods: BTreeSet::new(),
        headers: BTreeMap::new(),
    };
}

/// A rule: what it asks for, and what is done then.
#[derive(Debug)]
pub struct Rule<A> {
    /// What it asks for.
    pub matches: Match,
    /// What is done.
    pub action: Rc<A>,
    /// Whether the action uses groups of the path's expression.
    pub uses_groups: bool,
    /// Where it is written.
    pub place: Place,
}

impl<A> Clone for Rule<A> {
    fn clone(&self) -> Self {
        Self {
            matches: self.matches.clone(),
            action: Rc::clone(&self.action),
            uses_groups: self.uses_groups,
            place: self.place.clone(),
        }
    }
}

/// Routes.
#[derive(Debug)]
pub struct Lowered<A> {
    /// In the order of the file.
    pub routes: Vec<Rule<A>>,
    /// Rules that no request reaches, and who takes theirs.
    pub shadowed: Vec<(Place, Place)>,
    /// Requests of both: the second takes them here, the first did there.
    pub crossed: Vec<(Place, Place)>,
}

/// Changes that may be made; rules that would need more are crossed.
const CHANGES_MAX: usize = 2_000;

/// Routes for rules.
#[must_use]
pub fn lower<A: PartialEq>(rules: Vec<Rule<A>>) -> Lowered<A> {
    let mut lowered = Lowered { routes: rules, shadowed: Vec::new(), crossed: Vec::new() };
    let (mut changes, mut from) = (0, 0);
    loop {
        let Some((earlier, later)) = conflict(&lowered, from) else {
            if from == 0 {
                drop_unreached(&mut lowered);
                return lowered;
            }
            // What was changed since may concern those before.
            from = 0;
            continue;
        };
        let places = [earlier, later].map(|index| lowered.routes[index].place.clone());
        (changes, from) = (changes + 1, earlier);
        if changes > CHANGES_MAX || !resolve(&mut lowered, earlier, later) {
            lowered.crossed.push(places.into());
        }
    }
}

/// Takes away routes all of whose requests one takes that is tried before.
fn drop_unreached<A>(lowered: &mut Lowered<A>) {
    let routes = std::mem::take(&mut lowered.routes);
    for rule in routes {
        let takes_all = |route: &&Rule<A>| {
            precedence(&route.matches) <= precedence(&rule.matches)
                && covers(&route.matches, &rule.matches)
        };
        match lowered.routes.iter().find(takes_all) {
            Some(route) => lowered.shadowed.push((rule.place, route.place.clone())),
            None => lowered.routes.push(rule),
        }
    }
}

/// The first two rules, the earlier one not before `from`, of which the later one would be tried first.
fn conflict<A: PartialEq>(lowered: &Lowered<A>, from: usize) -> Option<(usize, usize)> {
    let routes = &lowered.routes;
    for (i, earlier) in routes.iter().enumerate().skip(from) {
        for (j, later) in routes.iter().enumerate().skip(i + 1) {
            if is_overtaken(earlier, later) && !is_settled(routes, i, j) {
                let pair = (earlier.place.clone(), later.place.clone());
                if !lowered.crossed.contains(&pair) {
                    return Some((i, j));
                }
            }
        }
    }
    None
}

/// Whether requests that both match would go to the later one, and that makes a difference; or go
/// nowhere else than to the earlier one.
fn is_overtaken<A: PartialEq>(earlier: &Rule<A>, later: &Rule<A>) -> bool {
    let is_same = earlier.action == later.action;
    !is_same
        && precedence(&later.matches) < precedence(&earlier.matches)
        && !is_disjoint(&earlier.matches, &later.matches)
}

/// Whether all that both match is somebody's who is before the earlier one, or a route that precedes the
/// later one does with it what the earlier one does.
fn is_settled<A: PartialEq>(routes: &[Rule<A>], i: usize, j: usize) -> bool {
    let (earlier, later) = (&routes[i], &routes[j]);
    let takes_both =
        |route: &Rule<A>| covers_both(&route.matches, &earlier.matches, &later.matches);
    if routes[..i].iter().any(takes_both) {
        return true;
    }
    routes[..j].iter().any(|route| {
        route.action == earlier.action
            && precedence(&route.matches) <= precedence(&later.matches)
            && takes_both(route)
    })
}

/// Changes the routes so that what both match goes to the earlier one; false if that can't be.
fn resolve<A: PartialEq>(lowered: &mut Lowered<A>, i: usize, j: usize) -> bool {
    let routes = &mut lowered.routes;
    let (earlier, later) = (routes[i].clone(), routes[j].clone());
    if covers(&earlier.matches, &later.matches) {
        routes.remove(j);
        lowered.shadowed.push((later.place, earlier.place));
        return true;
    }
    let mut narrower = earlier.clone();
    if earlier.matches.host != later.matches.host {
        narrower.matches.host.clone_from(&later.matches.host);
    } else if earlier.matches.path != later.matches.path {
        let is_bound = earlier.uses_groups || matches!(earlier.matches.path, Path::Regex(_));
        match (is_bound, as_expression(&later.matches.path)) {
            (true, Some(expression)) => {
                routes[j].matches.path = Path::Regex(expression);
                return true;
            }
            (true, None) if is_of_one_class(&earlier.matches.path, &later.matches.path) => {
                return narrow_conditions(routes, i, &later.matches);
            }
            (true, None) => return false,
            (false, _) => narrower.matches.path.clone_from(&later.matches.path),
        }
    } else {
        return narrow_conditions(routes, i, &later.matches);
    }
    insert(routes, i, narrower)
}

/// Adds the rule with the conditions of the other beside its own.
fn narrow_conditions<A: PartialEq>(routes: &mut Vec<Rule<A>>, i: usize, other: &Match) -> bool {
    let mut narrower = routes[i].clone();
    let own = &mut narrower.matches;
    if own.methods.is_empty() {
        own.methods.clone_from(&other.methods);
    } else if !other.methods.is_empty() {
        own.methods.retain(|method| other.methods.contains(method));
    }
    for (name, value) in &other.headers {
        let known = own.headers.entry(name.clone()).or_insert_with(|| value.clone());
        if known != value {
            return false;
        }
    }
    insert(routes, i, narrower)
}

fn insert<A: PartialEq>(routes: &mut Vec<Rule<A>>, at: usize, rule: Rule<A>) -> bool {
    let is_there = |other: &Rule<A>| other.matches == rule.matches && other.action == rule.action;
    if routes.iter().any(is_there) {
        return false;
    }
    routes.insert(at, rule);
    true
}

/// The less, the earlier the route is tried; as docs/l7.md has it.
pub(super) fn precedence(matches: &Match) -> impl Ord + use<> {
    use std::cmp::Reverse;
    let host = match &matches.host {
        Host::Exact(_) => (0, Reverse(0)),
        Host::Suffix(suffix) => (1, Reverse(suffix.len())),
        Host::Any => (2, Reverse(0)),
    };
    let path = match &matches.path {
        Path::Exact(_) => (0, Reverse(0)),
        Path::Prefix(prefix) => (1, Reverse(prefix.len())),
        Path::Regex(_) => (2, Reverse(0)),
        Path::Any => (3, Reverse(0)),
    };
    let conditions = usize::from(!matches.methods.is_empty()) + matches.headers.len();
    (host, path, Reverse(conditions))
}

fn is_of_one_class(a: &Path, b: &Path) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// The expression for the same paths; `None` for what is one, or needs none.
fn as_expression(path: &Path) -> Option<String> {
    match path {
        Path::Exact(path) => Some(expression::escape(path)),
        Path::Prefix(prefix) => Some(format!("{}(?:/.*)?", expression::escape(prefix))),
        Path::Any | Path::Regex(_) => None,
    }
}

fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn covers_host(a: &Host, b: &Host) -> bool {
    match (a, b) {
        (Host::Any, _) => true,
        (Host::Suffix(suffix), Host::Exact(host) | Host::Suffix(host)) => {
            host.ends_with(suffix) && (host.len() > suffix.len() || matches!(b, Host::Suffix(_)))
        }
        (a, b) => a == b,
    }
}

fn covers_path(a: &Path, b: &Path) -> bool {
    match (a, b) {
        (Path::Any, _) => true,
        (Path::Prefix(prefix), Path::Exact(path) | Path::Prefix(path)) => is_under(path, prefix),
        // What a prefix was made to follow an expression.
        (Path::Regex(regex), Path::Prefix(_)) => as_expression(b).as_ref() == Some(regex),
        (Path::Regex(regex), Path::Exact(path)) => {
            thread_local! {
                static COMPILED: RefCell<HashMap<String, Option<Regex>>> = RefCell::default();
            }
            COMPILED.with_borrow_mut(|all| {
                let compiled =
                    all.entry(regex.clone()).or_insert_with(|| pattern::whole(regex).ok());
                compiled.as_ref().is_some_and(|regex| regex.is_match(path.as_bytes()))
            })
        }
        (a, b) => a == b,
    }
}

fn covers_methods(a: &Match, b: &Match) -> bool {
    a.methods.is_empty() || (!b.methods.is_empty() && b.methods.is_subset(&a.methods))
}

/// Whether the first matches all that the second does.
fn covers(a: &Match, b: &Match) -> bool {
    covers_host(&a.host, &b.host)
        && covers_path(&a.path, &b.path)
        && covers_methods(a, b)
        && a.headers.iter().all(|(name, value)| b.headers.get(name) == Some(value))
}

/// What both match; `None` if that is nothing.
///
/// # Errors
/// If no route can ask for that.
pub fn both(a: &Match, b: &Match) -> Result<Option<Match>, ()> {
    if is_disjoint(a, b) {
        return Ok(None);
    }
    let mut both = a.clone();
    if covers_host(&a.host, &b.host) {
        both.host.clone_from(&b.host);
    }
    if covers_path(&a.path, &b.path) {
        both.path.clone_from(&b.path);
    } else if !covers_path(&b.path, &a.path) {
        return Err(());
    }
    if a.methods.is_empty() {
        both.methods.clone_from(&b.methods);
    } else if !b.methods.is_empty() {
        both.methods.retain(|method| b.methods.contains(method));
    }
    for (name, value) in &b.headers {
        let known = both.headers.entry(name.clone()).or_insert_with(|| value.clone());
        if known != value {
            return Err(());
        }
    }
    Ok(Some(both))
}

/// Whether the first matches all that both others do.
fn covers_both(a: &Match, b: &Match, c: &Match) -> bool {
    (covers_host(&a.host, &b.host) || covers_host(&a.host, &c.host))
        && (covers_path(&a.path, &b.path) || covers_path(&a.path, &c.path))
        && (covers_methods(a, b)
            || covers_methods(a, c)
            || (!b.methods.is_empty()
                && !c.methods.is_empty()
                && b.methods.intersection(&c.methods).all(|method| a.methods.contains(method))))
        && a.headers.iter().all(|(name, value)| {
            b.headers.get(name) == Some(value) || c.headers.get(name) == Some(value)
        })
}

/// Whether no request matches both, as far as can be told.
fn is_disjoint(a: &Match, b: &Match) -> bool {
    let hosts = !covers_host(&a.host, &b.host) && !covers_host(&b.host, &a.host);
    let methods = !a.methods.is_empty() && !b.methods.is_empty();
    let absent = |value: &Value| *value == Value::Is(false);
    hosts
        || (methods && a.methods.is_disjoint(&b.methods))
        || are_disjoint_paths(&a.path, &b.path)
        || a.headers.iter().any(|(name, value)| {
            b.headers.get(name).is_some_and(|other| absent(value) != absent(other))
        })
}

fn are_disjoint_paths(a: &Path, b: &Path) -> bool {
    match (a, b) {
        (Path::Any, _) | (_, Path::Any) => false,
        (Path::Regex(regex), Path::Prefix(prefix)) | (Path::Prefix(prefix), Path::Regex(regex)) => {
            let beginning = expression::beginning(regex);
            let length = beginning.len().min(prefix.len());
            beginning.as_bytes()[..length] != prefix.as_bytes()[..length]
                || (beginning.len() > prefix.len() && !is_under(&beginning, prefix))
        }
        (Path::Regex(a), Path::Regex(b)) => {
            let (a, b) = (expression::beginning(a), expression::beginning(b));
            !a.starts_with(&b) && !b.starts_with(&a)
        }
        (a, b) => !covers_path(a, b) && !covers_path(b, a),
    }
}

#[cfg(test)]
mod tests;
