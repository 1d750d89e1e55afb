//! Regular expressions of the configuration.
//!
//! They match bytes, as paths and header values are, and always the whole of them. Matching takes time
//! linear in the subject; the limits bound what compiling and caching may cost.

use regex::bytes::{Regex, RegexBuilder};

/// What one compiled expression may occupy.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// What its lazily built automaton may occupy, per worker.
const AUTOMATON_BYTES_MAX: usize = 2 << 20;

/// Compiles an expression that matches a whole subject.
///
/// # Errors
/// What is wrong with the expression, in one line.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    // By itself first: "a)|(?:b" must not become valid by being wrapped.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(PROGRAM_BYTES_MAX).dfa_size_limit(AUTOMATON_BYTES_MAX);
    builder.build().map_err(|error| {
        let text = error.to_string();
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("not valid");
        last.trim().trim_start_matches("error: ").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_subject_must_match() {
        let regex = whole("/a|/b/[0-9]+").unwrap();
        for (path, is_match) in [("/a", true), ("/b/17", true), ("/a/", false), ("x/a", false)] {
            assert_eq!(regex.is_match(path.as_bytes()), is_match, "{path}");
        }
        assert!(whole(r"/\d\w.").unwrap().is_match(b"/1a\xff"));
    }

    #[test]
    fn what_is_no_expression_is_said_in_one_line() {
        for (pattern, said) in [
            ("/(", "unclosed group"),
            ("/a)|(?:b", "unopened group"),
            ("[0-9]{1000}{1000}", "Compiled regex exceeds size limit of 1048576 bytes."),
        ] {
            assert_eq!(whole(pattern).unwrap_err(), said);
        }
    }
}
