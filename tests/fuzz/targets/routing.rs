//! Routing: the table's answer is that of the rules, applied to every route one by one.
//!
//! The first line is a host, the second a path, the third a method, the others headers.

#![no_main]

use std::cmp::Reverse;
use std::path::Path as File;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use steerage::config::model::{Host, Listener, Path};
use steerage::l7::route::{Query, Table};

/// Every kind of route, many of them overlapping.
static LISTENER: LazyLock<Listener> = LazyLock::new(|| {
    let hosts = ["", "host = 'a.b'", "host = '*.b'", "host = '*.a.b'", "host = 'c.a.b'"];
    let paths = [
        "",
        "path = '/a'",
        "path = '/a/b'",
        "path = '/a/b/c'",
        "path_exact = '/a'",
        "path_exact = '/a/b'",
        "path_exact = '/'",
        "path_regex = '^/a/[bc]+$'",
        "path_regex = '/b'",
    ];
    let mut text = String::from(
        "[[service]]\nname = 's'\n[[service.backend]]\naddress = '192.0.2.1:80'\n\
         [[listener]]\nname = 'l'\nbind = ['127.0.0.1:80']\nprotocol = 'http'\n",
    );
    for (number, (host, path)) in
        (0..).zip(hosts.iter().flat_map(|host| paths.iter().map(move |path| (host, path))))
    {
        // Not every host has every path, so that requests fall through.
        if number % 7 != 3 {
            let method = if number % 5 == 1 { "method = ['POST', 'PUT']\n" } else { "" };
            text += &format!("[[listener.route]]\n{host}\n{path}\n{method}service = 's'\n");
        }
    }
    let model = steerage::config::parse(File::new("fuzz.toml"), &text);
    model.expect("the routes are right").listeners.remove(0)
});

thread_local! {
    static ROUTES: Table = Table::new(&LISTENER.routes);
}

/// The route by the rules as they are written.
fn by_the_rules(query: &Query<'_>) -> Option<usize> {
    let host = query.host;
    let end = host.rfind(']').map_or_else(|| host.rfind(':').unwrap_or(host.len()), |at| at + 1);
    let host = host[..end].strip_suffix('.').unwrap_or(&host[..end]).to_ascii_lowercase();
    let ranked = LISTENER.routes.iter().enumerate().filter_map(|(index, route)| {
        let by_host = match &route.host {
            Some(Host::Exact(exact)) => (*exact == host).then_some((0, 0))?,
            Some(Host::Suffix(suffix)) => (host.len() > suffix.len() && host.ends_with(suffix))
                .then_some((1, usize::MAX - suffix.len()))?,
            None => (2, 0),
        };
        let by_path = match &route.path {
            Path::Exact(exact) => (exact == query.path).then_some((0, 0))?,
            Path::Prefix(prefix) => query
                .path
                .strip_prefix(prefix.as_str())
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(|_| (1, usize::MAX - prefix.len()))?,
            Path::Regex(regex) => {
                regex::Regex::new(&format!("^(?:{regex})$")).ok()?.is_match(query.path).then_some((2, 0))?
            }
            Path::Any => (3, 0),
        };
        let methods = &route.methods;
        if !methods.is_empty() && !methods.iter().any(|method| method == query.method.as_str()) {
            return None;
        }
        Some((by_host, by_path, Reverse(!methods.is_empty()), index))
    });
    ranked.min().map(|(.., index)| index)
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.lines();
    let (host, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or("/"));
    let method = lines.next().and_then(|line| line.parse().ok()).unwrap_or(Method::GET);
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    }
    let query = Query { host, path, method: &method, headers: &headers };
    let index = ROUTES.with(|table| table.index_of(&query));
    assert_eq!(index, by_the_rules(&query));
});
