//! HAProxy's grammar: lines of words, in sections.

use std::path::Path;
use std::sync::Arc;

use crate::import::Error;
use crate::import::remark::Place;

/// A line that says something.
#[derive(Clone, Debug)]
pub struct Line {
    /// At least one.
    pub words: Vec<String>,
    pub place: Place,
}

impl Line {
    /// Its words.
    pub fn all(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

/// A section: what it is and is called, and its lines.
#[derive(Debug)]
pub struct Section {
    pub head: Line,
    pub lines: Vec<Line>,
}

const SECTIONS: [&str; 18] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-list",
    "traces",
    "crt-store",
];

pub fn read(path: &Path) -> Result<Vec<Section>, Error> {
    let text = std::fs::read(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &String::from_utf8_lossy(&text))
}

/// Parses a file's text; `file` is for places.
///
/// # Errors
/// If a quote is open at a line's end, or there is something before the first section.
pub fn parse(file: &str, text: &str) -> Result<Vec<Section>, Error> {
    let file: Arc<str> = file.into();
    let mut sections: Vec<Section> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = Place { file: Arc::clone(&file), line: index + 1 };
        let wrong = |what: &str| Error::Syntax { place: place.clone(), what: what.into() };
        let words = words(line).map_err(wrong)?;
        let Some(first) = words.first() else { continue };
        if first.starts_with('.') {
            return Err(wrong("conditional blocks are not read: write the file that they make"));
        }
        let is_head = SECTIONS.contains(&first.as_str());
        let line = Line { words, place: place.clone() };
        match sections.last_mut() {
            _ if is_head => sections.push(Section { head: line, lines: Vec::new() }),
            Some(section) => section.lines.push(line),
            None => {
                return Err(wrong("a section must begin first: global, defaults, frontend, ..."));
            }
        }
    }
    Ok(sections)
}

fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '"' | '\'' => {
                let text = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or("this quote is not closed")? {
                        end if end == c => break,
                        '\\' if c == '"' => text.push(escaped(rest.next())),
                        inner => text.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push_str(&outside(rest.next())),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What a backslash in double quotes makes of the next character.
fn escaped(c: Option<char>) -> char {
    match c {
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some(c) => c,
        None => '\\',
    }
}

/// The same outside of quotes, where expressions keep theirs.
fn outside(c: Option<char>) -> String {
    match c {
        Some(c @ (' ' | '#' | '\\' | '"' | '\'')) => c.into(),
        Some('n') => "\n".into(),
        Some('r') => "\r".into(),
        Some('t') => "\t".into(),
        Some(c) => ['\\', c].iter().collect(),
        None => "\\".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_quotes_and_sections() {
        let text = "global # first\n  maxconn 5\nfrontend a b\n\n acl x path_reg ^/a\\.b 'c d' \"e\\\"f\" g\\ h\n";
        let sections = parse("h", text).unwrap();
        assert_eq!(sections[0].lines[0].words, ["maxconn", "5"]);
        assert_eq!(sections[1].head.words, ["frontend", "a", "b"]);
        let line = &sections[1].lines[0];
        assert_eq!(line.words, ["acl", "x", "path_reg", "^/a\\.b", "c d", "e\"f", "g h"]);
        assert_eq!(line.place.to_string(), "h:5");
    }

    #[test]
    fn what_is_no_file_of_its_kind_is_said_with_its_line() {
        for (text, said) in [
            ("\nmode http", "h:2: a section must begin first: global, defaults, frontend, ..."),
            ("global\n log \"x", "h:2: this quote is not closed"),
        ] {
            assert_eq!(parse("h", text).unwrap_err().to_string(), said);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z \"'\\\\#\n{}]{0,60}") {
            let _ = parse("h", &text);
        }

        #[test]
        fn every_line_is_where_its_words_are(empty in proptest::collection::vec(0..3_usize, 1..20)) {
            let mut text = "global\n".to_owned();
            for (number, empty) in empty.iter().enumerate() {
                text.push_str(&"\n# x\n".repeat(*empty));
                text.push_str(&format!(" key{number} 'a b'\n"));
            }
            for line in &parse("h", &text).unwrap()[0].lines {
                let at = text.lines().nth(line.place.line - 1).unwrap();
                prop_assert!(at.contains(&line.words[0]));
            }
        }
    }
}
