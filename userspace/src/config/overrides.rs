//! Values that the command line (`--set a.b=c`) and the environment (`STEERAGE_A_B=c`) put in the place of
//! the file's.
//!
//! They are edits of the file's text before it is parsed, so that they are under the same rules. The
//! environment comes first, the command line after it: file < environment < `--set`. They hold for
//! every text that this process takes, whoever changed it.
//!
//! A variable's name has no dots: its parts are put together in every way that makes a key of the schema
//! and, in lists, a name of an element. Whatever is no part of the first table's name is nobody's: other
//! programs have variables too.

use std::fmt;

use toml_edit::{DocumentMut, Item, TableLike, Value};

use super::edit;
use super::keys::{self, Found};

/// First part of the names of variables.
const PREFIX: &str = "STEERAGE_";

/// Tables of the file; a variable that begins with none of them is not ours.
const TABLES: [&str; 5] = ["global", "guard", "listener", "vip", "service"];

/// What Kubernetes sets in every container beside a Service that is called `steerage`.
const OF_KUBERNETES: [&str; 2] = ["service_host", "service_port"];

/// Values that hold whatever the file says, the last of a key's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Override {
    source: Source,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// `--set`, with its key.
    Option(String),
    /// A variable, with its name.
    Variable(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(key) => write!(f, "--set {key}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// Why an override can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {why}")]
pub struct Error {
    /// The option or the variable.
    pub source_name: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Overrides {
    /// Those of the environment, then those of the command line, as `KEY=VALUE`.
    ///
    /// # Errors
    /// If an option has no `=`.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        options: &[String],
    ) -> Result<Self, Error> {
        let is_ours = |name: &str| {
            let rest = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
            let begins = |with: &str| {
                rest.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            };
            TABLES.into_iter().any(begins) && !OF_KUBERNETES.into_iter().any(begins)
        };
        let mut variables: Vec<(String, String)> =
            environment.into_iter().filter(|(name, _)| is_ours(name)).collect();
        variables.sort();
        let variable = |(name, value)| Override { source: Source::Variable(name), value };
        let mut all: Vec<Override> = variables.into_iter().map(variable).collect();
        for option in options {
            let (key, value) = option.split_once('=').ok_or_else(|| Error {
                source_name: format!("--set {option}"),
                why: "is not KEY=VALUE; write --set global.drain=5s".into(),
            })?;
            let source = Source::Option(key.trim().to_owned());
            all.push(Override { source, value: value.trim().to_owned() });
        }
        Ok(Self(all))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The arguments that make another process's the same, beside the environment that it inherits.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|one| match &one.source {
            Source::Option(key) => Some(format!("--set={key}={}", one.value)),
            Source::Variable(_) => None,
        })
    }

    /// The text with the first `count` of the values in it.
    ///
    /// # Errors
    /// If one names a key that is not there, or the text is no TOML.
    pub(super) fn apply(&self, text: &str, count: usize) -> Result<String, ApplyError> {
        let mut document: DocumentMut = text.parse().map_err(|_| ApplyError::Text)?;
        for one in self.0.iter().take(count) {
            let failed = |why| Error { source_name: one.source.to_string(), why };
            let way = match &one.source {
                Source::Option(key) => key.split('.').map(str::to_owned).collect(),
                Source::Variable(name) => way_of(&document, name).map_err(failed)?,
            };
            let parts: Vec<&str> = way.iter().map(String::as_str).collect();
            let value = value_of(&parts, &one.value).map_err(failed)?;
            let set = edit::set(&mut document, &parts, value);
            set.map_err(|error| failed(error.to_string()))?;
        }
        Ok(document.to_string())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// An error of the value that is at `index`.
    pub(super) fn error(&self, index: usize, why: impl Into<String>) -> Error {
        let source_name = self
            .0
            .get(index)
            .map_or_else(String::new, |one| format!("{}={}", one.source, one.value));
        Error { source_name, why: why.into() }
    }
}

/// Why the text has no overrides in it.
#[derive(Debug)]
pub(super) enum ApplyError {
    /// It is no TOML.
    Text,
    /// One of them is wrong.
    Override(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Override(error)
    }
}

/// The value as its key wants it: what stands without quotes for a text is one.
fn value_of(parts: &[&str], value: &str) -> Result<Value, String> {
    let text = || match value.parse::<Value>() {
        Ok(quoted) if quoted.is_str() => quoted,
        _ => Value::from(value),
    };
    match keys::find(&schema_way(parts)) {
        Found::Text => Ok(text()),
        Found::Value | Found::List | Found::Table(_) => {
            Ok(value.parse().unwrap_or_else(|_| Value::from(value)))
        }
        Found::Nothing(depth, keys) => {
            let part = schema_way(parts).get(depth).copied().unwrap_or_default();
            Err(match keys {
                [] => format!("there is no key {part:?} in what is no table"),
                keys => format!("there is no key {part:?}; there are {}", keys.join(", ")),
            })
        }
    }
}

/// The way without the names of elements.
fn schema_way<'a>(parts: &[&'a str]) -> Vec<&'a str> {
    let is_list = parts.first().is_some_and(|first| keys::find(&[first]) == Found::List);
    let is_name = |at: usize| is_list && at == 1;
    parts.iter().enumerate().filter(|(at, _)| !is_name(*at)).map(|(_, part)| *part).collect()
}

/// The key that a variable names.
fn way_of(document: &DocumentMut, variable: &str) -> Result<Vec<String>, String> {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase();
    let tokens: Vec<&str> = name.split('_').collect();
    let mut ways = Vec::new();
    if let Some((table, rest)) = tokens.split_first() {
        if keys::find(&[table]) == Found::List {
            for element in names(document, table) {
                let plain = plain(&element);
                let parts: Vec<&str> = plain.split('_').collect();
                if let Some(rest) = rest.strip_prefix(&parts[..]) {
                    let begun = vec![(*table).to_owned(), element];
                    extend(&[table], begun, rest, &mut ways);
                }
            }
        } else {
            extend(&[table], vec![(*table).to_owned()], rest, &mut ways);
        }
    }
    match <[Vec<String>; 1]>::try_from(ways) {
        Ok([way]) => Ok(way),
        Err(ways) if ways.is_empty() => Err(format!(
            "no key has this name; `global.log.level` is {PREFIX}GLOBAL_LOG_LEVEL, and in a list the \
             element's name follows: {PREFIX}SERVICE_API_BALANCE"
        )),
        Err(ways) => {
            let all: Vec<String> = ways.iter().map(|way| way.join(".")).collect();
            Err(format!("may be any of {}; use --set instead", all.join(", ")))
        }
    }
}

/// All keys that `rest` may name below `begun`; `way` is the same without names of elements.
fn extend(way: &[&str], begun: Vec<String>, rest: &[&str], found: &mut Vec<Vec<String>>) {
    for take in 1..=rest.len() {
        let part = rest[..take].join("_");
        let mut longer = way.to_vec();
        longer.push(&part);
        let mut parts = begun.clone();
        parts.push(part.clone());
        match keys::find(&longer) {
            Found::Nothing(..) => {}
            _ if take == rest.len() => found.push(parts),
            Found::Table(_) | Found::Value => extend(&longer, parts, &rest[take..], found),
            Found::Text | Found::List => {}
        }
    }
}

/// The names of a list's elements.
fn names(document: &DocumentMut, list: &str) -> Vec<String> {
    let name = |table: &dyn TableLike| table.get("name").and_then(Item::as_str).map(str::to_owned);
    match document.get(list) {
        Some(Item::ArrayOfTables(tables)) => tables.iter().filter_map(|t| name(t)).collect(),
        Some(Item::Value(Value::Array(array))) => {
            array.iter().filter_map(|value| name(value.as_inline_table()?)).collect()
        }
        _ => Vec::new(),
    }
}

/// A name as it can stand in a variable's.
fn plain(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Model};

    const TEXT: &str = "\
[global]
drain = '30s'   # ours
[[listener]]
name = 'web'
bind = ['127.0.0.1:80']
protocol = 'http'
[[listener.route]]
service = 'api'
[[service]]
name = 'api'
balance = 'random'
[[service]]
name = 'api-v2'
";

    fn taken(environment: &[(&str, &str)], options: &[&str]) -> Result<Model, config::Error> {
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let overrides = Overrides::new(environment, &options)?;
        let source = config::Source { path: Path::new("t.toml").to_owned(), overrides };
        source.parse(TEXT)
    }

    fn wrong(environment: &[(&str, &str)], options: &[&str]) -> String {
        taken(environment, options).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_has_the_last_word_and_the_file_the_first() {
        let drain = |environment: &[(&str, &str)], options: &[&str]| {
            taken(environment, options).unwrap().global.drain.as_secs()
        };
        let variable = [("STEERAGE_GLOBAL_DRAIN", "20s")];
        assert_eq!(drain(&[], &[]), 30);
        assert_eq!(drain(&variable, &[]), 20);
        assert_eq!(drain(&variable, &["global.drain=10s"]), 10);
        assert_eq!(drain(&variable, &["global.drain=10s", "global.drain='5s'"]), 5);
    }

    #[test]
    fn keys_of_every_table_can_be_named_in_both_ways() {
        let model = taken(
            &[
                ("STEERAGE_GLOBAL_MAX_CONNECTIONS", "7000"),
                ("STEERAGE_GLOBAL_HASH_SEED", "1234"),
                ("STEERAGE_SERVICE_API_V2_PANIC_PERCENT", "7"),
                ("STEERAGE_SERVICE_API_POOL_MAX_IDLE", "3"),
                ("STEERAGE_LISTENER_WEB_TIMEOUTS_HEADER_READ", "4s"),
                ("STEERAGE_BIN", "/not/ours"),
                ("STEERAGE_SERVICE_HOST", "10.96.0.7"),
                ("STEERAGE_SERVICE_PORT_HTTP", "80"),
                ("HOME", "/root"),
            ],
            &[
                "global.log.level=debug",
                "listener.web.timeouts.idle=5s",
                "service.api.balance=round_robin",
                "global.trusted_proxies=['10.0.0.0/8']",
                "service.api-v2.probe.kind=tcp",
            ],
        )
        .unwrap();
        assert_eq!(model.global.max_connections, 7000);
        assert_eq!(model.global.hash_seed.as_deref(), Some("1234"));
        assert_eq!(model.services[1].panic_percent, 7);
        assert_eq!(model.services[0].pool.max_idle, 3);
        let timeouts = model.listeners[0].timeouts;
        assert_eq!((timeouts.header_read.as_secs(), timeouts.idle.as_secs()), (4, 5));
        assert_eq!(model.services[0].balance, config::model::Balance::RoundRobin);
        assert_eq!(model.global.trusted_proxies.len(), 1);
        assert!(model.services[1].probe.is_some());
    }

    #[test]
    fn what_is_wrong_is_said_of_the_option_and_not_of_the_file() {
        for (options, expected) in [
            (
                "global.drian=5s",
                "--set global.drian: there is no key \"drian\"; there are instance",
            ),
            ("global.drain.long=5s", "--set global.drain.long: there is no key \"long\""),
            ("service.none.balance=random", "--set service.none.balance: "),
            ("global.drain", "--set global.drain: is not KEY=VALUE"),
            ("global.drain=soon", "--set global.drain=soon: "),
            ("listener.web.bind=['nowhere']", "--set listener.web.bind=['nowhere']: "),
            ("listener.web.route=[]", "--set listener.web.route=[]: "),
        ] {
            let told = wrong(&[], &[options]);
            assert!(told.starts_with(expected), "{told}");
        }
        let told = wrong(&[("STEERAGE_GLOBAL_DRIAN", "5s")], &[]);
        assert!(told.starts_with("STEERAGE_GLOBAL_DRIAN: no key has this name"), "{told}");
        let told = wrong(&[("STEERAGE_GLOBAL_DRAIN", "soon")], &[]);
        assert!(told.starts_with("STEERAGE_GLOBAL_DRAIN=soon: "), "{told}");
    }

    #[test]
    fn the_files_own_mistakes_keep_their_lines() {
        let overrides = Overrides::new([], &["global.watch=false".into()]).unwrap();
        let source = config::Source { path: Path::new("t.toml").to_owned(), overrides };
        let text = TEXT.replace("'random'", "'best'");
        let told = source.parse(&text).unwrap_err().to_string();
        assert!(told.starts_with("t.toml:11:"), "{told}");
        let told = source.parse("[global").unwrap_err().to_string();
        assert!(told.starts_with("t.toml:1:"), "{told}");
        // Unless they are overridden.
        let overrides = Overrides::new([], &["service.api.balance=random".into()]).unwrap();
        let source = config::Source { overrides, ..source };
        assert!(source.parse(&text).is_ok());
    }

    #[test]
    fn another_process_gets_the_same() {
        let options = ["global.drain=5s".to_owned(), "service.api.balance=random".to_owned()];
        let overrides = Overrides::new([], &options).unwrap();
        let arguments: Vec<String> = overrides.arguments().collect();
        assert_eq!(arguments, ["--set=global.drain=5s", "--set=service.api.balance=random"]);
    }
}
