//! Backends that DNS names.

use steerage_common::limits::WEIGHT_MAX;
use toml::Spanned;

use super::Resolver;
use crate::config::model::{Discover, Records};
use crate::config::schema;

/// The longest name that DNS has (RFC 1035, 3.1).
const NAME_BYTES_MAX: usize = 253;

impl Resolver<'_> {
    pub(super) fn discover(&mut self, discover: Spanned<schema::Discover>) -> Discover {
        let span = discover.span();
        let discover = discover.into_inner();
        let (name, port) = self.dns_name(&discover.dns, discover.records);
        if discover.ttl_min.0 > discover.ttl_max.0 {
            self.problem(span, "ttl_min: must not be longer than ttl_max");
        }
        if let Some(weight) = &discover.weight {
            if discover.records == Records::Srv {
                self.problem(weight.span(), "weight: SRV records have weights of their own");
            }
            if *weight.get_ref() > WEIGHT_MAX {
                self.problem(weight.span(), format!("weight: must be from 0 to {WEIGHT_MAX}"));
            }
        }
        Discover {
            name,
            port,
            records: discover.records,
            weight: discover.weight.map_or(1, Spanned::into_inner),
            ttl_min: discover.ttl_min.0,
            ttl_max: discover.ttl_max.0,
            servers: discover.servers,
        }
    }

    /// `NAME:PORT`, or the name alone where records have ports.
    fn dns_name(&mut self, dns: &Spanned<String>, records: Records) -> (String, u16) {
        let text = dns.get_ref();
        let (name, port) = match (text.rsplit_once(':'), records) {
            (None, Records::Srv) => (text.as_str(), Some(0)),
            (Some((name, port)), Records::A | Records::Aaaa | Records::Any) => {
                (name, port.parse().ok().filter(|port| *port != 0))
            }
            (Some(_), Records::Srv) => {
                self.problem(
                    dns.span(),
                    "dns: SRV records have ports of their own; give the name alone",
                );
                return (String::new(), 0);
            }
            (None, _) => (text.as_str(), None),
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            self.problem(dns.span(), format!("dns: {name:?} is no name that DNS could know"));
        }
        if port.is_none() {
            self.problem(dns.span(), "dns: give name and port, as \"api.internal:8080\"");
        }
        (name.to_owned(), port.unwrap_or_default())
    }
}
