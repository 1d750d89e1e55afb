//! What a service asks its backends.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderValue, Uri};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use toml::Spanned;

use super::Resolver;
use crate::config::model::{
    Authorities, Check, CheckKind, GrpcCheck, HttpCheck, PROBE_BODY_MAX, Probe, ProbeMethod,
    TlsCheck, Trust,
};
use crate::config::schema::{self, ProbeKind};

/// Statuses that an answer can have; those under 200 announce one.
const FINAL: RangeInclusive<u16> = 200..=599;

impl Resolver<'_> {
    pub(super) fn probe(
        &mut self,
        probe: Spanned<schema::Probe>,
        upstream: &schema::Upstream,
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
            kind: self.check_kind(probe),
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

    fn check_kind(&mut self, probe: schema::Probe) -> CheckKind {
        let tls = match probe.kind.is_tls() {
            true => Some(self.probe_tls(probe.tls, probe.host.as_ref())),
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

    fn probe_tls(
        &mut self,
        tls: Option<Spanned<schema::Tls>>,
        host: Option<&Spanned<String>>,
    ) -> TlsCheck {
        let schema::Tls { ca, sni, verify } = tls.map(Spanned::into_inner).unwrap_or_default();
        let verifies = verify.is_none_or(Spanned::into_inner);
        let trust = match ca {
            Some(ca) if !verifies => {
                self.problem(ca.span(), "ca: nothing is verified by it; remove it, or verify");
                Trust::Anybody
            }
            None if !verifies => Trust::Anybody,
            None => Trust::System,
            Some(ca) => match self.authorities(ca.get_ref()) {
                Ok(authorities) => Trust::Authorities(authorities),
                Err(message) => {
                    self.problem(ca.span(), format!("ca: {message}"));
                    Trust::System
                }
            },
        };
        let name = match (&sni, host) {
            (Some(sni), _) => Some((sni.get_ref().clone(), sni.span())),
            // A host that is none is said of `host`.
            (None, Some(host)) => host.get_ref().parse::<Authority>().ok().map(|authority| {
                let name = authority.host().trim_start_matches('[').trim_end_matches(']');
                (name.to_owned(), host.span())
            }),
            (None, None) => None,
        };
        if let Some((name, span)) = &name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let message = format!("{name:?} is no name that a certificate can be for");
            self.problem(span.clone(), message);
        }
        TlsCheck { trust, name: name.map(|(name, _)| name) }
    }

    pub(super) fn authorities(&self, file: &str) -> Result<Authorities, String> {
        let path = self.directory.join(file);
        let shown = path.display();
        let read = CertificateDer::pem_file_iter(&path);
        let read = read.and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| format!("{shown} has a certificate that is none: {error}"))?;
        }
        if certificates.is_empty() {
            return Err(format!("{shown} has no certificate"));
        }
        let certificates = certificates.into_iter().map(|certificate| certificate.to_vec());
        Ok(Authorities { file: path, certificates: certificates.collect() })
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
