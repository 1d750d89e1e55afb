//! A configuration in the making, and how it is written.

use std::fmt::{self, Write as _};

use toml_edit::{InlineTable, Value};

use super::remark::{Remark, Weight};

/// A table: its keys in the order in which they were set, below what is to be said of it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    keys: InlineTable,
    remarks: Vec<Remark>,
}

impl Table {
    /// Gives a key a value; `way` leads to it through tables.
    pub fn set(&mut self, way: &[&str], value: impl Into<Value>) {
        let Some((key, tables)) = way.split_last() else { return };
        let mut table = &mut self.keys;
        for part in tables {
            let next = table.get_or_insert(*part, InlineTable::new());
            if !next.is_inline_table() {
                *next = InlineTable::new().into();
            }
            match next.as_inline_table_mut() {
                Some(next) => table = next,
                None => return,
            }
        }
        table.insert(*key, value.into());
    }

    /// Adds an element to a list.
    pub fn push(&mut self, way: &[&str], value: impl Into<Value>) {
        let mut list = match self.get(way) {
            Some(Value::Array(list)) => list.clone(),
            _ => toml_edit::Array::new(),
        };
        list.push(value);
        self.set(way, list);
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, way: &[&str]) -> Option<&Value> {
        let (key, tables) = way.split_last()?;
        let mut table = &self.keys;
        for part in tables {
            table = table.get(part)?.as_inline_table()?;
        }
        table.get(key)
    }

    /// Whether the key has a value.
    #[must_use]
    pub fn has(&self, way: &[&str]) -> bool {
        self.get(way).is_some()
    }

    /// Says something of this table.
    pub fn remark(&mut self, remark: Remark) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Takes over the keys and remarks of another; its keys win.
    pub fn merge(&mut self, other: &Self) {
        for (key, value) in &other.keys {
            self.keys.insert(key, value.clone());
        }
        for remark in &other.remarks {
            self.remark(remark.clone());
        }
    }

    /// What is said of it.
    #[must_use]
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// Whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.remarks.is_empty()
    }
}

/// A listener with its routes.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Its own keys.
    pub table: Table,
    /// Its routes.
    pub routes: Vec<Table>,
}

/// A service with its backends.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Its own keys.
    pub table: Table,
    /// Its backends.
    pub backends: Vec<Table>,
}

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// `[global]`.
    pub global: Table,
    /// `[[listener]]`.
    pub listeners: Vec<Listener>,
    /// `[[service]]`.
    pub services: Vec<Service>,
    /// What belongs nowhere.
    pub rest: Table,
}

impl Service {
    /// Whether there is a backend at this address.
    #[must_use]
    pub fn has(&self, address: &str) -> bool {
        let is_it =
            |backend: &Table| backend.get(&["address"]).and_then(Value::as_str) == Some(address);
        self.backends.iter().any(is_it)
    }
}

impl Draft {
    /// A name for a listener that no other one has.
    #[must_use]
    pub fn listener_name(&self, wanted: &str) -> String {
        let is_taken = |name: &str| {
            let named = |l: &Listener| l.table.get(&["name"]).and_then(Value::as_str) == Some(name);
            self.listeners.iter().any(named)
        };
        let others = (2..).map(|number| format!("{wanted}-{number}"));
        std::iter::once(wanted.to_owned())
            .chain(others)
            .find(|name| !is_taken(name))
            .unwrap_or_default()
    }

    /// All remarks, each once, by their places.
    #[must_use]
    pub fn remarks(&self) -> Vec<Remark> {
        let mut all: Vec<Remark> = Vec::new();
        for table in self.tables() {
            for remark in table.remarks() {
                if !all.contains(remark) {
                    all.push(remark.clone());
                }
            }
        }
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        let listeners = self.listeners.iter().flat_map(|l| [&l.table].into_iter().chain(&l.routes));
        let services = self.services.iter().flat_map(|s| [&s.table].into_iter().chain(&s.backends));
        [&self.global].into_iter().chain(listeners).chain(services).chain([&self.rest])
    }

    /// The file's text, with remarks where they belong, each once.
    #[must_use]
    pub fn text(&self) -> String {
        let mut writer = Writer::default();
        if !self.global.is_empty() {
            writer.table("[global]", &self.global);
        }
        for listener in &self.listeners {
            writer.table("[[listener]]", &listener.table);
            for route in &listener.routes {
                writer.table("[[listener.route]]", route);
            }
        }
        for service in &self.services {
            writer.table("[[service]]", &service.table);
            for backend in &service.backends {
                writer.table("[[service.backend]]", backend);
            }
        }
        writer.remarks(&self.rest);
        writer.text
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    written: Vec<Remark>,
}

impl Writer {
    fn table(&mut self, header: &str, table: &Table) {
        let begins = !header.contains('.');
        if begins && !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "{header}");
        self.remarks(table);
        let _ = write!(self.text, "{}", Keys(&table.keys));
    }

    fn remarks(&mut self, table: &Table) {
        for remark in &table.remarks {
            // Nobody who reads the file later asks what it does not need.
            if remark.weight != Weight::Unneeded && !self.written.contains(remark) {
                let _ = writeln!(self.text, "# {remark}");
                self.written.push(remark.clone());
            }
        }
    }
}

struct Keys<'a>(&'a InlineTable);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in self.0 {
            let value = value.clone().decorated("", "");
            writeln!(f, "{} = {value}", toml_edit::Key::new(key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::remark::Place;

    #[test]
    fn tables_keep_the_order_of_their_keys_and_say_a_remark_once() {
        let place = Place { file: "a.conf".into(), line: 3 };
        let remark = Remark::new(&place, &["gzip", "on"], Weight::LeftOut, "nothing is compressed");
        let mut draft = Draft::default();
        draft.global.remark(remark.clone());
        draft.global.set(&["workers"], 2);
        let mut listener = Listener::default();
        listener.table.remark(remark.clone());
        listener.table.set(&["name"], "web");
        listener.table.set(&["timeouts", "idle"], "5s");
        listener.table.set(&["timeouts", "stall"], "6s");
        listener.table.push(&["bind"], "0.0.0.0:80");
        listener.table.push(&["bind"], "[::]:80");
        let mut route = Table::default();
        route.set(&["request_headers", "set", "X a"], "\"1\\");
        listener.routes.push(route);
        draft.listeners.push(listener);
        assert_eq!(
            draft.text(),
            "[global]\n# a.conf:3: gzip on: left out: nothing is compressed\nworkers = 2\n\n\
             [[listener]]\nname = \"web\"\ntimeouts = { idle = \"5s\", stall = \"6s\" }\n\
             bind = [\"0.0.0.0:80\", \"[::]:80\"]\n\
             [[listener.route]]\nrequest_headers = { set = { \"X a\" = '\"1\\' } }\n"
        );
        assert_eq!(draft.remarks(), [remark]);
    }
}
