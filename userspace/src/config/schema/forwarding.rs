//! What a listener adds to the requests that it passes on, as written.

use serde::Deserialize;
use toml::Spanned;

use crate::config::model::RequestId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarding {
    pub via: Spanned<String>,
    pub forwarded: bool,
    pub request_id: RequestId,
    pub request_id_response: bool,
    pub traceparent: Traceparent,
    pub trace_sampled_percent: Option<Spanned<u8>>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            via: Spanned::new(0..0, "auto".into()),
            forwarded: false,
            request_id: RequestId::default(),
            request_id_response: false,
            traceparent: Traceparent::default(),
            trace_sampled_percent: None,
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traceparent {
    #[default]
    Pass,
    Begin,
}
