use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config;

/// The routes of one listener, each given by its keys.
fn routes(keys: &[&str]) -> Vec<Route> {
    let mut text = String::from("[[listener]]\nname='a'\nprotocol='http'\nbind=['127.0.0.1:1']\n");
    for keys in keys {
        text += &format!("[[listener.route]]\nservice='s'\n{keys}\n");
    }
    text += "[[service]]\nname='s'\n";
    config::parse(Path::new("test.toml"), &text).unwrap().listeners.remove(0).routes
}

fn found(
    table: &Table,
    method: &str,
    host: &str,
    path: &str,
    lines: &[(&str, &str)],
) -> Option<usize> {
    let headers = lines
        .iter()
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let method = method.parse().unwrap();
    table.index_of(&Query { host, path, method: &method, headers: &headers })
}

#[test]
fn the_more_exact_host_then_the_more_exact_path_decides() {
    let table = Table::new(&routes(&[
        "",
        "path='/static'",
        "host='*.example.com'",
        "host='*.api.example.com'",
        "host='api.example.com'\npath='/v1'",
        "host='api.example.com'\npath='/v1/users'",
        "host='api.example.com'\npath_exact='/v1/users'",
        "",
    ]));
    let find = |host, path| found(&table, "GET", host, path, &[]).unwrap();
    assert_eq!(find("other.org", "/"), 0);
    assert_eq!(find("other.org", "/static/x.css"), 1);
    assert_eq!(find("www.example.com", "/static/x.css"), 2);
    assert_eq!(find("x.api.example.com", "/"), 3);
    assert_eq!(find("api.example.com", "/v1/other"), 4);
    assert_eq!(find("api.example.com", "/v1/users/7"), 5);
    assert_eq!(find("API.Example.com.:8080", "/v1/users"), 6);
    assert_eq!(find("api.example.com", "/v10"), 2, "segments are whole");
    assert_eq!(find("example.com", "/"), 0, "a suffix is not the host itself");
    assert_eq!(find("", "/"), 0);
}

#[test]
fn an_expression_comes_after_the_prefixes_and_before_any_path() {
    let table = Table::new(&routes(&[
        "",
        r"path_regex='/users/\d+'",
        "path_regex='/u.*'",
        "path='/users/7/'",
        "path_exact='/users/9'",
    ]));
    let find = |path| found(&table, "GET", "a", path, &[]).unwrap();
    assert_eq!(find("/users/12"), 1);
    assert_eq!(find("/users/x"), 2, "the first expression that matches");
    assert_eq!(find("/users/7"), 3);
    assert_eq!(find("/users/9"), 4);
    assert_eq!(find("/users/9/"), 2);
    assert_eq!(find("/x/users/12"), 0, "the whole path must match");
}

#[test]
fn of_one_path_the_route_with_more_conditions_is_tried_first() {
    let table = Table::new(&routes(&[
        "path='/v1'",
        "path='/v1'\nmethod=['GET','HEAD']",
        "path='/v1'\nmethod=['GET']\nheaders={'X-Version'='2'}",
        "path='/v1'\nheaders={'x-version'={regex='[34]'}, 'x-debug'=true}",
        "path='/v1'\nheaders={'x-version'='2'}",
        "headers={authorization=false}",
    ]));
    let find = |method, lines: &[_]| found(&table, method, "a", "/v1/x", lines);
    assert_eq!(find("POST", &[]), Some(0));
    assert_eq!(find("HEAD", &[]), Some(1));
    assert_eq!(find("GET", &[("x-version", "1"), ("x-version", "2")]), Some(2), "one of several");
    assert_eq!(find("GET", &[("x-version", "3"), ("x-debug", "")]), Some(3));
    assert_eq!(find("GET", &[("x-version", "3")]), Some(1));
    assert_eq!(find("PUT", &[("x-version", "2")]), Some(4));
    let other = |lines: &[_]| found(&table, "GET", "a", "/", lines);
    assert_eq!(other(&[]), Some(5));
    assert_eq!(other(&[("authorization", "x")]), None);
}

#[test]
fn what_a_more_exact_host_does_not_take_falls_through() {
    let table = Table::new(&routes(&[
        "host='a.example.com'\nmethod=['GET']",
        "host='*.example.com'\nmethod=['PUT']",
        "method=['POST']",
    ]));
    let find = |method| found(&table, method, "a.example.com", "/", &[]);
    assert_eq!((find("GET"), find("PUT"), find("POST")), (Some(0), Some(1), Some(2)));
    assert_eq!(find("DELETE"), None);
}

#[test]
fn there_need_not_be_a_route() {
    let table = Table::new(&routes(&["host='a.org'\npath='/v1'"]));
    assert_eq!(found(&table, "GET", "b.org", "/v1", &[]), None);
    assert_eq!(found(&table, "GET", "a.org", "/v2", &[]), None);
    assert_eq!(found(&table, "OPTIONS", "a.org", "*", &[]), None);
    assert!(found(&table, "GET", "a.org:80", "/v1", &[]).is_some());
}

#[test]
fn ports_are_no_part_of_the_host() {
    assert_eq!(without_port("a.org:80"), "a.org");
    assert_eq!(without_port("[::1]:80"), "[::1]");
    assert_eq!(without_port("[::1]"), "[::1]");
    assert_eq!(without_port(":80"), "");
}

fn key() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        Just(""),
        Just("host='a.b.c'\n"),
        Just("host='*.b.c'\n"),
        Just("host='*.c'\n"),
        Just("host='b.c'\n"),
    ];
    let path = prop_oneof![
        Just("".to_owned()),
        "path='/[ab/]{0,6}'\n",
        "path_exact='/[ab/]{0,4}'\n",
        "path_regex='/[ab]?[.][*]'\n",
    ];
    let conditions = prop_oneof![
        Just(""),
        Just("method=['GET']\n"),
        Just("headers={x='1'}\n"),
        Just("method=['PUT']\nheaders={x=true}\n"),
    ];
    (host, path, conditions)
        .prop_map(|(host, path, conditions)| format!("{host}{path}{conditions}"))
}

proptest! {
    /// The fast way and the order written out agree.
    #[test]
    fn the_first_match_in_order_is_found(
        keys in prop::collection::vec(key(), 1..12),
        host in prop_oneof![Just("a.b.c"), Just("X.b.C:80"), Just("b.c"), Just("z")],
        path in "/[ab/]{0,7}",
        method in prop_oneof![Just(Method::GET), Just(Method::PUT)],
        x in prop::option::of(prop_oneof![Just("1"), Just("2")]),
    ) {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let routes = routes(&keys);
        let table = Table::new(&routes);
        let headers = x.iter().map(|x| (http::HeaderName::from_static("x"), x.parse().unwrap()));
        let headers = headers.collect();
        let query = Query { host, path: &path, method: &method, headers: &headers };
        let first = table.in_order().find(|entry| {
            is_of_host(routes[entry.route].host.as_ref(), host) && entry.mismatch(&query).is_none()
        });
        prop_assert_eq!(table.index_of(&query), first.map(|entry| entry.route));
        prop_assert_eq!(table.in_order().count(), routes.len());
    }
}
