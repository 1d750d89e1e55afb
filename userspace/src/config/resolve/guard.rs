//! What clients of vips may do.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use steerage_common::limits::{ACL_PREFIXES, OFFENDER_HOLD_MS_MAX};
use toml::Spanned;

use super::Resolver;
use crate::config::model::{Guard, Offenders, Prefix, Protocol, Rate, SynFlood};
use crate::config::schema;

/// The slowest rate, and the least that can be had at once, as a share of a second: the kernel's coarse
/// clock ticks every 10 ms at most.
const BURSTS_A_SECOND: u32 = 50;

impl Resolver<'_> {
    /// A guard; of a vip of this `protocol`, or of all vips.
    pub(super) fn guard(&mut self, written: schema::Guard, protocol: Option<Protocol>) -> Guard {
        let mut listed = HashMap::new();
        let mut list = |resolver: &mut Self,
                        name: &'static str,
                        nets: Vec<Spanned<schema::Net>>| {
            let mut resolved = Vec::with_capacity(nets.len());
            for net in nets {
                let trunc = net.get_ref().0.trunc();
                if let Some(other) = listed.insert(trunc, name) {
                    resolver.problem(net.span(), format!("{name}: {trunc} is in {other} already"));
                }
                resolved.push(trunc);
            }
            resolved
        };
        let deny = list(self, "deny", written.deny);
        let allow = list(self, "allow", written.allow);
        let exempt = list(self, "exempt", written.exempt);
        if matches!(protocol, Some(Protocol::Udp | Protocol::Quic)) {
            for (name, span) in [
                ("syn_rate", written.syn_rate.as_ref().map(Spanned::span)),
                ("syn_flood", written.syn_flood.as_ref().map(Spanned::span)),
            ] {
                if let Some(span) = span {
                    self.problem(span, format!("{name}: a udp vip gets no SYNs; use packet_rate"));
                }
            }
        }
        Guard {
            deny,
            allow,
            exempt,
            prefix: Prefix {
                v4: self.bits("v4", &written.prefix.v4, 32),
                v6: self.bits("v6", &written.prefix.v6, 128),
            },
            packet_rate: self.rate("packet_rate", written.packet_rate),
            syn_rate: self.rate("syn_rate", written.syn_rate),
            syn_flood: written.syn_flood.map(|flood| self.syn_flood(flood.into_inner())),
            offenders: written.offenders,
        }
    }

    /// The guard of a listener, which must say where packets are to be looked at.
    pub(super) fn listener_guard(
        &mut self,
        written: Option<Spanned<schema::Guard>>,
        interface: Option<&Spanned<String>>,
    ) -> Option<Guard> {
        let written = written?;
        if interface.is_none() {
            let message = "guard: a listener with one must say where its clients' packets come in: \
                           interface = \"eth0\"";
            self.problem(written.span(), message);
        }
        Some(self.guard(written.into_inner(), Some(Protocol::Tcp)))
    }

    pub(super) fn offenders(&mut self, written: &schema::Offenders) -> Offenders {
        let hold = written.hold.get_ref().0;
        if hold > Duration::from_millis(OFFENDER_HOLD_MS_MAX) {
            self.problem(written.hold.span(), "hold: must be 60s at most");
        }
        let schema::Offenders { strikes, within, packet_rate, .. } = *written;
        Offenders { strikes, within: within.0, hold, packet_rate }
    }

    fn bits(&mut self, name: &str, bits: &Spanned<u8>, most: u8) -> u8 {
        if !(1..=most).contains(bits.get_ref()) {
            self.problem(bits.span(), format!("prefix.{name}: must be from 1 to {most}"));
        }
        *bits.get_ref()
    }

    pub(super) fn rate(
        &mut self,
        name: &str,
        written: Option<Spanned<schema::Rate>>,
    ) -> Option<Rate> {
        let written = written?;
        let (span, schema::Rate { rate, burst }) = (written.span(), written.into_inner());
        let rate = Rate { rate, burst: burst.unwrap_or(rate) };
        if !(1..=100_000_000).contains(&rate.rate) {
            self.problem(span, format!("{name}: rate must be from 1 to 100000000 a second"));
        } else if rate.burst < (rate.rate / BURSTS_A_SECOND).max(1)
            || rate.burst > rate.rate.saturating_mul(3600)
        {
            self.problem(
                span,
                format!(
                    "{name}: burst must be from {} (a {BURSTS_A_SECOND}th of a second's) to an hour's; \
                     without it it is a second's",
                    (rate.rate / BURSTS_A_SECOND).max(1)
                ),
            );
        }
        Some(rate)
    }

    fn syn_flood(&mut self, written: schema::SynFlood) -> SynFlood {
        if !(100..=1_000_000_000).contains(written.above.get_ref()) {
            self.problem(written.above.span(), "above: must be from 100 to 1000000000 a second");
        }
        let mut within = |name, span: &Spanned<schema::Span>, range: RangeInclusive<u64>| {
            let value = span.get_ref().0;
            let (least, most) = (*range.start(), *range.end());
            if value < Duration::from_secs(least) || value > Duration::from_secs(most) {
                self.problem(span.span(), format!("{name}: must be from {least}s to {most}s"));
            }
            value
        };
        SynFlood {
            above: *written.above.get_ref(),
            hold: within("hold", &written.hold, 1..=600),
            proof: within("proof", &written.proof, 5..=86_400),
        }
    }

    /// Refuses more prefixes than the tables take.
    pub(super) fn check_lists<'g>(&mut self, guards: impl Iterator<Item = &'g Guard>) {
        let (mut v4, mut v6) = (0, 0);
        for net in
            guards.flat_map(|guard| guard.deny.iter().chain(&guard.allow).chain(&guard.exempt))
        {
            *(if net.addr().is_ipv4() { &mut v4 } else { &mut v6 }) += 1;
        }
        let most = ACL_PREFIXES / 2;
        for (count, family) in [(v4, "IPv4"), (v6, "IPv6")] {
            if count > most {
                self.problem(
                    0..0,
                    format!("{count} {family} prefixes in deny, allow and exempt; this host takes at most {most}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ipnet::IpNet;

    use super::*;
    use crate::config::{Error, Model};

    const BASE: &str = "GUARD
[[vip]]
name = 'tcp'
address = '192.0.2.10:80'
protocol = 'PROTOCOL'
mode = 'nat'
interface = 'eth0'
service = 'api'
VIP
[[service]]
name = 'api'
[[service.backend]]
address = '10.0.0.1:80'
";

    fn load(guard: &str, protocol: &str, vip: &str) -> Result<Model, Error> {
        let text = BASE.replace("GUARD", guard).replace("PROTOCOL", protocol).replace("VIP", vip);
        crate::config::parse(Path::new("test.toml"), &text)
    }

    #[test]
    fn without_a_guard_nothing_is_guarded_and_a_vip_s_own_replaces_that_of_all() {
        let off = load("", "tcp", "").unwrap();
        assert!(off.guard.is_off());
        assert_eq!(off.vips[0].guard, None);
        let model = load(
            "[guard]\ndeny = ['10.1.2.3/8']\nsyn_rate = { rate = 100 }\nallow = ['10.9.9.9']",
            "tcp",
            "[vip.guard]\nsyn_flood = { above = 1000 }\nprefix = { v4 = 24 }",
        );
        let model = model.unwrap();
        assert_eq!(model.guard.deny, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(model.guard.allow, ["10.9.9.9/32".parse::<IpNet>().unwrap()]);
        assert_eq!(model.guard.syn_rate, Some(Rate { rate: 100, burst: 100 }));
        assert!(model.guard.offenders, "a guard minds what listeners say");
        let own = model.vips[0].guard.as_ref().unwrap();
        assert_eq!(
            (own.deny.len(), own.syn_rate, own.prefix),
            (0, None, Prefix { v4: 24, v6: 64 })
        );
        let (hold, proof) = (Duration::from_secs(5), Duration::from_secs(60));
        assert_eq!(own.syn_flood, Some(SynFlood { above: 1000, hold, proof }));
        let off = load("[guard]", "tcp", "[vip.guard]\noffenders = false").unwrap();
        assert!(off.vips[0].guard.as_ref().unwrap().is_off());
    }

    #[test]
    fn what_a_guard_cannot_do_is_said_with_its_line() {
        for (guard, expected) in [
            ("deny = ['10.0.0.1/33']", "2:8: deny: \"10.0.0.1/33\" is no network; write"),
            ("deny = ['10.0.0.0/8', '10.1.0.0/8']", "2:23: deny: 10.0.0.0/8 is in deny already"),
            ("deny = ['::/0']\nexempt = ['::/0']", "3:11: exempt: ::/0 is in deny already"),
            ("prefix = { v4 = 33 }", "2:17: prefix.v4: must be from 1 to 32"),
            ("prefix = { v6 = 0 }", "2:17: prefix.v6: must be from 1 to 128"),
            ("packet_rate = { rate = 0 }", "2:15: packet_rate: rate must be from 1 to"),
            (
                "syn_rate = { rate = 5000, burst = 99 }",
                "2:12: syn_rate: burst must be from 100 (a 50th",
            ),
            ("syn_flood = { above = 99 }", "2:23: above: must be from 100 to"),
            ("syn_flood = { above = 100, proof = '1s' }", "2:36: proof: must be from 5s to 86400s"),
            ("syn_flood = { above = 100, hold = '11m' }", "2:35: hold: must be from 1s to 600s"),
            ("syn_cookies = true", "2:1: unknown field `syn_cookies`"),
        ] {
            let error = load(&format!("[guard]\n{guard}"), "tcp", "").unwrap_err().to_string();
            assert!(error.contains(expected), "{guard}: {error}");
        }
        let vip = "[vip.guard]\nsyn_rate = { rate = 9 }\nsyn_flood = { above = 100 }";
        let error = load("", "udp", vip).unwrap_err().to_string();
        assert!(
            error.contains("10:12: syn_rate: a udp vip gets no SYNs; use packet_rate"),
            "{error}"
        );
        assert!(error.contains("11:13: syn_flood: a udp vip gets no SYNs"), "{error}");
        load("[guard]\nsyn_rate = { rate = 9 }", "udp", "").unwrap();
    }

    #[test]
    fn more_prefixes_than_the_tables_take_are_refused() {
        let net = |n: usize| format!("'10.{}.{}.0/24'", n >> 8, n & 255);
        let nets: Vec<String> = (0..=ACL_PREFIXES / 2).map(net).collect();
        let error = load(&format!("[guard]\ndeny = [{}]", nets.join(",")), "tcp", "").unwrap_err();
        assert!(error.to_string().contains("takes at most 32768"), "{error}");
    }
}
