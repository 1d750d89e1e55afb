//! What a listener adds to the requests that it passes on.

use toml::Spanned;

use super::Resolver;
use crate::config::model::{Forwarding, RequestId, Via};
use crate::config::schema::{self, Traceparent};

impl Resolver<'_> {
    pub(super) fn forwarding(
        &mut self,
        written: Option<Spanned<schema::Forwarding>>,
    ) -> Forwarding {
        let at = written.as_ref().map_or(0..0, Spanned::span);
        let written = written.map(Spanned::into_inner).unwrap_or_default();
        let name = written.via.get_ref();
        let via = match name.as_str() {
            "auto" => Via::Auto,
            "off" => Via::Off,
            name => Via::Name(name.to_owned()),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            self.problem(
                written.via.span(),
                format!("via: must be \"auto\", \"off\" or a name of letters, digits and -._~:, not {name:?}"),
            );
        }
        if written.request_id_response && written.request_id == RequestId::Off {
            self.problem(
                at,
                "forwarding: with request_id = \"off\" there is no id for request_id_response",
            );
        }
        let begins = written.traceparent == Traceparent::Begin;
        if let Some(percent) = &written.trace_sampled_percent {
            if *percent.get_ref() > 100 {
                self.problem(percent.span(), "trace_sampled_percent: must be from 0 to 100");
            }
            if !begins {
                let message = "trace_sampled_percent: is of traces that Steerage begins; \
                               write traceparent = \"begin\" too";
                self.problem(percent.span(), message);
            }
        }
        let percent = written.trace_sampled_percent.map_or(100, Spanned::into_inner);
        Forwarding {
            via,
            forwarded: written.forwarded,
            request_id: written.request_id,
            request_id_response: written.request_id_response,
            trace_sampled_percent: begins.then_some(percent),
        }
    }
}
