//! Changes to a configuration's text that leave everything else as somebody wrote it: order, comments,
//! blank lines.
//!
//! A change at run time is an edit of the text in force. So it is checked by the same rules as the file,
//! can be shown, taken back, and written to the file.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A service gets another backend.
    AddBackend {
        /// The service.
        service: String,
        /// What it gets.
        backend: NewBackend,
    },
    /// A service loses a backend.
    RemoveBackend {
        /// The service.
        service: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// A backend gets another share of the work.
    SetWeight {
        /// The service.
        service: String,
        /// The backend.
        backend: SocketAddr,
        /// Its weight.
        weight: u16,
    },
    /// Any key gets a value: `global.log.level`, `service.api.panic_percent`. Elements of lists go by
    /// their `name`.
    Set {
        /// The key.
        key: String,
        /// A value as TOML writes it; what is none is taken for a string.
        value: String,
    },
}

/// A backend to be added; what is not given is as in the file's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Its address and port.
    pub address: SocketAddr,
    /// Its share of the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// It serves while no lower tier has any backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<u8>,
    /// Requests that it may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Connections that it may have in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// Why an edit can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such service.
    #[error("there is no service {0:?}; `steerage status` names them all")]
    NoService(String),
    /// The service has no such backend of its own.
    #[error(
        "service {service:?} has no backend {backend} in its configuration; what DNS names is changed there"
    )]
    NoBackend {
        /// The service.
        service: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// The service has it already.
    #[error("service {service:?} has a backend {backend} already; change its weight instead")]
    Known {
        /// The service.
        service: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// The key leads nowhere.
    #[error(
        "{key}: {part:?} is no table; keys are as in the file, `service.NAME.KEY` for a service"
    )]
    NoTable {
        /// The key.
        key: String,
        /// The part of it that is none.
        part: String,
    },
    /// The text to be changed is no TOML.
    #[error("the configuration is no TOML: {0}")]
    Syntax(#[from] toml_edit::TomlError),
}

/// The text after an edit.
///
/// # Errors
/// If what the edit names is not there. What the text then means is for [`super::parse`] to judge.
pub fn edit(text: &str, edit: &Edit) -> Result<String, Error> {
    let mut document: DocumentMut = text.parse()?;
    match edit {
        Edit::AddBackend { service, backend } => {
            let table = find_service(&mut document, service)?;
            if backends(table).is_some_and(|mut all| all.find(backend.address).is_some()) {
                let (service, backend) = (service.clone(), backend.address);
                return Err(Error::Known { service, backend });
            }
            add(table, backend);
        }
        Edit::RemoveBackend { service, backend } => {
            let table = find_service(&mut document, service)?;
            let is_gone = backends(table).is_some_and(|mut all| all.remove(*backend));
            if !is_gone {
                return Err(no_backend(service, *backend));
            }
        }
        Edit::SetWeight { service, backend, weight } => {
            let table = find_service(&mut document, service)?;
            let mut all = backends(table).ok_or_else(|| no_backend(service, *backend))?;
            let found = all.find(*backend).ok_or_else(|| no_backend(service, *backend))?;
            assign(found, "weight", i64::from(*weight).into());
        }
        Edit::Set { key, value } => {
            let parts: Vec<&str> = key.split('.').collect();
            let value = value.parse().unwrap_or_else(|_| Value::from(value.as_str()));
            set(&mut document, &parts, value)?;
        }
    }
    Ok(document.to_string())
}

fn no_backend(service: &str, backend: SocketAddr) -> Error {
    Error::NoBackend { service: service.to_owned(), backend }
}

/// The backends of a service, in either way of writing them.
enum Backends<'a> {
    Tables(&'a mut ArrayOfTables),
    Inline(&'a mut toml_edit::Array),
}

impl Backends<'_> {
    fn find(&mut self, address: SocketAddr) -> Option<&mut dyn TableLike> {
        match self {
            Self::Tables(tables) => tables
                .iter_mut()
                .map(|table| table as &mut dyn TableLike)
                .find(|table| is_at(*table, address)),
            Self::Inline(array) => array
                .iter_mut()
                .filter_map(|value| value.as_inline_table_mut().map(|t| t as &mut dyn TableLike))
                .find(|table| is_at(*table, address)),
        }
    }

    fn remove(&mut self, address: SocketAddr) -> bool {
        match self {
            Self::Tables(tables) => {
                let at = tables.iter().position(|table| is_at(table, address));
                at.map(|at| tables.remove(at)).is_some()
            }
            Self::Inline(array) => {
                let is_it =
                    |value: &Value| value.as_inline_table().is_some_and(|t| is_at(t, address));
                let at = array.iter().position(is_it);
                at.map(|at| array.remove(at)).is_some()
            }
        }
    }
}

fn is_at(table: &dyn TableLike, address: SocketAddr) -> bool {
    let written = table.get("address").and_then(Item::as_str);
    written.and_then(|written| written.parse().ok()) == Some(address)
}

fn backends(service: &mut dyn TableLike) -> Option<Backends<'_>> {
    match service.get_mut("backend")? {
        Item::ArrayOfTables(tables) => Some(Backends::Tables(tables)),
        Item::Value(Value::Array(array)) => Some(Backends::Inline(array)),
        _ => None,
    }
}

fn find_service<'a>(
    document: &'a mut DocumentMut,
    name: &str,
) -> Result<&'a mut dyn TableLike, Error> {
    let services = document.get_mut("service");
    services.and_then(|all| named(all, name)).ok_or_else(|| Error::NoService(name.to_owned()))
}

/// The element of a list that has this name.
fn named<'a>(list: &'a mut Item, name: &str) -> Option<&'a mut dyn TableLike> {
    let is_it = |table: &dyn TableLike| table.get("name").and_then(Item::as_str) == Some(name);
    match list {
        Item::ArrayOfTables(tables) => {
            tables.iter_mut().map(|table| table as &mut dyn TableLike).find(|table| is_it(*table))
        }
        Item::Value(Value::Array(array)) => array
            .iter_mut()
            .filter_map(|value| value.as_inline_table_mut().map(|t| t as &mut dyn TableLike))
            .find(|table| is_it(*table)),
        _ => None,
    }
}

fn add(service: &mut dyn TableLike, backend: &NewBackend) {
    let mut table = Table::new();
    table.insert("address", toml_edit::value(backend.address.to_string()));
    let numbers = [
        ("weight", backend.weight.map(i64::from)),
        ("tier", backend.tier.map(i64::from)),
        ("max_requests", backend.max_requests.map(i64::from)),
        ("max_connections", backend.max_connections.map(i64::from)),
    ];
    for (key, number) in numbers {
        if let Some(number) = number {
            table.insert(key, toml_edit::value(number));
        }
    }
    match backends(service) {
        Some(Backends::Tables(tables)) => tables.push(table),
        Some(Backends::Inline(array)) => array.push(table.into_inline_table()),
        None => {
            let mut tables = ArrayOfTables::new();
            tables.push(table);
            service.insert("backend", Item::ArrayOfTables(tables));
        }
    }
}

/// Gives a key a value; what stands around the former one, a comment behind it, stays.
fn assign(table: &mut dyn TableLike, key: &str, mut value: Value) {
    if let Some(former) = table.get(key).and_then(Item::as_value) {
        *value.decor_mut() = former.decor().clone();
        if let Some(item) = table.get_mut(key) {
            *item = Item::Value(value);
        }
        return;
    }
    table.insert(key, Item::Value(value));
}

/// Gives the key at the end of `parts` a value; makes the tables on the way.
pub(super) fn set(document: &mut DocumentMut, parts: &[&str], value: Value) -> Result<(), Error> {
    let no_table = |part: &str| Error::NoTable { key: parts.join("."), part: part.to_owned() };
    let Some((last, way)) = parts.split_last().filter(|(last, _)| !last.is_empty()) else {
        return Err(no_table(&parts.join(".")));
    };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut way = way.iter();
    while let Some(part) = way.next() {
        let item = table.entry(part).or_insert_with(|| match parts.len() {
            2 => Item::Table(Table::new()),
            // Within a table that is written in one line, too.
            _ => Item::Value(Value::InlineTable(InlineTable::new())),
        });
        table = if item.is_table_like() {
            item.as_table_like_mut().ok_or_else(|| no_table(part))?
        } else {
            let name = way.next().ok_or_else(|| no_table(part))?;
            named(item, name).ok_or_else(|| no_table(name))?
        };
    }
    assign(table, last, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# The edge.
[global]
log = { level = 'info' }   # enough

[[service]]
name = 'api'   # ours
panic_percent = 50
[[service.backend]]
address = '10.0.0.1:80'
weight = 5   # the large one
[[service.backend]]
address = '10.0.0.2:80'

[[service]]
name = 'short'
backend = [{ address = '10.0.1.1:80' }, { address = '[2001:db8::1]:80' }]

[[service]]
name = 'empty'
";

    fn changed(edits: &[Edit]) -> String {
        edits.iter().fold(TEXT.to_owned(), |text, one| edit(&text, one).unwrap())
    }

    fn weight(service: &str, backend: &str, weight: u16) -> Edit {
        Edit::SetWeight { service: service.into(), backend: backend.parse().unwrap(), weight }
    }

    fn remove(service: &str, backend: &str) -> Edit {
        Edit::RemoveBackend { service: service.into(), backend: backend.parse().unwrap() }
    }

    fn added(service: &str, address: &str, weight: Option<u16>) -> Edit {
        let address = address.parse().unwrap();
        let backend =
            NewBackend { address, weight, tier: None, max_requests: None, max_connections: None };
        Edit::AddBackend { service: service.into(), backend }
    }

    fn assign(key: &str, value: &str) -> Edit {
        Edit::Set { key: key.into(), value: value.into() }
    }

    #[test]
    fn what_is_not_changed_stays_to_the_letter() {
        let text = changed(&[weight("api", "10.0.0.1:80", 7)]);
        assert_eq!(text, TEXT.replace("weight = 5   # the", "weight = 7   # the"));
        let text = changed(&[weight("api", "10.0.0.2:80", 0)]);
        assert_eq!(text, TEXT.replace("'10.0.0.2:80'\n", "'10.0.0.2:80'\nweight = 0\n"));
        let text = changed(&[remove("api", "10.0.0.2:80")]);
        assert_eq!(text, TEXT.replace("[[service.backend]]\naddress = '10.0.0.2:80'\n", ""));
        let text = changed(&[assign("global.log.level", "debug")]);
        assert_eq!(text, TEXT.replace("'info'", "\"debug\""));
        let text = changed(&[assign("service.api.panic_percent", "0")]);
        assert_eq!(text, TEXT.replace("panic_percent = 50", "panic_percent = 0"));
    }

    #[test]
    fn backends_are_added_in_the_way_of_the_file() {
        let text = changed(&[
            added("api", "10.0.0.3:80", Some(2)),
            added("short", "10.0.1.2:80", None),
            added("empty", "10.0.2.1:80", None),
            remove("short", "[2001:db8::1]:80"),
            weight("short", "10.0.1.1:80", 9),
        ]);
        let expected = TEXT
            .replace(
                "'10.0.0.2:80'\n",
                "'10.0.0.2:80'\n[[service.backend]]\naddress = \"10.0.0.3:80\"\nweight = 2\n",
            )
            .replace(
                "[{ address = '10.0.1.1:80' }, { address = '[2001:db8::1]:80' }]",
                "[{ address = '10.0.1.1:80' , weight = 9 }, { address = \"10.0.1.2:80\" }]",
            );
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let end = "[[service.backend]]\naddress = \"10.0.2.1:80\"\n";
        assert_eq!(squeezed(&text), squeezed(&(expected + end)));
    }

    #[test]
    fn keys_that_were_not_there_are_made() {
        let text = changed(&[
            assign("global.drain", "\"5s\""),
            assign("service.empty.pool.max_idle", "3"),
            assign("guard.syn_rate", "100"),
        ]);
        let value: toml::Table = text.parse().unwrap();
        assert_eq!(value["global"]["drain"].as_str(), Some("5s"));
        assert_eq!(value["service"][2]["pool"]["max_idle"].as_integer(), Some(3));
        assert_eq!(value["guard"]["syn_rate"].as_integer(), Some(100));
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (wrong, expected) in [
            (weight("none", "10.0.0.1:80", 1), "no service \"none\""),
            (weight("api", "10.0.0.9:80", 1), "has no backend 10.0.0.9:80"),
            (remove("empty", "10.0.0.1:80"), "has no backend 10.0.0.1:80"),
            (added("api", "10.0.0.1:80", None), "a backend 10.0.0.1:80 already"),
            (assign("global.log.level.deep", "1"), "\"level\" is no table"),
            (assign("service.none.x", "1"), "\"none\" is no table"),
            (assign("", "1"), "is no table"),
        ] {
            let error = edit(TEXT, &wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
