//! From the file as written to the model: references, limits, contradictions.

mod access;
mod action;
mod discover;
mod fallback;
mod forwarding;
mod guard;
mod pages;
mod probe;
mod quic;
mod route;
mod streams;
mod tls;
mod upstream_tls;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use steerage_common::limits::{SERVICES, SLOTS, TIERS, VIPS, WEIGHT_MAX, WORKERS};
use toml::Spanned;

use super::error::Problem;
use super::model::{
    self, Ejection, Global, HashKey, Http2, ListenerLimits, ListenerTimeouts, Log, Mode, Model,
    Pool, Retry, Upstream, UpstreamProtocol,
};
use super::{schema, token};

/// The least memory that workers can be replaced at: they begin with a third of it.
const WORKER_MEMORY_MIN: u64 = 64 << 20;

/// Validates the whole file; all problems are found in one pass. Files that it names are looked for in
/// `directory`.
pub fn resolve(
    text: &str,
    directory: &Path,
    mut file: schema::File,
) -> Result<Model, Vec<Problem>> {
    let mut resolver = Resolver {
        text,
        directory,
        problems: Vec::new(),
        server_ids: quic::Written::new(),
        secure: HashSet::new(),
    };
    let services = resolver.services(file.service);
    let names: HashMap<String, usize> =
        services.iter().enumerate().map(|(i, service)| (service.name.clone(), i)).collect();
    let replies = Replies {
        pages: resolver.error_pages(std::mem::take(&mut file.global.error_pages), &[]),
        header: file.global.error_header,
    };
    let listeners = resolver.listeners(file.listener, &names, &replies);
    resolver.check_stream_services(&listeners, &services);
    resolver.check_terminations(&listeners);
    let everywhere = file.global.l4_fallback;
    let vips = resolver.vips(file.vip, &names, &services, (everywhere, &listeners));
    let server_ids = std::mem::take(&mut resolver.server_ids);
    resolver.check_server_ids(&services, &vips, &server_ids);
    let guard = file.guard.map(|guard| resolver.guard(guard, None)).unwrap_or_default();
    let of_vips = vips.iter().filter_map(|vip| vip.guard.as_ref());
    let of_listeners = listeners.iter().filter_map(|listener| listener.guard.as_ref());
    resolver.check_lists(of_vips.chain(of_listeners).chain([&guard]));
    let global = resolver.global(file.global);
    let mut problems = resolver.problems;
    if listeners.is_empty() && vips.is_empty() && problems.is_empty() {
        problems.push(Problem::at(
            text,
            0..0,
            "nothing to serve: add a [[listener]] (HTTP) or a [[vip]] (L4)",
        ));
    }
    if problems.is_empty() {
        return Ok(Model { global, guard, listeners, vips, services });
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(problems)
}

/// What listeners that say nothing else answer errors with.
struct Replies {
    pages: Vec<model::ErrorPage>,
    header: bool,
}

struct Resolver<'a> {
    text: &'a str,
    directory: &'a Path,
    problems: Vec<Problem>,
    server_ids: quic::Written,
    /// Names of the services whose backends speak TLS.
    secure: HashSet<String>,
}

impl Resolver<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::at(self.text, span, message));
    }

    fn global(&mut self, global: schema::Global) -> Global {
        let instance = global.instance.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if instance.is_empty() || !instance.chars().all(plain) {
            self.problem(
                global.instance.span(),
                format!("instance: {instance:?} may have letters, digits, '-' and '_' only"),
            );
        }
        let workers = match *global.workers.get_ref() {
            schema::Workers::Auto => None,
            schema::Workers::Count(count) => Some(count),
        };
        if workers.is_some_and(|count| count == 0 || count > WORKERS / 2) {
            self.problem(
                global.workers.span(),
                format!("workers: must be \"auto\" or from 1 to {}", WORKERS / 2),
            );
        }
        if *global.max_connections.get_ref() == 0 {
            self.problem(global.max_connections.span(), "max_connections: must be at least 1");
        }
        if !(1024..=1 << 26).contains(global.max_flows.get_ref()) {
            self.problem(global.max_flows.span(), "max_flows: must be from 1024 to 67108864");
        }
        if !(1024..=1 << 26).contains(global.max_sources.get_ref()) {
            self.problem(global.max_sources.span(), "max_sources: must be from 1024 to 67108864");
        }
        Global {
            instance: global.instance.into_inner(),
            workers,
            user: global.user,
            bpf_dir: global.bpf_dir,
            admin: global.admin,
            metrics: match global.metrics {
                schema::Metrics::Off => None,
                schema::Metrics::At(address) => Some(address),
            },
            page_token: global.page_token.map(|file| self.page_token(&file)),
            pid_file: global.pid_file,
            hash_seed: global.hash_seed,
            log: Log { level: global.log.level, format: global.log.format },
            access_log: self.access_log(global.access_log),
            max_connections: global.max_connections.into_inner(),
            max_flows: global.max_flows.into_inner(),
            max_sources: global.max_sources.into_inner(),
            flow_idle: self.flow_idle(&global.flow_idle),
            tunnel_sources: self.tunnel_sources(global.tunnel_sources),
            trusted_proxies: global.trusted_proxies,
            drain: global.drain.0,
            upgrade_timeout: global.upgrade_timeout.0,
            hooks: model::Hooks {
                on_start: global.hooks.on_start,
                on_reload: global.hooks.on_reload,
                on_shutdown: global.hooks.on_shutdown,
            },
            worker_hang: self.at_least("worker_hang", &global.worker_hang, Duration::from_secs(1)),
            worker_lifetime: self.at_least(
                "worker_lifetime",
                &global.worker_lifetime,
                Duration::from_secs(10),
            ),
            worker_memory: self.worker_memory(&global.worker_memory),
            worker_seccomp: global.worker_seccomp,
            io: global.io,
            watch: global.watch,
            ticket_rotation: self.ticket_rotation(&global.ticket_rotation),
        }
    }

    fn page_token(&mut self, file: &Spanned<PathBuf>) -> PathBuf {
        let path = self.directory.join(file.get_ref());
        if let Err(error) = token::read(&path) {
            self.problem(file.span(), format!("page_token: {}: {error}", path.display()));
        }
        path
    }

    /// A time that is `least` or more, or off.
    fn at_least(
        &mut self,
        name: &str,
        span: &Spanned<schema::SpanOrOff>,
        least: Duration,
    ) -> Option<Duration> {
        let value = span.get_ref().0;
        if value.is_zero() {
            return None;
        }
        if value < least {
            let least = humantime::format_duration(least);
            self.problem(span.span(), format!("{name}: must be at least {least}, or \"off\""));
        }
        Some(value)
    }

    fn ticket_rotation(&mut self, span: &Spanned<schema::Span>) -> Duration {
        let value = span.get_ref().0;
        // RFC 8446, 4.6.1: no ticket is of use after 7 days, and a key opens them for three rotations.
        if !(Duration::from_secs(60)..=Duration::from_secs(48 * 3600)).contains(&value) {
            self.problem(span.span(), "ticket_rotation: must be from 1m to 48h");
        }
        value
    }

    fn worker_memory(&mut self, limit: &Spanned<schema::SizeLimit>) -> Option<u64> {
        let bytes = limit.get_ref().0?;
        if bytes < WORKER_MEMORY_MIN {
            self.problem(limit.span(), "worker_memory: must be at least 64MiB, or \"off\"");
        }
        Some(bytes)
    }

    fn flow_idle(&mut self, idle: &schema::FlowIdle) -> model::FlowIdle {
        let mut within = |name, span: &Spanned<schema::Span>| {
            let value = span.get_ref().0;
            if !(Duration::from_secs(2)..=Duration::from_secs(24 * 3600)).contains(&value) {
                self.problem(span.span(), format!("flow_idle.{name}: must be from 2s to 24h"));
            }
            value
        };
        model::FlowIdle { tcp: within("tcp", &idle.tcp), udp: within("udp", &idle.udp) }
    }

    fn tunnel_sources(&mut self, sources: Spanned<Vec<IpNet>>) -> Vec<IpNet> {
        let span = sources.span();
        let sources = sources.into_inner();
        let too_many = [true, false]
            .into_iter()
            .any(|is_v4| sources.iter().filter(|net| net.addr().is_ipv4() == is_v4).count() > 1);
        // Flows vary 32 bits of an IPv6 source.
        let too_long = sources.iter().any(|net| net.addr().is_ipv6() && net.prefix_len() > 96);
        if too_many || too_long {
            self.problem(
                span,
                "tunnel_sources: one prefix of IPv4 and one of IPv6 (of 96 bits at most)",
            );
        }
        sources
    }

    fn services(&mut self, services: Vec<schema::Service>) -> Vec<model::Service> {
        let mut names = Names::new("service");
        let backends: usize = services.iter().map(|service| service.backend.len()).sum();
        if services.len() > SERVICES {
            self.problem(0..0, format!("more than {SERVICES} services; this host takes no more"));
        }
        if backends > SLOTS {
            self.problem(0..0, format!("{backends} backends; this host takes at most {SLOTS}"));
        }
        services
            .into_iter()
            .map(|service| {
                names.check(self, &service.name);
                self.service(service)
            })
            .collect()
    }

    fn service(&mut self, service: schema::Service) -> model::Service {
        let percent = &service.ejection.max_percent;
        if *percent.get_ref() > 100 {
            self.problem(percent.span(), "max_percent: must be from 0 to 100");
        }
        let budget = &service.retry.budget_percent;
        if *budget.get_ref() > 100 {
            self.problem(budget.span(), "budget_percent: must be from 0 to 100");
        }
        let panic = &service.panic_percent;
        if *panic.get_ref() > 100 {
            self.problem(panic.span(), "panic_percent: must be from 0 to 100");
        }
        let ratio = &service.ejection.ratio;
        if !(0.01..=1.0).contains(ratio.get_ref()) {
            self.problem(ratio.span(), "ratio: must be from 0.01 to 1");
        }
        let upstream_tls =
            service.upstream_tls.map(|tls| self.upstream_tls(tls.into_inner(), None));
        if upstream_tls.is_some() {
            self.secure.insert(service.name.get_ref().clone());
        }
        let hash_key = self.hash_key(service.hash_key);
        let sticky_cookie = service.sticky.map(|sticky| self.cookie(sticky));
        model::Service {
            probe: service
                .probe
                .map(|probe| self.probe(probe, &service.upstream, upstream_tls.as_ref())),
            discover: service.discover.map(|discover| self.discover(discover)),
            backends: self.backends(service.name.get_ref(), service.backend),
            name: service.name.into_inner(),
            balance: service.balance,
            hash_key,
            sticky_cookie,
            ejection: Ejection {
                consecutive: service.ejection.consecutive,
                ratio: service.ejection.ratio.into_inner(),
                window: service.ejection.window.0,
                least_requests: service.ejection.least_requests,
                server_errors: service.ejection.server_errors,
                base: service.ejection.base.0,
                max: service.ejection.max.0,
                max_percent: service.ejection.max_percent.into_inner(),
            },
            slow_start: service.slow_start.0,
            panic_percent: service.panic_percent.into_inner(),
            queue_timeout: service.queue.timeout.0,
            upstream: self.upstream(service.upstream, upstream_tls.is_some()),
            upstream_tls,
            pool: Pool {
                max_idle: service.pool.max_idle,
                idle: service.pool.idle.0,
                max_age: service.pool.max_age.0,
                max_requests: service.pool.max_requests,
            },
            stale_replay: service.stale_replay,
            retry: Retry {
                attempts: service.retry.attempts,
                budget_percent: service.retry.budget_percent.into_inner(),
                lost: service.retry.lost,
            },
        }
    }

    /// What of a request `maglev` hashes.
    fn hash_key(&mut self, key: Option<Spanned<String>>) -> HashKey {
        let Some(key) = key else { return HashKey::Source };
        let named = |prefix: &str| {
            let name = key.get_ref().strip_prefix(prefix)?;
            http::HeaderName::from_bytes(name.as_bytes()).is_ok().then(|| name.to_owned())
        };
        match key.get_ref().as_str() {
            "source" => HashKey::Source,
            "path" => HashKey::Path,
            "host" => HashKey::Host,
            _ => match (named("header:"), named("cookie:")) {
                (Some(name), _) => HashKey::Header(name.to_ascii_lowercase()),
                (_, Some(name)) => HashKey::Cookie(name),
                _ => {
                    self.problem(
                        key.span(),
                        format!(
                            "hash_key: {:?} is none of source, header:NAME, cookie:NAME, path, host",
                            key.get_ref()
                        ),
                    );
                    HashKey::Source
                }
            },
        }
    }

    /// The name of a cookie: a token (RFC 6265, 4.1.1).
    fn cookie(&mut self, sticky: Spanned<schema::Sticky>) -> String {
        let span = sticky.span();
        let name = sticky.into_inner().cookie;
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.problem(span, format!("sticky: {name:?} is no name of a cookie"));
        }
        name
    }

    fn limit(&mut self, name: &str, limit: Option<Spanned<u32>>) -> Option<u32> {
        let limit = limit?;
        if *limit.get_ref() == 0 {
            let message = format!("{name}: must be at least 1; weight = 0 takes a backend out");
            self.problem(limit.span(), message);
        }
        Some(limit.into_inner())
    }

    fn backends(&mut self, service: &str, backends: Vec<schema::Backend>) -> Vec<model::Backend> {
        let mut seen = HashMap::new();
        let mut resolved = Vec::with_capacity(backends.len());
        for backend in backends {
            let address = *backend.address.get_ref();
            if address.port() == 0 || address.ip().is_unspecified() {
                self.problem(
                    backend.address.span(),
                    format!("address: {address} is no backend; give an address and a port"),
                );
            }
            if let Some(first) = seen.insert(address, backend.address.span()) {
                let first = Problem::at(self.text, first, "").line;
                self.problem(
                    backend.address.span(),
                    format!(
                        "address: service {service:?} has the backend {address} on line {first} \
                         already; use `weight` for a greater share"
                    ),
                );
            }
            if *backend.weight.get_ref() > WEIGHT_MAX {
                self.problem(
                    backend.weight.span(),
                    format!("weight: must be from 0 to {WEIGHT_MAX}"),
                );
            }
            if usize::from(*backend.tier.get_ref()) >= TIERS {
                self.problem(backend.tier.span(), format!("tier: must be from 0 to {}", TIERS - 1));
            }
            if let Some(ids) = &backend.server_id {
                self.server_ids.insert((service.to_owned(), address), ids.span());
            }
            resolved.push(model::Backend {
                address,
                host: None,
                server_ids: self.server_ids(backend.server_id.as_ref()),
                max_connections: self.limit("max_connections", backend.max_connections),
                max_requests: self.limit("max_requests", backend.max_requests),
                weight: backend.weight.into_inner(),
                tier: backend.tier.into_inner(),
            });
        }
        resolved
    }

    fn listeners(
        &mut self,
        listeners: Vec<schema::Listener>,
        services: &HashMap<String, usize>,
        replies: &Replies,
    ) -> Vec<model::Listener> {
        let mut names = Names::new("listener");
        let mut binds: HashMap<SocketAddr, String> = HashMap::new();
        let mut resolved = Vec::with_capacity(listeners.len());
        let is_end = |route: &Spanned<schema::Route>| route.get_ref().terminate.clone();
        let ends = listeners.iter().flat_map(|listener| listener.route.iter().filter_map(is_end));
        let ends: Vec<String> = ends.map(Spanned::into_inner).collect();
        for mut listener in listeners {
            names.check(self, &listener.name);
            let name = listener.name.get_ref();
            if listener.bind.is_empty() && !ends.contains(name) {
                self.problem(listener.name.span(), format!("listener {name:?} binds no address"));
            }
            if listener.route.is_empty() && listener.protocol != schema::ListenerProtocol::Tcp {
                self.problem(
                    listener.name.span(),
                    format!(
                        "listener {name:?} has no [[listener.route]], so every client would be \
                         refused; add one"
                    ),
                );
            }
            for bind in &listener.bind {
                let taken = binds.insert(*bind.get_ref(), name.clone());
                if let Some(other) = taken.filter(|_| bind.get_ref().port() != 0) {
                    self.problem(
                        bind.span(),
                        format!("bind: {} is bound by listener {other:?} already", bind.get_ref()),
                    );
                }
            }
            let streams = self.streams(&mut listener, services);
            let tls = tls::Written {
                certificates: listener.certificates,
                client_auth: listener.client_auth,
                tls: listener.tls,
            };
            let tls = self.listener_tls(&listener.name, listener.protocol, tls);
            let routes = listener
                .route
                .into_iter()
                .filter_map(|route| self.route(route, services))
                .collect();
            resolved.push(model::Listener {
                bind: listener.bind.into_iter().map(Spanned::into_inner).collect(),
                name: listener.name.into_inner(),
                accept_from: self.accept_from(listener.proxy_protocol),
                streams,
                tls,
                timeouts: ListenerTimeouts {
                    header_read: listener.timeouts.header_read.0,
                    idle: listener.timeouts.idle.get_ref().0,
                    stall: listener.timeouts.stall.get_ref().0,
                    body_grace: listener.timeouts.body_grace.get_ref().0,
                },
                limits: self.limits(listener.limits),
                offenders: self.offenders(&listener.offenders),
                guard: self.listener_guard(listener.guard, listener.interface.as_ref()),
                interface: listener.interface.map(|name| self.interface(name)),
                http2: self.http2(listener.http2.map(Spanned::into_inner).unwrap_or_default()),
                forwarding: self.forwarding(listener.forwarding),
                error_pages: self.error_pages(listener.error_pages, &replies.pages),
                error_header: listener.error_header.map_or(replies.header, Spanned::into_inner),
                access_log: listener.access_log.unwrap_or(true),
                routes,
            });
        }
        resolved
    }

    fn limits(&mut self, limits: schema::ListenerLimits) -> ListenerLimits {
        /// A head and a piece of its body fit into the buffer that hyper reads into.
        const HEAD_BYTES_MAX: u32 = 48 * 1024;
        let head_bytes = *limits.head_bytes.get_ref();
        if !(256..=HEAD_BYTES_MAX).contains(&head_bytes) {
            self.problem(
                limits.head_bytes.span(),
                format!("head_bytes: must be from 256 to {HEAD_BYTES_MAX}"),
            );
        }
        if !(1..=1024).contains(limits.fields.get_ref()) {
            self.problem(limits.fields.span(), "fields: must be from 1 to 1024");
        }
        let uri_bytes = *limits.uri_bytes.get_ref();
        if !(64..=HEAD_BYTES_MAX).contains(&uri_bytes) {
            self.problem(
                limits.uri_bytes.span(),
                format!("uri_bytes: must be from 64 to {HEAD_BYTES_MAX}"),
            );
        }
        ListenerLimits {
            head_bytes,
            fields: limits.fields.into_inner(),
            uri_bytes,
            body_rate: limits.body_rate.into_inner(),
            connections_per_address: limits.connections_per_address,
        }
    }

    fn upstream(&mut self, upstream: schema::Upstream, is_tls: bool) -> Upstream {
        let streams = upstream.streams;
        if !(1..=10_000).contains(streams.get_ref()) {
            self.problem(streams.span(), "streams: must be from 1 to 10000");
        }
        let proxy_protocol = upstream.proxy_protocol;
        if let Some(version) = &proxy_protocol
            && matches!(upstream.protocol, schema::UpstreamProtocol::Http2)
        {
            let message = "proxy_protocol: names one client for a whole connection, and those of \
                           HTTP/2 carry many clients' requests; use protocol = \"http1\"";
            self.problem(version.span(), message);
        }
        Upstream {
            protocol: match upstream.protocol {
                schema::UpstreamProtocol::Http2 => UpstreamProtocol::Http2,
                // A header names one client, so no connection may be shared.
                schema::UpstreamProtocol::Auto if is_tls && proxy_protocol.is_none() => {
                    UpstreamProtocol::Auto
                }
                // Only TLS lets the two ends agree (ALPN); without it, HTTP/1.1 is what all speak.
                schema::UpstreamProtocol::Http1 | schema::UpstreamProtocol::Auto => {
                    UpstreamProtocol::Http1
                }
            },
            proxy_protocol: proxy_protocol.map(Spanned::into_inner),
            streams: streams.into_inner(),
            idle: upstream.idle.0,
            ping: upstream.ping.0,
        }
    }

    fn http2(&mut self, http2: schema::Http2) -> Http2 {
        /// The largest window that the protocol has (RFC 9113, 6.9.1).
        const WINDOW_MAX: u32 = (1 << 31) - 1;
        let mut within = |key: &str, number: Spanned<u32>, least: u32, most: u32| {
            if !(least..=most).contains(number.get_ref()) {
                self.problem(number.span(), format!("{key}: must be from {least} to {most}"));
            }
            number.into_inner()
        };
        Http2 {
            streams: within("streams", http2.streams, 1, 10_000),
            stream_window: within("stream_window", http2.stream_window, 1024, WINDOW_MAX),
            connection_window: within(
                "connection_window",
                http2.connection_window,
                // A connection's window can't be made smaller than it is at first.
                65_535,
                WINDOW_MAX,
            ),
            header_list: within("header_list", http2.header_list, 1024, 1 << 20),
            resets: within("resets", http2.resets, 1, 1 << 20),
            idle: http2.idle.0,
            stall: http2.stall.0,
        }
    }

    fn vips(
        &mut self,
        vips: Vec<schema::Vip>,
        names: &HashMap<String, usize>,
        services: &[model::Service],
        (fallback, listeners): (schema::L4Fallback, &[model::Listener]),
    ) -> Vec<model::Vip> {
        if vips.len() > VIPS {
            self.problem(0..0, format!("more than {VIPS} vips; this host takes no more"));
        }
        let mut vip_names = Names::new("vip");
        let mut taken = HashMap::new();
        let mut resolved = Vec::with_capacity(vips.len());
        for vip in vips {
            vip_names.check(self, &vip.name);
            self.check_vip_address(&vip.address);
            let address = *vip.address.get_ref();
            if let Some(other) =
                taken.insert((address, vip.protocol.get_ref().number()), vip.name.get_ref().clone())
            {
                self.problem(
                    vip.address.span(),
                    format!("address: {address} is the address of vip {other:?} already"),
                );
            }
            let Some(service) = self.service_index(&vip.service, names) else { continue };
            let foreign = services[service]
                .backends
                .iter()
                .find(|backend| backend.address.is_ipv4() != address.is_ipv4());
            if let Some(encapsulation) = &vip.encapsulation
                && vip.mode != Mode::Tunnel
            {
                self.problem(encapsulation.span(), "encapsulation: for mode \"tunnel\" alone");
            }
            if let Some(foreign) = foreign.filter(|_| vip.mode == Mode::Nat) {
                self.problem(
                    vip.address.span(),
                    format!(
                        "address: a nat vip and its backends are of one address family, but \
                         {address} and the backend {} of service {:?} are not; mode \"tunnel\" can",
                        foreign.address,
                        vip.service.get_ref()
                    ),
                );
            }
            let fallback = self.fallback(&vip, fallback, names, listeners);
            resolved.push(model::Vip {
                fallback,
                name: vip.name.into_inner(),
                address,
                quic: self.quic(vip.quic, &vip.protocol),
                mode: vip.mode,
                encapsulation: vip.encapsulation.map(Spanned::into_inner).unwrap_or_default(),
                flow_table: vip.flow_table,
                no_backend: vip.no_backend,
                interfaces: self.links(vip.interface),
                guard: vip.guard.map(|guard| self.guard(guard, Some(*vip.protocol.get_ref()))),
                protocol: vip.protocol.into_inner(),
                service,
            });
        }
        resolved
    }

    fn links(&mut self, links: Spanned<schema::Links>) -> Vec<String> {
        let span = links.span();
        let names = links.into_inner().0;
        if names.is_empty() {
            self.problem(span.clone(), "interface: no link is named; write \"eth0\"");
        }
        names.into_iter().map(|name| self.interface(Spanned::new(span.clone(), name))).collect()
    }

    fn interface(&mut self, name: Spanned<String>) -> String {
        // IFNAMSIZ leaves 15 bytes for a name.
        if !(1..=15).contains(&name.get_ref().len()) {
            self.problem(name.span(), "interface: must be a link's name, as \"eth0\"");
        }
        name.into_inner()
    }

    fn check_vip_address(&mut self, address: &Spanned<SocketAddr>) {
        let ip = address.get_ref().ip();
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            self.problem(
                address.span(),
                "address: must be a unicast address that clients reach over a link",
            );
        }
    }

    fn service_index(
        &mut self,
        name: &Spanned<String>,
        services: &HashMap<String, usize>,
    ) -> Option<usize> {
        let index = services.get(name.get_ref()).copied();
        if index.is_none() {
            let mut known: Vec<&str> = services.keys().map(String::as_str).collect();
            known.sort_unstable();
            let known = match known.as_slice() {
                [] => "there is no [[service]]".to_owned(),
                known => format!("there are: {}", known.join(", ")),
            };
            self.problem(
                name.span(),
                format!("service: there is no service {:?}; {known}", name.get_ref()),
            );
        }
        index
    }
}

/// The names of one kind of thing: present, printable, and each only once.
struct Names {
    kind: &'static str,
    seen: HashMap<String, Range<usize>>,
}

impl Names {
    fn new(kind: &'static str) -> Self {
        Self { kind, seen: HashMap::new() }
    }

    fn check(&mut self, resolver: &mut Resolver<'_>, name: &Spanned<String>) {
        let text = name.get_ref();
        if text.is_empty() || text.contains(char::is_control) {
            resolver.problem(name.span(), format!("name: a {} needs a printable name", self.kind));
        }
        if let Some(first) = self.seen.insert(text.clone(), name.span()) {
            let line = Problem::at(resolver.text, first, "").line;
            resolver.problem(
                name.span(),
                format!("name: line {line} has a {} named {text:?} already", self.kind),
            );
        }
    }
}
