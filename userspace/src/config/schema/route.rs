//! A listener's route as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::{Answer, HeaderRules, Redirect, Rewrite, SizeLimit, Span};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub host: Option<Spanned<String>>,
    pub path: Option<Spanned<String>>,
    pub path_exact: Option<Spanned<String>>,
    pub path_regex: Option<Spanned<String>>,
    #[serde(default)]
    pub method: Vec<Spanned<String>>,
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Spanned<ValueMatch>>,
    pub sni: Option<Spanned<String>>,
    pub alpn: Option<Spanned<Vec<String>>>,
    pub terminate: Option<Spanned<String>>,
    pub service: Option<Spanned<String>>,
    pub redirect: Option<Spanned<Redirect>>,
    pub answer: Option<Spanned<Answer>>,
    pub rewrite: Option<Spanned<Rewrite>>,
    pub host_header: Option<Spanned<String>>,
    pub request_headers: Option<Spanned<HeaderRules>>,
    pub response_headers: Option<Spanned<HeaderRules>>,
    pub max_body: Option<Spanned<SizeLimit>>,
    pub timeouts: Option<Spanned<RouteTimeouts>>,
    pub idempotency_key: Option<Spanned<bool>>,
    pub connect: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    pub connect: Option<Spanned<Span>>,
    pub first_byte: Spanned<Span>,
    pub stall: Spanned<Span>,
    pub tunnel: Spanned<Span>,
    pub half_closed: Spanned<Span>,
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        let seconds = |seconds| Spanned::new(0..0, Span::seconds(seconds));
        Self {
            connect: None,
            first_byte: seconds(60),
            stall: seconds(60),
            tunnel: seconds(3600),
            half_closed: seconds(10),
        }
    }
}

/// A value, whether the header is there, or `{ regex = "…" }`.
pub enum ValueMatch {
    Is(bool),
    Exact(String),
    Regex(String),
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = ValueMatch;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value, true (present), false (absent), or { regex = \"...\" }")
            }
            fn visit_bool<E: de::Error>(self, is_there: bool) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Is(is_there))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(value.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Expression {
                    regex: String,
                }
                let table = de::value::MapAccessDeserializer::new(map);
                Expression::deserialize(table).map(|table| ValueMatch::Regex(table.regex))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
