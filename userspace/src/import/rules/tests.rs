//! Whatever the rules, every request goes to the first that matches it.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

struct Request<'a> {
    host: &'a str,
    path: &'a str,
    method: &'a str,
    header: Option<&'a str>,
}

fn takes(matches: &Match, request: &Request<'_>) -> bool {
    let host = match &matches.host {
        Host::Any => true,
        Host::Suffix(suffix) => {
            request.host.len() > suffix.len() && request.host.ends_with(suffix.as_str())
        }
        Host::Exact(host) => request.host == host,
    };
    let path = match &matches.path {
        Path::Any => true,
        Path::Exact(path) => request.path == path,
        Path::Prefix(prefix) => is_under(request.path, prefix),
        Path::Regex(_) => covers_path(&matches.path, &Path::Exact(request.path.into())),
    };
    let method = matches.methods.is_empty() || matches.methods.contains(request.method);
    let headers = matches.headers.values().all(|value| match value {
        Value::Is(there) => request.header.is_some() == *there,
        Value::Exact(text) => request.header == Some(text),
        Value::Regex(_) => unreachable!(),
    });
    host && path && method && headers
}

/// The action of the first rule of the list that takes the request.
fn by_order(rules: &[Rule<u32>], request: &Request<'_>) -> Option<u32> {
    rules.iter().find(|rule| takes(&rule.matches, request)).map(|rule| *rule.action)
}

/// The same by the precedence of routes.
fn by_precedence(rules: &[Rule<u32>], request: &Request<'_>) -> Option<u32> {
    let taking = rules.iter().filter(|rule| takes(&rule.matches, request));
    // The first of equals.
    taking.min_by_key(|rule| precedence(&rule.matches)).map(|rule| *rule.action)
}

fn rule(line: usize, matches: Match) -> Rule<u32> {
    let place = Place { file: "a".into(), line };
    let action = Rc::new(u32::try_from(line).unwrap());
    Rule { matches, action, uses_groups: false, place }
}

fn matches() -> impl Strategy<Value = Match> {
    let host = prop_oneof![
        Just(Host::Any),
        Just(Host::Suffix(".b.c".into())),
        Just(Host::Suffix(".c".into())),
        Just(Host::Exact("a.b.c".into())),
        Just(Host::Exact("d".into())),
    ];
    let path = prop_oneof![
        Just(Path::Any),
        prop_oneof![Just("/x"), Just("/x/y"), Just("/z")].prop_map(|p| Path::Exact(p.into())),
        prop_oneof![Just("/x"), Just("/x/y"), Just("/z")].prop_map(|p| Path::Prefix(p.into())),
        prop_oneof![Just(".*y"), Just("/x.*"), Just("/z/[ab]")].prop_map(|r| Path::Regex(r.into())),
    ];
    let methods = btree_set(prop_oneof![Just("GET".to_owned()), Just("PUT".to_owned())], 0..2);
    let header = proptest::option::of(prop_oneof![
        Just(Value::Is(true)),
        Just(Value::Is(false)),
        Just(Value::Exact("1".into())),
    ]);
    (host, path, methods, header).prop_map(|(host, path, methods, header)| Match {
        host,
        path,
        methods,
        headers: header.map(|value| ("h".to_owned(), value)).into_iter().collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_request_goes_to_the_first_rule_that_matches_it(rules in vec(matches(), 1..6)) {
        let rules: Vec<_> = rules.into_iter().enumerate().map(|(n, m)| rule(n + 1, m)).collect();
        let lowered = lower(rules.clone());
        for host in ["a.b.c", "b.c", "e.b.c", "d", "x"] {
            for path in ["/", "/x", "/x/y", "/x/y/z", "/xy", "/z", "/z/a", "/q"] {
                for method in ["GET", "PUT", "HEAD"] {
                    for header in [None, Some("1"), Some("2")] {
                        let request = Request { host, path, method, header };
                        let (wanted, got) =
                            (by_order(&rules, &request), by_precedence(&lowered.routes, &request));
                        // What is crossed was said; it goes to a rule that matches in any case.
                        let said = |place: &Place| {
                            got.is_some_and(|got| place.line == got as usize)
                        };
                        let is_crossed = lowered.crossed.iter().any(|(_, later)| said(later));
                        prop_assert!(
                            wanted == got || (is_crossed && wanted.is_some()),
                            "{host}{path} {method} {header:?}: {wanted:?}, {got:?}\n{:#?}", lowered
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn without_conditions_on_headers_nothing_is_crossed(rules in vec(matches(), 1..6)) {
        let without = |mut matches: Match| {
            matches.headers.clear();
            matches
        };
        let rules = rules.into_iter().map(without).enumerate();
        let lowered = lower(rules.map(|(n, matches)| rule(n + 1, matches)).collect());
        prop_assert!(lowered.crossed.is_empty(), "{lowered:#?}");
    }
}

#[test]
fn rules_in_the_order_of_routes_stay_as_they_are() {
    let host =
        |host: &str, path: Path| Match { host: Host::Exact(host.into()), path, ..Match::ANY };
    let all = [
        host("a", Path::Exact("/x".into())),
        host("a", Path::Prefix("/x/y".into())),
        host("a", Path::Any),
        Match { path: Path::Prefix("/static".into()), ..Match::ANY },
        Match::ANY,
    ];
    let rules: Vec<_> = all.iter().cloned().enumerate().map(|(n, m)| rule(n, m)).collect();
    let lowered = lower(rules);
    let routes: Vec<_> = lowered.routes.into_iter().map(|route| route.matches).collect();
    assert_eq!(routes, all);
    assert!(lowered.shadowed.is_empty() && lowered.crossed.is_empty());
}

#[test]
fn an_expression_that_comes_first_makes_prefixes_follow_it() {
    let path = |path: Path| Match { path, ..Match::ANY };
    let rules = vec![
        rule(1, path(Path::Regex(".*?\\.php".into()))),
        rule(2, path(Path::Prefix("/app".into()))),
        rule(3, path(Path::Any)),
    ];
    let lowered = lower(rules);
    let paths: Vec<_> = lowered.routes.into_iter().map(|route| route.matches.path).collect();
    let expected = [Path::Regex(".*?\\.php".into()), Path::Regex("/app(?:/.*)?".into()), Path::Any];
    assert_eq!(paths, expected);
}
