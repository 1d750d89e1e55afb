//! What a service asks its backends.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderValue, Uri};
use toml::Spanned;

use super::Resolver;
use crate::config::model::{
    Check, CheckKind, GrpcCheck, HttpCheck, PROBE_BODY_MAX, Probe, ProbeMethod, UpstreamTls,
};
use crate::config::schema::{self, ProbeKind};

/// Statuses that an answer can have; those under 200 announce one.
const FINAL: RangeInclusive<u16> = 200..=599;

impl Resolver<'_> {
    pub(super) fn probe(
        &mut self,
        probe: Spanned<schema::Probe>,
        upstream: &schema::Upstream,
        service: Option<&UpstreamTls>,
    ) -> Probe {
        let span = probe.span();
        let mut probe = probe.into_inner();
        self.refuse_foreign_keys(&probe);
        if probe.rise == 0 || probe.fall == 0 {
            self.problem(span.clone(), "probe: rise and fall must be at least 1");
        }
        let interval = probe.interval.0;
        let timeout = probe.timeout.map_or(interval.min(Duration::from_secs(1)), |span| span.0);
        if timeout > interval {
            self.problem(
                span,
                format!(
                    "probe: timeout ({timeout:?}) must not be longer than interval ({interval:?})"
                ),
            );
        }
        if let Some(address) = probe.address.as_ref().filter(|a| a.get_ref().is_unspecified()) {
            let message = format!("address: {} is no address to ask", address.get_ref());
            self.problem(address.span(), message);
        }
        if let Some(port) = probe.port.as_ref().filter(|port| *port.get_ref() == 0) {
            self.problem(port.span(), "port: must be from 1 to 65535");
        }
        let (rise, fall) = (probe.rise, probe.fall);
        // Whoever answers elsewhere is somebody else, who knows nothing of it.
        let is_elsewhere = probe.address.is_some() || probe.port.is_some();
        let proxy_protocol = upstream.proxy_protocol.as_ref().filter(|_| !is_elsewhere);
        let check = Check {
            address: probe.address.take().map(Spanned::into_inner),
            port: probe.port.take().map(Spanned::into_inner),
            proxy_protocol: proxy_protocol.map(|version| *version.get_ref()),
            interval,
            timeout,
            kind: self.check_kind(probe, service),
        };
        Probe { check, rise, fall }
    }

    /// A key that its kind of probe would not heed is a mistake.
    fn refuse_foreign_keys(&mut self, probe: &schema::Probe) {
        let (kind, own): (_, &[&str]) = match probe.kind {
            ProbeKind::Tcp => ("a tcp", &[]),
            ProbeKind::Http => ("an http", &["path", "host", "method", "headers", "expect"]),
            ProbeKind::Https => {
                ("an https", &["path", "host", "method", "headers", "expect", "tls"])
            }
            ProbeKind::Grpc => ("a grpc", &["host", "headers", "service"]),
            ProbeKind::Grpcs => ("a grpcs", &["host", "headers", "service", "tls"]),
        };
        let keys = [
            ("path", span(&probe.path)),
            ("host", span(&probe.host)),
            ("method", span(&probe.method)),
            ("headers", span(&probe.headers)),
            ("expect", span(&probe.expect)),
            ("service", span(&probe.service)),
            ("tls", span(&probe.tls)),
        ];
        for (key, at) in keys {
            if let Some(at) = at.filter(|_| !own.contains(&key)) {
                self.problem(at, format!("{kind} probe has no {key}; remove it"));
            }
        }
    }

    fn check_kind(&mut self, probe: schema::Probe, service: Option<&UpstreamTls>) -> CheckKind {
        let tls = match probe.kind.is_tls() {
            true => Some(self.probe_tls(probe.tls, probe.host.as_ref(), service)),
            false => None,
        };
        match probe.kind {
            ProbeKind::Tcp => CheckKind::Tcp,
            ProbeKind::Http | ProbeKind::Https => {
                let method = probe.method.map_or(ProbeMethod::Get, Spanned::into_inner);
                let (statuses, body) = self.expect(probe.expect, method);
                CheckKind::Http(HttpCheck {
                    method,
                    path: self.probe_path(probe.path),
                    host: self.probe_host(probe.host),
                    headers: self.probe_headers(probe.headers),
                    statuses,
                    body,
                    tls,
                })
            }
            ProbeKind::Grpc | ProbeKind::Grpcs => CheckKind::Grpc(GrpcCheck {
                service: probe.service.map(Spanned::into_inner).unwrap_or_default(),
                host: self.probe_host(probe.host),
                headers: self.probe_headers(probe.headers),
                tls,
            }),
        }
    }

    /// Without a table of its own a probe speaks TLS as the service does; a `host` of its own is the name.
    fn probe_tls(
        &mut self,
        tls: Option<Spanned<schema::UpstreamTls>>,
        host: Option<&Spanned<String>>,
        service: Option<&UpstreamTls>,
    ) -> UpstreamTls {
        // A host that is none is said of `host`.
        let name = host.and_then(|host| {
            let authority = host.get_ref().parse::<Authority>().ok()?;
            let name = authority.host().trim_start_matches('[').trim_end_matches(']');
            Some((name.to_owned(), host.span()))
        });
        match (tls, service) {
            (None, Some(service)) => {
                let name = service.name.clone().or(name.map(|(name, _)| name));
                UpstreamTls { name, ..service.clone() }
            }
            (tls, _) => {
                let tls = tls.map(Spanned::into_inner).unwrap_or_default();
                self.upstream_tls(tls, name)
            }
        }
    }

    fn probe_path(&mut self, path: Option<Spanned<String>>) -> String {
        let Some(path) = path else { return "/".into() };
        if !path.get_ref().starts_with('/') || path.get_ref().parse::<Uri>().is_err() {
            self.problem(path.span(), "path: must be a path such as \"/health\"");
        }
        path.into_inner()
    }

    fn probe_host(&mut self, host: Option<Spanned<String>>) -> Option<String> {
        let host = host?;
        let authority = host.get_ref().parse::<Authority>();
        if !authority.is_ok_and(|authority| !authority.as_str().contains('@')) {
            self.problem(host.span(), "host: must be a host name");
        }
        Some(host.into_inner())
    }

    fn probe_headers(
        &mut self,
        headers: Option<Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    ) -> Vec<(String, String)> {
        let headers = headers.map(Spanned::into_inner).unwrap_or_default();
        let mut resolved: Vec<(String, String)> = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let Some(known) = self.settable("headers", &name, "the probe's host") else { continue };
            if resolved.iter().any(|(other, _)| *other == known) {
                let message = format!("headers: {:?} is there twice", name.get_ref());
                self.problem(name.span(), message);
            }
            if HeaderValue::from_str(value.get_ref()).is_err() {
                let message = format!("headers: {:?} can be no header's value", value.get_ref());
                self.problem(value.span(), message);
            }
            resolved.push((known, value.into_inner()));
        }
        resolved
    }

    /// The statuses that are good, and what the body must hold.
    fn expect(
        &mut self,
        expect: Option<Spanned<schema::Expect>>,
        method: ProbeMethod,
    ) -> (Vec<RangeInclusive<u16>>, Option<String>) {
        let (status, body) = expect.map_or((None, None), |expect| {
            let expect = expect.into_inner();
            (expect.status, expect.body)
        });
        if let Some(body) = &body {
            if method == ProbeMethod::Head {
                self.problem(body.span(), "body: the answer to HEAD has none; remove it, or GET");
            }
            if !(1..=PROBE_BODY_MAX).contains(&body.get_ref().len()) {
                let message = format!("body: must be of 1 to {PROBE_BODY_MAX} bytes");
                self.problem(body.span(), message);
            }
        }
        let Some(status) = status else {
            return (vec![200..=399], body.map(Spanned::into_inner));
        };
        if status.get_ref().is_empty() {
            self.problem(status.span(), "status: name at least one, or remove it");
        }
        let mut statuses = Vec::with_capacity(status.get_ref().len());
        for item in status.into_inner() {
            match statuses_of(&item.get_ref().0) {
                Some(range) => statuses.push(range),
                None => {
                    let message = format!(
                        "status: {:?} is neither a status from {} to {} nor a range such as \
                         \"200-299\"",
                        item.get_ref().0,
                        FINAL.start(),
                        FINAL.end()
                    );
                    self.problem(item.span(), message);
                }
            }
        }
        (statuses, body.map(Spanned::into_inner))
    }
}

/// `204` or `200-299`.
fn statuses_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok()?..=last.parse().ok()?;
    (!range.is_empty() && FINAL.contains(range.start()) && FINAL.contains(range.end()))
        .then_some(range)
}

fn span<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}
