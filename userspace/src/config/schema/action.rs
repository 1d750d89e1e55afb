//! What a route does, as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    pub prefix: Option<Spanned<String>>,
    pub regex: Option<Spanned<String>>,
    pub to: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub to: Spanned<String>,
    #[serde(default = "temporary")]
    pub status: Spanned<u16>,
}

/// What clients are answered without any backend.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub status: Spanned<u16>,
    pub body: Option<Spanned<String>>,
    #[serde(rename = "type")]
    pub content_type: Option<Spanned<String>>,
}

/// Nobody remembers it, and the method stays: what is least harmful by mistake.
fn temporary() -> Spanned<u16> {
    Spanned::new(0..0, 307)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRules {
    pub add: BTreeMap<Spanned<String>, Spanned<String>>,
    pub set: BTreeMap<Spanned<String>, Spanned<String>>,
    pub remove: Vec<Spanned<String>>,
}

/// A number of bytes, written `"64MiB"`, `"512KiB"`, `"100B"`; or `"off"`.
#[derive(Clone, Copy)]
pub struct SizeLimit(pub Option<u64>);

impl SizeLimit {
    pub const fn mebibytes(count: u64) -> Self {
        Self(Some(count << 20))
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self(None));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        Some(Self(Some(bytes)))
    }
}

impl<'de> Deserialize<'de> for SizeLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SizeLimit;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size with its unit in quotes, such as \"64MiB\", or \"off\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SizeLimit, E> {
                SizeLimit::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text| SizeLimit::parse(text).map(|size| size.0);
        assert_eq!(bytes("64MiB"), Some(Some(64 << 20)));
        assert_eq!(bytes("1 KiB"), Some(Some(1024)));
        assert_eq!(bytes("0B"), Some(Some(0)));
        assert_eq!(bytes("off"), Some(None));
        for wrong in ["64", "MiB", "64MB", "-1B", "", "99999999TiB", "1KiBx"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
