//! Routes: what they match, and whether that can be.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use toml::Spanned;

use super::Resolver;
use crate::config::error::Problem;
use crate::config::model::{self, HeaderMatch, Host, HostHeader, Path, RouteTimeouts, ValueMatch};
use crate::config::{pattern, schema};

/// How long a request's body may be where the file says nothing.
const MAX_BODY: schema::SizeLimit = schema::SizeLimit::mebibytes(64);

/// How long a connection's making may take where the file says nothing.
const CONNECT: Duration = Duration::from_secs(3);

/// The same with TLS, whose handshake is part of it.
const CONNECT_SECURE: Duration = Duration::from_secs(5);

impl Resolver<'_> {
    pub(super) fn route(
        &mut self,
        route: Spanned<schema::Route>,
        services: &HashMap<String, usize>,
    ) -> Option<model::Route> {
        let span = route.span();
        let line = Problem::at(self.text, span.clone(), "").line;
        let route = route.into_inner();
        self.refuse(
            "a route by HTTP",
            [
                ("sni", route.sni.as_ref().map(Spanned::span), "its key is host"),
                ("alpn", route.alpn.as_ref().map(Spanned::span), "remove it"),
                ("terminate", route.terminate.as_ref().map(Spanned::span), "remove it"),
            ],
        );
        let host = route.host.and_then(|host| self.host("host", host));
        let path = self.path(route.path, route.path_exact, route.path_regex);
        let methods = route.method.into_iter().map(|method| self.method(method)).collect();
        let headers = self.header_matches(route.headers);
        let path = path?;
        let named = route.service.as_ref().map(Spanned::get_ref);
        let is_secure = named.is_some_and(|service| self.secure.contains(service));
        let connect = if is_secure { CONNECT_SECURE } else { CONNECT };
        let service = route.service.map(|service| self.service_index(&service, services));
        if route.redirect.is_some() || route.answer.is_some() {
            self.check_unused([
                ("host_header", route.host_header.as_ref().map(Spanned::span)),
                ("request_headers", route.request_headers.as_ref().map(Spanned::span)),
                ("max_body", route.max_body.as_ref().map(Spanned::span)),
                ("timeouts", route.timeouts.as_ref().map(Spanned::span)),
                ("idempotency_key", route.idempotency_key.as_ref().map(Spanned::span)),
                ("connect", route.connect.as_ref().map(Spanned::span)),
            ]);
        }
        let rewrite = route.rewrite.and_then(|rewrite| self.rewrite(rewrite, &path));
        let action = self.action(span, service, (route.redirect, route.answer), &path);
        let timeouts = route.timeouts.map(Spanned::into_inner).unwrap_or_default();
        let max_body = route.max_body.map_or(MAX_BODY, Spanned::into_inner);
        let response_headers = route.response_headers.map(Spanned::into_inner).unwrap_or_default();
        let request_headers = route.request_headers.map(Spanned::into_inner).unwrap_or_default();
        Some(model::Route {
            line,
            host,
            path,
            methods,
            headers,
            rewrite,
            host_header: route.host_header.map_or(HostHeader::Preserve, |h| self.host_header(h)),
            request_headers: self.header_rules("request_headers", request_headers),
            response_headers: self.header_rules("response_headers", response_headers),
            max_body: max_body.0,
            timeouts: RouteTimeouts {
                connect: timeouts.connect.map_or(connect, |span| span.get_ref().0),
                first_byte: timeouts.first_byte.get_ref().0,
                tunnel: timeouts.tunnel.get_ref().0,
                stall: timeouts.stall.get_ref().0,
                half_closed: timeouts.half_closed.get_ref().0,
            },
            idempotency_key: route.idempotency_key.is_some_and(Spanned::into_inner),
            connect: route.connect.is_some_and(Spanned::into_inner),
            action: action?,
        })
    }

    /// Refuses keys that only a route to a service has use for.
    fn check_unused<const N: usize>(&mut self, keys: [(&str, Option<Range<usize>>); N]) {
        for (key, span) in keys {
            if let Some(span) = span {
                self.problem(span, format!("{key}: this route reaches no backend; remove it"));
            }
        }
    }

    fn path(
        &mut self,
        prefix: Option<Spanned<String>>,
        exact: Option<Spanned<String>>,
        regex: Option<Spanned<String>>,
    ) -> Option<Path> {
        let second = [&prefix, &exact, &regex].into_iter().flatten().nth(1);
        if let Some(second) = second {
            let message = "a route has one of path, path_exact and path_regex";
            self.problem(second.span(), message);
            return None;
        }
        if let Some(prefix) = prefix {
            self.check_path(&prefix);
            return Some(match prefix.get_ref().trim_end_matches('/') {
                "" => Path::Any,
                prefix => Path::Prefix(prefix.into()),
            });
        }
        if let Some(exact) = exact {
            self.check_path(&exact);
            return Some(Path::Exact(exact.into_inner()));
        }
        Some(match regex {
            Some(regex) => {
                self.check_regex("path_regex", &regex, regex.get_ref());
                Path::Regex(regex.into_inner())
            }
            None => Path::Any,
        })
    }

    pub(super) fn check_path(&mut self, path: &Spanned<String>) {
        if !path.get_ref().starts_with('/') || path.get_ref().contains(['?', '#']) {
            self.problem(path.span(), "a route's path begins with '/' and has no '?' or '#'");
        }
    }

    pub(super) fn check_regex<T>(&mut self, key: &str, at: &Spanned<T>, regex: &str) {
        if let Err(why) = pattern::whole(regex) {
            let message = format!("{key}: {regex:?} is no regular expression: {why}");
            self.problem(at.span(), message);
        }
    }

    fn method(&mut self, method: Spanned<String>) -> String {
        let text = method.get_ref();
        let is_known = Method::from_bytes(text.as_bytes()).is_ok();
        let upper = text.to_ascii_uppercase();
        if !is_known || *text != upper {
            let message = format!("method: {text:?} is no method; methods are written as \"GET\"");
            self.problem(method.span(), message);
        }
        method.into_inner()
    }

    fn header_matches(
        &mut self,
        headers: BTreeMap<Spanned<String>, Spanned<schema::ValueMatch>>,
    ) -> Vec<HeaderMatch> {
        let mut matches: Vec<HeaderMatch> = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let Ok(known) = HeaderName::from_bytes(name.get_ref().as_bytes()) else {
                let message = format!("headers: {:?} is no header's name", name.get_ref());
                self.problem(name.span(), message);
                continue;
            };
            if matches.iter().any(|other| other.name == known.as_str()) {
                let message = format!("headers: {:?} is there twice", name.get_ref());
                self.problem(name.span(), message);
            }
            let span = value.span();
            let value = match value.get_ref() {
                schema::ValueMatch::Is(true) => ValueMatch::Present,
                schema::ValueMatch::Is(false) => ValueMatch::Absent,
                schema::ValueMatch::Exact(text) => {
                    if HeaderValue::from_str(text).is_err() || text.trim() != text {
                        let message = format!("headers: {text:?} can be no header's value");
                        self.problem(span, message);
                    }
                    ValueMatch::Exact(text.clone())
                }
                schema::ValueMatch::Regex(regex) => {
                    self.check_regex("headers", &value, regex);
                    ValueMatch::Regex(regex.clone())
                }
            };
            matches.push(HeaderMatch { name: known.as_str().to_owned(), value });
        }
        matches
    }

    pub(super) fn host(&mut self, key: &str, host: Spanned<String>) -> Option<Host> {
        let text = host.get_ref().to_ascii_lowercase();
        let (suffix, name) = match text.strip_prefix('*') {
            Some("") => return None,
            Some(rest) => (true, rest.strip_prefix('.').unwrap_or("")),
            None => (false, text.as_str()),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            self.problem(
                host.span(),
                format!(
                    "{key}: {:?} is neither a host name nor a pattern such as \"*.example.com\"",
                    host.get_ref()
                ),
            );
        }
        Some(if suffix { Host::Suffix(format!(".{name}")) } else { Host::Exact(text) })
    }
}
