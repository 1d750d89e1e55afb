//! The configuration's keys as a JSON schema, for editors: made of what the schema itself says.

use serde_json::{Map, Value, json};

use super::keys::{self, About, Found};

/// The JSON schema (draft 2020-12) of the whole file.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(&mut Vec::new(), fields(&[]));
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        object.insert("title".into(), "Steerage".into());
    }
    schema
}

/// The keys that a table, or the tables of a list, may have at `way`.
pub(super) fn fields(way: &[&'static str]) -> &'static [&'static str] {
    match keys::find(way) {
        Found::Table(fields) => fields,
        Found::List => {
            let mut beyond = way.to_vec();
            // No key's name.
            beyond.push("");
            match keys::find(&beyond) {
                Found::Nothing(depth, fields) if depth == way.len() => fields,
                _ => &[],
            }
        }
        _ => &[],
    }
}

fn table(way: &mut Vec<&'static str>, fields: &'static [&'static str]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        way.push(field);
        properties.insert((*field).to_owned(), value(way));
        way.pop();
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn value(way: &mut Vec<&'static str>) -> Value {
    let (found, about) = keys::describe(way);
    match found {
        Found::Table(fields) => table(way, fields),
        Found::List => {
            let inner = fields(way);
            let items = if inner.is_empty() { leaf(&about) } else { table(way, inner) };
            json!({ "type": "array", "items": items })
        }
        Found::Text | Found::Value | Found::Nothing(..) => leaf(&about),
    }
}

fn leaf(about: &About) -> Value {
    if !about.choices.is_empty() {
        return json!({ "enum": about.choices });
    }
    let expects = about.expects.as_str();
    let kind = match expects {
        "a boolean" => "boolean",
        "f64" => "number",
        _ if is_integer(expects) => "integer",
        "a string" | "path string" | "socket address" => "string",
        "" => return json!({}),
        _ => return json!({ "description": expects }),
    };
    match least_and_most(expects) {
        Some((least, most)) => json!({ "type": kind, "minimum": least, "maximum": most }),
        None => json!({ "type": kind, "description": expects }),
    }
}

pub(super) fn is_integer(expects: &str) -> bool {
    matches!(expects, "u8" | "u16" | "u32" | "u64" | "usize" | "i64")
}

fn least_and_most(expects: &str) -> Option<(u64, u64)> {
    match expects {
        "u8" => Some((0, u64::from(u8::MAX))),
        "u16" => Some((0, u64::from(u16::MAX))),
        "u32" => Some((0, u64::from(u32::MAX))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_has_its_type() {
        let schema = schema();
        let at = |pointer: &str| schema.pointer(pointer).cloned().unwrap_or_default();
        let global = "/properties/global/properties";
        assert_eq!(
            at(&format!("{global}/watch")),
            json!({ "type": "boolean", "description": "a boolean" })
        );
        assert_eq!(at(&format!("{global}/l4_fallback")), json!({ "enum": ["error", "proxy"] }));
        assert_eq!(at(&format!("{global}/log/properties/format/enum")), json!(["text", "json"]));
        let service = "/properties/service/items/properties";
        assert_eq!(at(&format!("{service}/panic_percent/maximum")), json!(255));
        assert_eq!(at(&format!("{service}/backend/items/properties/tier/type")), json!("integer"));
        let drain = at(&format!("{global}/drain/description"));
        assert!(drain.as_str().is_some_and(|text| text.contains("\"2s\"")), "{drain}");
        assert_eq!(at("/properties/listener/type"), json!("array"));
        assert_eq!(at("/additionalProperties"), json!(false));
    }
}
