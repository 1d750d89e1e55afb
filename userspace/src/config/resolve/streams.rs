//! Listeners whose connections are passed on as they are, and PROXY headers.

use std::collections::HashMap;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::Resolver;
use crate::config::error::Problem;
use crate::config::model::{
    Balance, HashKey, Host, Listener, Service, StreamEnd, StreamRoute, StreamTimeouts, Streams,
};
use crate::config::schema::{self, ListenerProtocol, RouteTimeouts};

/// The place of a key that the file has; `None` for one that it has not.
pub(super) fn written<T>(key: &Spanned<T>) -> Option<Range<usize>> {
    (!key.span().is_empty()).then(|| key.span())
}

/// The place of a key that need not be there.
fn given<T>(key: &Option<Spanned<T>>) -> Option<Range<usize>> {
    key.as_ref().map(Spanned::span)
}

/// How long a connection to a backend may take.
const CONNECT: schema::Span = schema::Span::seconds(3);

impl Resolver<'_> {
    /// Whose PROXY headers are taken; `None` for nobody's.
    pub(super) fn accept_from(
        &mut self,
        proxy_protocol: Option<schema::ProxyProtocol>,
    ) -> Option<Vec<IpNet>> {
        let accept_from = proxy_protocol?.accept_from;
        if accept_from.get_ref().is_empty() {
            let message = "accept_from: names nobody, so nobody's header would be taken; name the \
                           proxies before this one, as [\"10.0.0.0/8\"]";
            self.problem(accept_from.span(), message);
        }
        Some(accept_from.into_inner().into_iter().map(|net| net.0).collect())
    }

    /// Where a listener's connections go; `None` if it speaks HTTP.
    pub(super) fn streams(
        &mut self,
        listener: &mut schema::Listener,
        services: &HashMap<String, usize>,
    ) -> Option<Streams> {
        let is_tls = match listener.protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => {
                self.refuse(
                    "a listener that speaks HTTP",
                    [
                        ("service", given(&listener.service), "it goes into a [[listener.route]]"),
                        ("timeouts.connect", given(&listener.timeouts.connect), "routes have it"),
                        ("timeouts.tunnel", given(&listener.timeouts.tunnel), "routes have it"),
                        (
                            "timeouts.half_closed",
                            given(&listener.timeouts.half_closed),
                            "routes have it",
                        ),
                    ],
                );
                return None;
            }
            ListenerProtocol::Tcp => false,
            ListenerProtocol::Tls => true,
        };
        self.refuse_http_keys(listener);
        let timeouts = &mut listener.timeouts;
        let or = |own: Option<Spanned<schema::Span>>, else_: schema::Span| {
            own.map_or(else_, Spanned::into_inner).0
        };
        let fallback = RouteTimeouts::default();
        let timeouts = StreamTimeouts {
            connect: or(timeouts.connect.take(), CONNECT),
            tunnel: or(timeouts.tunnel.take(), *fallback.tunnel.get_ref()),
            half_closed: or(timeouts.half_closed.take(), *fallback.half_closed.get_ref()),
        };
        let service = listener.service.take();
        let routes = std::mem::take(&mut listener.route);
        if is_tls {
            if let Some(service) = service {
                let message = "service: a tls listener has it in a [[listener.route]]; one without \
                               sni takes what no other does";
                self.problem(service.span(), message);
            }
            let routes: Vec<_> = routes
                .into_iter()
                .filter_map(|route| self.stream_route(route, timeouts, services))
                .collect();
            self.check_shadows(&routes);
            return Some(Streams { is_tls, routes });
        }
        if let Some(route) = routes.first() {
            let message = "route: a tcp listener has none: all its connections go to one service; \
                           write service = \"NAME\" on the listener";
            self.problem(route.span(), message);
        }
        let Some(service) = service else {
            let name = listener.name.get_ref();
            let message = format!("listener {name:?} has no service; name one: service = \"NAME\"");
            self.problem(listener.name.span(), message);
            return None;
        };
        let line = Problem::at(self.text, service.span(), "").line;
        let end = StreamEnd::Service(self.service_index(&service, services)?);
        let route = StreamRoute { line, sni: None, alpn: Vec::new(), end, timeouts };
        Some(Streams { is_tls, routes: vec![route] })
    }

    fn stream_route(
        &mut self,
        route: Spanned<schema::Route>,
        timeouts: StreamTimeouts,
        services: &HashMap<String, usize>,
    ) -> Option<StreamRoute> {
        let span = route.span();
        let line = Problem::at(self.text, span.clone(), "").line;
        let route = route.into_inner();
        let own = route.timeouts.as_ref().map(Spanned::get_ref);
        self.refuse(
            "a route of a tls listener, which sees no HTTP",
            [
                ("host", given(&route.host), "its key is sni"),
                ("path", given(&route.path), "remove it"),
                ("path_exact", given(&route.path_exact), "remove it"),
                ("path_regex", given(&route.path_regex), "remove it"),
                ("method", route.method.first().map(Spanned::span), "remove it"),
                ("headers", route.headers.keys().next().map(Spanned::span), "remove it"),
                ("redirect", given(&route.redirect), "remove it"),
                ("answer", given(&route.answer), "remove it"),
                ("rewrite", given(&route.rewrite), "remove it"),
                ("host_header", given(&route.host_header), "remove it"),
                ("request_headers", given(&route.request_headers), "remove it"),
                ("response_headers", given(&route.response_headers), "remove it"),
                ("max_body", given(&route.max_body), "remove it"),
                ("idempotency_key", given(&route.idempotency_key), "remove it"),
                ("connect", given(&route.connect), "remove it"),
                ("first_byte", own.and_then(|own| written(&own.first_byte)), "remove it"),
                ("stall", own.and_then(|own| written(&own.stall)), "remove it"),
            ],
        );
        let or = |own: Option<&Spanned<schema::Span>>, else_| {
            own.filter(|own| written(own).is_some()).map_or(else_, |own| own.get_ref().0)
        };
        let timeouts = StreamTimeouts {
            connect: or(own.and_then(|own| own.connect.as_ref()), timeouts.connect),
            tunnel: or(own.map(|own| &own.tunnel), timeouts.tunnel),
            half_closed: or(own.map(|own| &own.half_closed), timeouts.half_closed),
        };
        let alpn = route.alpn.map(|alpn| self.alpn(alpn)).unwrap_or_default();
        let sni = route.sni.and_then(|sni| self.host("sni", sni));
        let end = match (route.service, route.terminate) {
            (Some(service), None) => StreamEnd::Service(self.service_index(&service, services)?),
            (None, Some(listener)) => {
                if let Some(timeouts) = &route.timeouts {
                    let message = "timeouts: the listener that it ends at has its own; remove it";
                    self.problem(timeouts.span(), message);
                }
                StreamEnd::Listener(listener.into_inner())
            }
            (service, _) => {
                let message = "a route has one end: service = \"NAME\", or terminate = \"NAME\" of an \
                               https listener";
                self.problem(service.map_or(span, |service| service.span()), message);
                return None;
            }
        };
        Some(StreamRoute { line, sni, alpn, end, timeouts })
    }

    fn alpn(&mut self, alpn: Spanned<Vec<String>>) -> Vec<String> {
        let is_proper = |name: &String| (1..=255).contains(&name.len());
        if alpn.get_ref().is_empty() || !alpn.get_ref().iter().all(is_proper) {
            let message = "alpn: a list of protocols' names, as [\"h2\", \"http/1.1\"]";
            self.problem(alpn.span(), message);
        }
        alpn.into_inner()
    }

    /// Finds services that pick by what only a request has, or add to what is passed on.
    pub(super) fn check_stream_services(&mut self, listeners: &[Listener], services: &[Service]) {
        for listener in listeners {
            for route in listener.streams.iter().flat_map(|streams| &streams.routes) {
                let StreamEnd::Service(service) = route.end else { continue };
                let service = &services[service];
                if service.balance == Balance::Maglev && service.hash_key != HashKey::Source {
                    let message = format!(
                        "service: {:?} picks by something of a request, and listener {:?} sees \
                         none; use a service with hash_key = \"source\"",
                        service.name, listener.name
                    );
                    self.problems.push(Problem { line: route.line, column: 1, message });
                }
                if service.upstream_tls.is_some() {
                    let message = format!(
                        "service: {:?} has upstream_tls, and listener {:?} passes connections on as \
                         they are; use a service without it",
                        service.name, listener.name
                    );
                    self.problems.push(Problem { line: route.line, column: 1, message });
                }
            }
        }
    }

    /// Finds routes that end at listeners which speak no HTTP over TLS.
    pub(super) fn check_terminations(&mut self, listeners: &[Listener]) {
        let is_https = |listener: &&Listener| listener.tls.is_some();
        let known: Vec<&str> = listeners.iter().filter(is_https).map(|of| &*of.name).collect();
        for route in listeners.iter().filter_map(|of| of.streams.as_ref()).flat_map(|of| &of.routes)
        {
            let StreamEnd::Listener(name) = &route.end else { continue };
            if !known.contains(&&**name) {
                let there_are = match known.as_slice() {
                    [] => "there is none".to_owned(),
                    known => format!("there are: {}", known.join(", ")),
                };
                let message = format!("terminate: {name:?} is no https listener; {there_are}");
                self.problems.push(Problem { line: route.line, column: 1, message });
            }
        }
    }

    /// Finds routes that no connection reaches.
    fn check_shadows(&mut self, routes: &[StreamRoute]) {
        for (at, route) in routes.iter().enumerate() {
            let covers = |before: &&StreamRoute| {
                let has_all = route.alpn.iter().all(|name| before.alpn.contains(name));
                before.sni == route.sni
                    && (before.alpn.is_empty() || (!route.alpn.is_empty() && has_all))
            };
            if let Some(first) = routes[..at].iter().find(covers) {
                let name = match &route.sni {
                    None => "every name".to_owned(),
                    Some(Host::Exact(name)) => format!("{name:?}"),
                    Some(Host::Suffix(suffix)) => format!("\"*{suffix}\""),
                };
                let message = format!(
                    "sni: the route on line {} takes all of {name} already; put the one with \
                     alpn first, or remove one",
                    first.line
                );
                self.problems.push(Problem { line: route.line, column: 1, message });
            }
        }
    }

    /// Refuses what only HTTP has use for.
    fn refuse_http_keys(&mut self, listener: &schema::Listener) {
        let (timeouts, limits) = (&listener.timeouts, &listener.limits);
        self.refuse(
            "a listener that sees no HTTP",
            [
                ("timeouts.idle", written(&timeouts.idle), "its key is tunnel"),
                ("timeouts.stall", written(&timeouts.stall), "its key is tunnel"),
                ("timeouts.body_grace", written(&timeouts.body_grace), "remove it"),
                ("limits.head_bytes", written(&limits.head_bytes), "remove it"),
                ("limits.fields", written(&limits.fields), "remove it"),
                ("limits.uri_bytes", written(&limits.uri_bytes), "remove it"),
                ("limits.body_rate", written(&limits.body_rate), "remove it"),
                ("http2", given(&listener.http2), "remove it"),
                ("forwarding", given(&listener.forwarding), "remove it"),
                ("error_header", given(&listener.error_header), "remove it"),
                ("error_pages", listener.error_pages.keys().next().map(Spanned::span), "remove it"),
            ],
        );
    }

    /// Says of each key that the file has that it means nothing for `what`.
    pub(super) fn refuse<const KEYS: usize>(
        &mut self,
        what: &str,
        keys: [(&str, Option<Range<usize>>, &str); KEYS],
    ) {
        for (key, span, remedy) in keys {
            if let Some(span) = span {
                self.problem(span, format!("{key}: means nothing for {what}; {remedy}"));
            }
        }
    }
}
