//! The access log as written.

use serde::Deserialize;
use serde::de::{self, Deserializer, value::MapAccessDeserializer};
use toml::Spanned;

/// A table, or its `path` alone.
pub struct AccessLog {
    pub path: Spanned<String>,
    pub format: Spanned<String>,
    pub sample: Spanned<f64>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Table { path: Spanned::new(0..0, "off".into()), format: format(), sample: sample() }.into()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: Spanned<String>,
    #[serde(default = "format")]
    format: Spanned<String>,
    #[serde(default = "sample")]
    sample: Spanned<f64>,
}

fn format() -> Spanned<String> {
    Spanned::new(0..0, "json".into())
}

fn sample() -> Spanned<f64> {
    Spanned::new(0..0, 1.0)
}

impl From<Table> for AccessLog {
    fn from(table: Table) -> Self {
        Self { path: table.path, format: table.format, sample: table.sample }
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AccessLog;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table such as { path = \"-\", format = \"json\" }, or \"off\"")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<AccessLog, E> {
                let path = Spanned::new(0..0, path.to_owned());
                Ok(AccessLog { path, ..AccessLog::default() })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<AccessLog, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(AccessLog::from)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
