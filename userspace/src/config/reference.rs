//! `docs/configuration-reference.md`: each key of the schema once, with what it takes, its default, and
//! whether a reload suffices.
//!
//! What a key takes is what the schema's own errors say. Its default and meaning are those of the example in
//! `docs/configuration.md`, which is tried: with a key taken away that is not said to have another default,
//! the configuration must stay the same one. So the example can neither lack a key nor name a wrong default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike};

use super::keys::{self, About, Found};
use super::model::Model;
use super::plan::is_fixed;
use super::schema_json::{fields, is_integer};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration-reference.md");

const EXAMPLE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));

/// Tables that have the keys of another one, which is described.
const ALIKE: [(&str, &str); 3] = [
    ("listener.guard", "guard"),
    ("vip.guard", "guard"),
    ("service.probe.tls", "service.upstream_tls"),
];

/// What the example says of a key.
#[derive(Clone, Default)]
struct Said {
    value: String,
    comment: String,
    /// Whether it is a comment as a whole.
    is_aside: bool,
    /// All that is said of it, wherever.
    mentions: String,
}

struct Row {
    key: String,
    takes: String,
    default: String,
    meaning: String,
}

#[test]
fn the_reference_is_what_the_schema_and_the_example_say() {
    let rows = rows().unwrap_or_else(|wrong| panic!("docs/configuration.md: {wrong:#?}"));
    let mut page = String::from(
        "# Every key of the configuration\n\nMade of the schema and the example in [configuration.md](configuration.md), \
         which explains more; a test\nholds the three together. Elements of lists (`listener`, `route`, `vip`, `service`, \
         `backend`) have no part in\nkeys' names. A reload takes every key but those marked *restart* \
         ([operations.md](operations.md#another-configuration)). `steerage config schema`\nprints a JSON schema for \
         editors.\n",
    );
    let mut section = String::new();
    for row in &rows {
        let (table, key) = row.key.rsplit_once('.').unwrap_or(("", &row.key));
        if section != table {
            let _ =
                write!(page, "\n## `{table}`\n\n| key | takes | default | |\n|---|---|---|---|\n");
            table.clone_into(&mut section);
        }
        let restart = row.key.strip_prefix("global.").is_some_and(is_fixed);
        let meaning =
            if restart { format!("*restart* {}", row.meaning) } else { row.meaning.clone() };
        let (takes, default) = (&row.takes, &row.default);
        let _ = writeln!(
            page,
            "| `{key}` | {} | {} | {} |",
            cell(takes),
            cell(default),
            cell(meaning.trim())
        );
    }
    if std::env::var_os("STEERAGE_BLESS").is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let known = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(known == page, "{PAGE} is not this any more; STEERAGE_BLESS=1 writes it:\n{page}");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn example() -> &'static str {
    let block = EXAMPLE.split("```toml\n").nth(1).unwrap();
    block.split("```").next().unwrap()
}

fn rows() -> Result<Vec<Row>, Vec<String>> {
    let mut leaves = Vec::new();
    walk(&mut Vec::new(), &mut leaves);
    let said = said();
    let document: DocumentMut = example().parse().unwrap();
    let whole = model(&document);
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for (key, about) in leaves {
        if let Some((_, other)) = ALIKE.iter().find(|(table, _)| key == *table) {
            let takes = "a table".to_owned();
            let default = "as the other".to_owned();
            rows.push(Row { key, takes, default, meaning: format!("keys as those of `{other}`") });
            continue;
        }
        let known = lookup(&said, &key);
        let Some(known) = known else {
            wrong.push(format!("{key} is not there"));
            continue;
        };
        match default(&key, &known, &document, &whole) {
            Ok(default) => {
                rows.push(Row {
                    takes: takes(&about),
                    default,
                    meaning: meaning(&known.comment),
                    key,
                });
            }
            Err(why) => wrong.push(why),
        }
    }
    // Tables before the tables within them.
    rows.sort_by_key(|row| {
        row.key.rsplit_once('.').map_or(String::new(), |(table, _)| table.into())
    });
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

/// All keys without keys of their own.
fn walk(way: &mut Vec<&'static str>, leaves: &mut Vec<(String, About)>) {
    let key = way.join(".");
    let inner = fields(way);
    let is_alike = ALIKE.iter().any(|(table, _)| key == *table);
    if way.is_empty() || (!inner.is_empty() && !is_alike) {
        for field in inner {
            way.push(field);
            walk(way, leaves);
            way.pop();
        }
        return;
    }
    let (found, mut about) = keys::describe(way);
    if found == Found::List {
        about.expects = format!("list of: {}", takes(&about));
        about.choices = &[];
    }
    leaves.push((key, about));
}

fn takes(about: &About) -> String {
    if !about.choices.is_empty() {
        return about
            .choices
            .iter()
            .map(|choice| format!("`{choice}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match about.expects.as_str() {
        "" => "a table".into(),
        text if is_integer(text) => "a number".into(),
        text if text.starts_with("a time ") => "a time, as `\"2s\"`".into(),
        "f64" => "a number, as `0.5`".into(),
        text => text.to_owned(),
    }
}

/// A comment without what it says of the default.
fn meaning(comment: &str) -> String {
    let text = match comment.split_once("default: ") {
        Some((before, _)) => before.trim_end_matches([' ', ';']).to_owned(),
        None => comment.to_owned(),
    };
    if text == "likewise" { String::new() } else { text }
}

/// The default: what the comment says, or the value, if taking the key away changes nothing.
fn default(
    key: &str,
    said: &Said,
    document: &DocumentMut,
    whole: &Model,
) -> Result<String, String> {
    let of_comment = said.comment.split_once("default: ").map(|(_, text)| text.to_owned());
    let is_none = || Ok("none".to_owned());
    let mut without = document.clone();
    let way: Vec<&str> = key.split('.').collect();
    if said.is_aside || !remove(without.as_table_mut(), &way) {
        return of_comment.map_or_else(is_none, Ok);
    }
    let changed = super::parse(Path::new("steerage.toml"), &without.to_string());
    match (changed, of_comment) {
        (_, Some(default)) => Ok(default),
        (Err(_), None) => Ok("must be there".into()),
        (Ok(model), None) if unplaced(model.clone()) == *whole => Ok(format!("`{}`", said.value)),
        (Ok(_), None) => {
            Err(format!("{key} = {}: this is no default, and the comment names none", said.value))
        }
    }
}

fn model(document: &DocumentMut) -> Model {
    // Of TLS the files would be needed; nothing else of the example is a file's name.
    unplaced(super::parse(Path::new("steerage.toml"), &document.to_string()).unwrap())
}

/// Lines of the file are no part of what it says.
fn unplaced(mut model: Model) -> Model {
    for listener in &mut model.listeners {
        listener.routes.iter_mut().for_each(|route| route.line = 0);
        for route in listener.streams.iter_mut().flat_map(|streams| &mut streams.routes) {
            route.line = 0;
        }
    }
    model
}

/// Takes a key away, in the first of each list's elements that has it.
fn remove(table: &mut dyn TableLike, way: &[&str]) -> bool {
    let [first, rest @ ..] = way else { return false };
    if rest.is_empty() {
        return table.remove(first).is_some();
    }
    match table.get_mut(first) {
        Some(Item::ArrayOfTables(list)) => list.iter_mut().any(|inner| remove(inner, rest)),
        Some(item) => item.as_table_like_mut().is_some_and(|inner| remove(inner, rest)),
        None => false,
    }
}

fn lookup(said: &BTreeMap<String, Said>, key: &str) -> Option<Said> {
    said.get(key).cloned().or_else(|| {
        // A key of a table that is shown as one value.
        let (table, name) = key.rsplit_once('.')?;
        let parent = lookup(said, table)?;
        parent.mentions.contains(name).then_some(Said {
            is_aside: true,
            value: String::new(),
            ..parent
        })
    })
}

/// What the example says of each key, those that are comments too.
fn said() -> BTreeMap<String, Said> {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    let mut table = String::new();
    let mut last: Vec<String> = Vec::new();
    let text = example().replace("\\\n#", "");
    for line in text.lines() {
        let (code, is_aside) = match line.strip_prefix("# ") {
            Some(code) if code.contains(" = ") || code.starts_with('[') => (code, true),
            _ => (line, false),
        };
        let (code, comment) = code.split_once(" # ").unwrap_or((code, ""));
        let comment = comment.trim();
        if code.trim().is_empty() || code.starts_with('#') {
            let more = line.trim().trim_start_matches('#').trim();
            for key in &last {
                if let Some(said) = all.get_mut(key) {
                    said.comment = format!("{} {more}", said.comment).trim().to_owned();
                }
            }
            continue;
        }
        if let Some(name) = code.trim().strip_prefix('[') {
            let name = name.trim_matches(['[', ']']).to_owned();
            last.clear();
            if is_aside {
                let entry = Said { comment: comment.to_owned(), is_aside, ..Said::default() };
                all.entry(name).or_insert(entry);
            } else {
                table = name;
            }
            continue;
        }
        let Some((key, value)) = code.split_once(" = ") else { continue };
        let key = format!("{table}.{}", key.trim());
        let value = value.trim();
        last = vec![key.clone()];
        let mentions = format!("{value} {comment} ");
        let entry =
            Said { value: value.to_owned(), comment: comment.to_owned(), is_aside, mentions };
        if let Ok(inner) = format!("x = {value}").parse::<DocumentMut>()
            && let Some(inline) = inner["x"].as_inline_table()
        {
            for (name, value) in inline {
                let value = value.clone().decorated("", "").to_string();
                let inner = Said { value, ..entry.clone() };
                let name = format!("{key}.{name}");
                last.push(name.clone());
                all.entry(name).or_insert(inner);
            }
        }
        let known =
            all.entry(key).or_insert_with(|| Said { mentions: String::new(), ..entry.clone() });
        known.mentions.push_str(&entry.mentions);
    }
    all
}
