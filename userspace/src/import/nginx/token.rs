//! nginx's grammar: words, blocks, semicolons, and files that are included.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::import::Error;
use crate::import::remark::Place;

/// Files within files.
const DEPTH_MAX: usize = 16;

/// A directive: its words, and what is in its braces.
#[derive(Debug)]
pub struct Directive {
    /// Its name first; there is one at least.
    pub words: Vec<String>,
    /// `None` for one that ends by a semicolon.
    pub block: Option<Vec<Directive>>,
    /// Where its first word is.
    pub place: Place,
}

impl Directive {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words after its name.
    #[must_use]
    pub fn arguments(&self) -> Vec<&str> {
        self.words.iter().skip(1).map(String::as_str).collect()
    }

    /// All its words.
    #[must_use]
    pub fn all(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

/// Reads a file and those that it includes.
///
/// # Errors
/// If one can't be read, or is none of nginx's.
pub fn read(path: &Path) -> Result<Vec<Directive>, Error> {
    let directory = path.parent().unwrap_or(Path::new(""));
    read_at(path, directory, 0)
}

fn read_at(path: &Path, directory: &Path, depth: usize) -> Result<Vec<Directive>, Error> {
    let text = std::fs::read(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let directives = parse(&path.display().to_string(), &String::from_utf8_lossy(&text))?;
    include(directives, directory, depth)
}

/// Puts the files in the place of the directives that name them.
fn include(
    directives: Vec<Directive>,
    directory: &Path,
    depth: usize,
) -> Result<Vec<Directive>, Error> {
    let mut all = Vec::with_capacity(directives.len());
    for mut directive in directives {
        match directive.arguments().as_slice() {
            [pattern] if directive.name() == "include" && directive.block.is_none() => {
                if depth >= DEPTH_MAX {
                    let what = format!("more than {DEPTH_MAX} files include one another");
                    return Err(Error::Syntax { place: directive.place, what });
                }
                // Types of files are nobody's business here.
                if pattern.ends_with("mime.types") {
                    continue;
                }
                for file in named(&directory.join(pattern)) {
                    all.extend(read_at(&file, directory, depth + 1)?);
                }
            }
            _ => {
                if let Some(block) = directive.block.take() {
                    directive.block = Some(include(block, directory, depth)?);
                }
                all.push(directive);
            }
        }
    }
    Ok(all)
}

/// The files that a pattern names: `*` and `?` in any of its parts, in the order of their names. One
/// without these is a file in any case.
fn named(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        let text = part.to_string_lossy();
        if !text.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut below = Vec::new();
        for path in &found {
            let Ok(entries) = std::fs::read_dir(path) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let is_hidden = name.to_string_lossy().starts_with('.') && !text.starts_with('.');
                if !is_hidden && fits(text.as_bytes(), name.to_string_lossy().as_bytes()) {
                    below.push(entry.path());
                }
            }
        }
        below.sort();
        found = below;
    }
    found
}

/// Whether a name fits a pattern of `*`, `?` and characters.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| fits(rest, &name[skipped..])),
        (Some((b'?', rest)), Some((_, name))) => fits(rest, name),
        (Some((a, rest)), Some((b, name))) => a == b && fits(rest, name),
        _ => false,
    }
}

enum Token {
    Word(String),
    Begin,
    End,
    Semicolon,
}

/// Parses a file's text; `file` is for places.
///
/// # Errors
/// If braces or quotes are open at the end, or a directive is none.
pub fn parse(file: &str, text: &str) -> Result<Vec<Directive>, Error> {
    let file: Arc<str> = file.into();
    let place = |line| Place { file: Arc::clone(&file), line };
    // Blocks that are open: the directive of each, and what came before it.
    let mut open: Vec<(Vec<String>, usize, Vec<Directive>)> = Vec::new();
    let (mut directives, mut words, mut first) = (Vec::new(), Vec::new(), 1);
    let mut tokens = Tokens { rest: text.chars().peekable(), line: 1 };
    let wrong = |line, what: &str| Err(Error::Syntax { place: place(line), what: what.into() });
    loop {
        let (line, token) = match tokens.next_token() {
            Ok(Some(token)) => token,
            Ok(None) => break,
            Err((line, what)) => return wrong(line, what),
        };
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    first = line;
                }
                words.push(word);
            }
            Token::Semicolon | Token::Begin if words.is_empty() => {
                return wrong(line, "a directive is expected here");
            }
            Token::Semicolon => {
                let words = std::mem::take(&mut words);
                directives.push(Directive { words, block: None, place: place(first) });
            }
            Token::Begin => {
                open.push((std::mem::take(&mut words), first, std::mem::take(&mut directives)));
            }
            Token::End if !words.is_empty() => return wrong(line, "a ';' is missing before this"),
            Token::End => {
                let Some((words, first, before)) = open.pop() else {
                    return wrong(line, "this '}' closes nothing");
                };
                let block = Some(std::mem::replace(&mut directives, before));
                directives.push(Directive { words, block, place: place(first) });
            }
        }
    }
    match open.last() {
        Some((_, line, _)) => wrong(*line, "its '{' is not closed"),
        None if !words.is_empty() => wrong(first, "its ';' is missing"),
        None => Ok(directives),
    }
}

struct Tokens<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Tokens<'_> {
    fn advance(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// The next token with its line.
    fn next_token(&mut self) -> Result<Option<(usize, Token)>, (usize, &'static str)> {
        loop {
            let line = self.line;
            let token = match self.advance() {
                None => return Ok(None),
                Some(c) if c.is_whitespace() => continue,
                Some('#') => {
                    while self.advance().is_some_and(|c| c != '\n') {}
                    continue;
                }
                Some(';') => Token::Semicolon,
                Some('{') => Token::Begin,
                Some('}') => Token::End,
                Some(quote @ ('"' | '\'')) => {
                    Token::Word(self.quoted(quote).ok_or((line, "this quote is not closed"))?)
                }
                Some(first) => Token::Word(self.word(first)),
            };
            return Ok(Some((line, token)));
        }
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.advance()? {
                '\\' => self.escaped(&mut text),
                c if c == quote => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn word(&mut self, first: char) -> String {
        let mut text = String::new();
        if first == '\\' {
            self.escaped(&mut text);
        } else {
            text.push(first);
        }
        while let Some(next) = self.rest.peek() {
            match next {
                // `${name}` is one word with what surrounds it.
                '{' if text.ends_with('$') => {
                    while let Some(c) = self.advance() {
                        text.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                }
                c if c.is_whitespace() || ";{".contains(*c) => break,
                '\\' => {
                    self.advance();
                    self.escaped(&mut text);
                }
                _ => text.extend(self.advance()),
            }
        }
        text
    }

    /// What a backslash makes of the next character, as nginx has it.
    fn escaped(&mut self, text: &mut String) {
        match self.advance() {
            Some(c @ ('"' | '\'' | '\\')) => text.push(c),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('n') => text.push('\n'),
            Some(c) => text.extend(['\\', c]),
            None => text.push('\\'),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_quotes_and_blocks() {
        let text = "# first\nuser  a; http {\n  map $x ${y}z { 'a b' \"c\\\"d\"; }\n}\nlocation ~ \\.php$ {}";
        let all = parse("n", text).unwrap();
        let lines: Vec<_> = all.iter().map(|d| (d.place.line, d.words.join("|"))).collect();
        assert_eq!(
            lines,
            [(2, "user|a".into()), (2, "http".into()), (5, "location|~|\\.php$".into())]
        );
        let map = &all[1].block.as_ref().unwrap()[0];
        assert_eq!((map.place.line, map.words.join("|")), (3, "map|$x|${y}z".into()));
        assert_eq!(map.block.as_ref().unwrap()[0].words, ["a b", "c\"d"]);
    }

    #[test]
    fn what_is_not_closed_is_said_with_its_line() {
        for (text, said) in [
            ("a;\nhttp {\n b;", "n:2: its '{' is not closed"),
            ("a;\n}", "n:2: this '}' closes nothing"),
            ("a 'b;\n", "n:1: this quote is not closed"),
            ("\na", "n:2: its ';' is missing"),
            ("a { b }", "n:1: a ';' is missing before this"),
            (";", "n:1: a directive is expected here"),
        ] {
            assert_eq!(parse("n", text).unwrap_err().to_string(), said, "{text}");
        }
    }

    #[test]
    fn patterns_name_files() {
        for (pattern, name, is_match) in [
            ("*.conf", "a.conf", true),
            ("*", "x", true),
            ("a?c", "abc", true),
            ("*.conf", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), is_match, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z {};\"'\\\\#$\n]{0,60}") {
            let _ = parse("n", &text);
        }

        #[test]
        fn every_directive_is_on_the_line_where_its_name_is(
            lines in proptest::collection::vec(0..4_usize, 1..20),
        ) {
            let mut text = String::new();
            for (number, empty) in lines.iter().enumerate() {
                text.push_str(&"\n".repeat(*empty));
                text.push_str(&format!("name{number}\n 'a\nb' # ;\n ;"));
            }
            let all = parse("n", &text).unwrap();
            prop_assert_eq!(all.len(), lines.len());
            for directive in all {
                let line = text.lines().nth(directive.place.line - 1).unwrap();
                prop_assert!(line.ends_with(directive.name()), "{line:?} {directive:?}");
            }
        }
    }
}
