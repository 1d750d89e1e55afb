//! Why a request takes the route that it takes: what `steerage check --explain` prints.
//!
//! It asks the routes one after another, in the order of precedence that [`super::route`] is about,
//! and tells of each what it does not take about the request, until one takes it.

use std::fmt::Write as _;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Uri};

use super::rewrite::Parts;
use super::route::{End, Entry, Mismatch, Plan, Query, Table, is_of_host};
use crate::config::Model;
use crate::config::model::{Action, HostHeader, Listener, Route, StreamEnd, Streams};
use crate::l4;

/// What a client speaks that is not asked.
const BROWSER_PROTOCOLS: &[&str] = &["h2", "http/1.1"];

/// A request to be explained.
#[derive(Clone, Debug)]
pub struct Subject {
    /// An absolute URL.
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// Headers beside `Host`, which is the URL's unless it is here too.
    pub headers: HeaderMap,
}

/// Why a subject cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an absolute URL.
    #[error("{0:?} is no URL of a request; write it whole, as http://www.example.com/path")]
    Url(String),
    /// No method.
    #[error("{0:?} is no method; write it as GET")]
    Method(String),
    /// No header.
    #[error("{0:?} is no header; write it as 'Name: value'")]
    Header(String),
    /// No such listener.
    #[error("there is no listener {name:?}; there are: {known}")]
    Listener {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

impl Subject {
    /// A request by the words of a command line.
    ///
    /// # Errors
    /// What is wrong with one of the words.
    pub fn new(url: &str, method: &str, headers: &[String]) -> Result<Self, Error> {
        let parsed = url.parse::<Uri>().ok().filter(|url| url.scheme().is_some());
        let parsed_headers = headers.iter().map(|line| {
            let (name, value) = line.split_once(':')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let wrong = parsed_headers.clone().position(|header| header.is_none());
        if let Some(line) = wrong.and_then(|at| headers.get(at)) {
            return Err(Error::Header(line.clone()));
        }
        Ok(Self {
            url: parsed.ok_or_else(|| Error::Url(url.to_owned()))?,
            method: method.parse().map_err(|_| Error::Method(method.to_owned()))?,
            headers: {
                let mut map = HeaderMap::new();
                for (name, value) in parsed_headers.flatten() {
                    map.append(name, value);
                }
                map
            },
        })
    }

    fn host(&self) -> &str {
        let header = self.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        // A client sends no user and no password in `Host`.
        let host = authority.rsplit('@').next().unwrap_or_default();
        header.unwrap_or(host)
    }

    fn port(&self) -> u16 {
        let default = if self.url.scheme_str() == Some("https") { 443 } else { 80 };
        self.url.port_u16().unwrap_or(default)
    }
}

/// Which route and service a request would take, and why; at one listener, or at all that are bound to
/// the URL's port.
///
/// # Errors
/// If there is no listener of that name.
pub fn explain(
    model: &Model,
    file: &str,
    subject: &Subject,
    listener: Option<&str>,
) -> Result<String, Error> {
    let port = subject.port();
    let is_bound = |listener: &&Listener| listener.bind.iter().any(|bind| bind.port() == port);
    let mut text = String::new();
    let mut asked: Vec<&Listener> = match listener {
        Some(name) => model.listeners.iter().filter(|listener| listener.name == name).collect(),
        None => model.listeners.iter().filter(is_bound).collect(),
    };
    if asked.is_empty() {
        if let Some(name) = listener {
            let known: Vec<&str> = model.listeners.iter().map(|l| l.name.as_str()).collect();
            return Err(Error::Listener { name: name.to_owned(), known: known.join(", ") });
        }
        text += &format!("no listener is bound to port {port}; what each would do:\n");
        asked = model.listeners.iter().collect();
    }
    for listener in asked {
        // Writing to a string does not fail.
        let _ = at_listener(&mut text, model, file, subject, listener);
    }
    Ok(text)
}

fn at_listener(
    text: &mut String,
    model: &Model,
    file: &str,
    subject: &Subject,
    listener: &Listener,
) -> std::fmt::Result {
    let bind: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
    writeln!(text, "listener {:?} ({}):", listener.name, bind.join(", "))?;
    if let Some(streams) = &listener.streams {
        return passed_on(text, model, file, subject, streams);
    }
    let table = Table::new(&listener.routes);
    let query = Query {
        host: subject.host(),
        path: subject.url.path(),
        method: &subject.method,
        headers: &subject.headers,
    };
    for entry in table.in_order() {
        let route = &listener.routes[entry.route];
        write!(text, "  {file}:{}: {}: ", route.line, route.title())?;
        match why_not(route, entry, &query) {
            Some(reason) => writeln!(text, "no, {reason}")?,
            None => {
                writeln!(text, "taken")?;
                return outcome(text, model, route, table.plan(entry.route), &query, &subject.url);
            }
        }
    }
    writeln!(text, "  no route matches: 404 no_route")
}

/// What becomes of the connection that would bring the request.
fn passed_on(
    text: &mut String,
    model: &Model,
    file: &str,
    subject: &Subject,
    streams: &Streams,
) -> std::fmt::Result {
    let host = subject.url.host().unwrap_or_default();
    match l4::route_of(streams, host, BROWSER_PROTOCOLS) {
        Ok(route) => {
            let route = &streams.routes[route];
            writeln!(text, "  {file}:{}: taken, by the connection alone", route.line)?;
            match &route.end {
                StreamEnd::Service(service) => {
                    let service = &model.services[*service];
                    let (name, backends) = (&service.name, service.backends.len());
                    writeln!(text, "  to service {name:?}, {backends} backends, as it is")
                }
                StreamEnd::Listener(name) => {
                    let ends_at = model.listeners.iter().find(|listener| listener.name == *name);
                    // A listener that ends it speaks HTTP, so this ends too.
                    ends_at.map_or(Ok(()), |at| at_listener(text, model, file, subject, at))
                }
            }
        }
        Err(alert) => writeln!(text, "  no route takes {host:?}: alert {alert:?}"),
    }
}

fn outcome(
    text: &mut String,
    model: &Model,
    route: &Route,
    plan: &Plan,
    query: &Query<'_>,
    url: &Uri,
) -> std::fmt::Result {
    let root = PathAndQuery::from_static("/");
    let target = url.path_and_query().unwrap_or(&root);
    let target = match plan.rewrite.as_ref().map(|rewrite| rewrite.apply(target)) {
        Some(Err(class)) => return writeln!(text, "  error {} {}", class.status(), class.name()),
        Some(Ok(Some(target))) => target,
        _ => target.clone(),
    };
    match &route.action {
        Action::Forward(service) => {
            let service = &model.services[*service];
            writeln!(text, "  to service {:?}, {} backends", service.name, service.backends.len())?;
            let host = match &route.host_header {
                HostHeader::Preserve => query.host,
                HostHeader::Backend => "(the backend's address)",
                HostHeader::Name(name) => name,
            };
            writeln!(text, "  as {} {target}, Host: {host}", query.method)?;
        }
        Action::Redirect(redirect) => {
            write!(text, "  to a redirect, {}: ", redirect.status)?;
            let End::Redirect(redirect, groups) = &plan.end else { return Ok(()) };
            let location = redirect.location(&Parts {
                scheme: url.scheme_str().unwrap_or("http"),
                authority: query.host,
                path: target.path(),
                query: target.query(),
                groups: groups.as_ref().and_then(|groups| groups.captures(query.path.as_bytes())),
            });
            match location {
                Ok(location) => writeln!(text, "{}", String::from_utf8_lossy(location.as_bytes()))?,
                Err(class) => writeln!(text, "error {} {}", class.status(), class.name())?,
            }
        }
        Action::Answer(answer) => {
            writeln!(text, "  to an answer, {}: {:?}", answer.status, answer.body)?;
        }
    }
    Ok(())
}

/// What about a request a route does not take.
fn why_not(route: &Route, entry: &Entry, query: &Query<'_>) -> Option<String> {
    if !is_of_host(route.host.as_ref(), query.host) {
        return Some(format!("the host is {:?}", query.host));
    }
    entry.mismatch(query).map(|mismatch| match mismatch {
        Mismatch::Path => format!("the path is {}", query.path),
        Mismatch::Method => format!("the method is {}", query.method),
        Mismatch::Header(name) => {
            let values = query.headers.get_all(name).iter();
            let values: Vec<String> = values.map(|value| format!("{value:?}")).collect();
            match values.as_slice() {
                [] => format!("there is no header {name}"),
                values => format!("header {name} is {}", values.join(", ")),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[[listener]]
name = "web"
bind = ["127.0.0.1:80", "127.0.0.1:8080"]
protocol = "http"
[[listener.route]]
service = "rest"
[[listener.route]]
host = "api.example.com"
path = "/v1"
method = ["GET"]
headers = { x-version = "2" }
service = "api"
[[listener.route]]
host = "api.example.com"
path_exact = "/v1/status"
service = "rest"
[[listener.route]]
host = "old.example.com"
path_regex = "/shop/(.*)"
redirect = { to = "https://new.example.com/$1?${query}", status = 301 }
[[listener.route]]
host = "strip.example.com"
path = "/v1"
rewrite = { prefix = "/" }
host_header = "name:inner.example.com"
service = "api"
[[listener]]
name = "inner"
bind = ["127.0.0.1:81"]
protocol = "http"
[[listener.route]]
path = "/only"
service = "api"
[[listener]]
name = "names"
bind = ["127.0.0.1:8443"]
protocol = "tls"
[[listener.route]]
sni = "*.example.com"
service = "api"
[[service]]
name = "api"
[[service.backend]]
address = "10.0.0.1:80"
[[service]]
name = "rest"
"#;

    fn explained(url: &str, method: &str, headers: &[&str], listener: Option<&str>) -> String {
        let model = crate::config::parse(std::path::Path::new("f.toml"), CONFIG).unwrap();
        let headers: Vec<String> = headers.iter().map(ToString::to_string).collect();
        let subject = Subject::new(url, method, &headers);
        match subject.and_then(|subject| explain(&model, "f.toml", &subject, listener)) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_route_that_is_asked_says_why_not_in_the_order_of_precedence() {
        assert_eq!(
            explained("http://api.example.com/v1/x", "GET", &["X-Version: 1"], None),
            "listener \"web\" (127.0.0.1:80, 127.0.0.1:8080):\n  \
             f.toml:14: host api.example.com, path /v1/status exactly: no, the path is /v1/x\n  \
             f.toml:8: host api.example.com, path /v1, GET, header x-version: no, \
             header x-version is \"1\"\n  \
             f.toml:18: host old.example.com, path like /shop/(.*): no, the host is \
             \"api.example.com\"\n  \
             f.toml:22: host strip.example.com, path /v1: no, the host is \"api.example.com\"\n  \
             f.toml:6: any host, any path: taken\n  \
             to service \"rest\", 0 backends\n  \
             as GET /v1/x, Host: api.example.com\n"
        );
        let taken = explained("http://me@API.example.com/v1", "GET", &["X-Version:2"], Some("web"));
        assert!(taken.contains("f.toml:8:") && taken.contains("to service \"api\", 1 backends"));
        let post = explained("http://api.example.com/v1", "POST", &[], None);
        assert!(post.contains("no, the method is POST\n"), "{post}");
        let other = explained("http://x.test/v1", "GET", &["Host: api.example.com"], None);
        assert!(other.contains("no, there is no header x-version"), "{other}");
    }

    #[test]
    fn what_becomes_of_the_request_is_said() {
        let redirect = explained("http://old.example.com/shop/a/b?c=d", "GET", &[], None);
        assert!(
            redirect.ends_with("  to a redirect, 301: https://new.example.com/a/b?c=d\n"),
            "{redirect}"
        );
        let stripped = explained("http://strip.example.com/v1/x?y", "PUT", &[], None);
        assert!(stripped.ends_with("  as PUT /x?y, Host: inner.example.com\n"), "{stripped}");
    }

    #[test]
    fn a_connection_that_is_passed_on_goes_by_its_host() {
        assert_eq!(
            explained("https://API.example.com:8443/any", "GET", &[], None),
            "listener \"names\" (127.0.0.1:8443):\n  f.toml:39: taken, by the connection alone\n  \
             to service \"api\", 1 backends, as it is\n"
        );
        let nobody = explained("https://example.org:8443/", "GET", &[], None);
        assert!(
            nobody.ends_with("no route takes \"example.org\": alert UnrecognizedName\n"),
            "{nobody}"
        );
    }

    #[test]
    fn listeners_are_those_of_the_port_or_the_one_asked_for() {
        let inner = explained("http://a:81/x", "GET", &[], None);
        assert!(inner.ends_with("  no route matches: 404 no_route\n"), "{inner}");
        assert!(!inner.contains("web"));
        let all = explained("https://a/only", "GET", &[], None);
        assert!(all.starts_with("no listener is bound to port 443; what each would do:\n"));
        assert_eq!(all.matches("listener \"").count(), 3);
    }

    #[test]
    fn what_cannot_be_explained_is_said() {
        for (url, method, header, listener, said) in [
            ("/path", "GET", "a: b", None, "\"/path\" is no URL"),
            ("http://a/", "G T", "a: b", None, "\"G T\" is no method"),
            ("http://a/", "GET", "a", None, "\"a\" is no header"),
            ("http://a/", "GET", "a: b", Some("x"), "no listener \"x\"; there are: web, inner"),
        ] {
            let text = explained(url, method, &[header], listener);
            assert!(text.contains(said), "{text}");
        }
    }
}
