//! Regular expressions of others, as the configuration has them: for the whole of a path.
//!
//! Others search for their expressions, and have look-around and back references, which take more than
//! linear time; where one uses these, it is none that can be had here.

use crate::config::pattern;

/// The expression for whole subjects that finds what `searched` does anywhere in one.
///
/// # Errors
/// What is wrong with it.
pub fn whole(searched: &str, is_caseless: bool) -> Result<String, String> {
    // Named groups are written so in all of them, but for this spelling.
    let searched = searched.replace("(?P'", "(?P<").replace("\\/", "/");
    let mut body = searched.as_str();
    let is_plain = !has_alternatives(body);
    let mut before = ".*?";
    let mut after = ".*";
    if is_plain {
        if let Some(rest) = body.strip_prefix('^') {
            (body, before) = (rest, "");
        }
        if let Some(rest) = body.strip_suffix('$')
            && !ends_escaped(rest)
        {
            (body, after) = (rest, "");
        }
        // As they stand at the end already, nothing is added.
        if after == ".*" && body.ends_with(".*") && !body.ends_with("\\.*") {
            after = "";
        }
    }
    let flags = if is_caseless { "(?i)" } else { "" };
    let whole = match (is_plain, before, after) {
        (true, ..) => format!("{flags}{before}{body}{after}"),
        (false, ..) => format!("{flags}{before}(?:{body}){after}"),
    };
    pattern::whole(&whole)?;
    Ok(whole)
}

/// Whether a backslash takes the meaning of what follows `text`.
fn ends_escaped(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Whether there is a bar outside of groups and classes.
fn has_alternatives(text: &str) -> bool {
    let (mut depth, mut in_class, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'(' if !in_class => depth += 1,
            b')' if !in_class => depth = depth.saturating_sub(1),
            b'|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// An expression for this text.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What every subject of the expression begins with.
#[must_use]
pub fn beginning(whole: &str) -> String {
    let mut text = String::new();
    let mut rest = whole.chars().peekable();
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match rest.next() {
                Some(c) if !c.is_ascii_alphanumeric() => c,
                _ => break,
            },
            c if ".+*?()|[]{}^$".contains(c) => break,
            c => c,
        };
        if rest.peek().is_some_and(|next| "*?{|".contains(*next)) {
            break;
        }
        text.push(c);
    }
    if has_alternatives(whole) { String::new() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;

    #[test]
    fn anchors_become_the_ends_of_the_subject() {
        for (searched, expected) in [
            ("^/img/", "/img/.*"),
            ("^/img/(.*)$", "/img/(.*)"),
            (r"\.php$", r".*?\.php"),
            (r"/x\$", r".*?/x\$.*"),
            ("^/a|b$", ".*?(?:^/a|b$).*"),
            ("^/(a|b)", "/(a|b).*"),
            ("[|]", ".*?[|].*"),
            ("^/a.*", "/a.*"),
            (r"^\/v1\/", "/v1/.*"),
        ] {
            assert_eq!(whole(searched, false).unwrap(), expected, "{searched}");
        }
        assert_eq!(whole(r"\.JPG$", true).unwrap(), r"(?i).*?\.JPG");
        assert!(whole("/(?!a)", false).is_err());
        assert!(whole(r"/(a)\1", false).is_err());
    }

    #[test]
    fn the_beginning_is_what_is_certain() {
        for (regex, expected) in [
            ("/img/.*", "/img/"),
            (".*?/a", ""),
            ("(?i)/a", ""),
            ("/ab?c", "/a"),
            (r"/a\.b[0-9]", "/a.b"),
            (r"/a\d", "/a"),
            ("/a|/b", ""),
        ] {
            assert_eq!(beginning(regex), expected, "{regex}");
        }
    }

    proptest! {
        #[test]
        fn what_was_found_anywhere_is_found(
            parts in proptest::collection::vec(
                prop_oneof![Just("a"), Just("b"), Just("^"), Just("$"), Just("|"), Just("(a|b)"), Just("."), Just("/"), Just("a*")],
                1..6,
            ),
            subject in "[ab/]{0,6}",
        ) {
            let searched = parts.concat();
            let Ok(found) = Regex::new(&searched) else { return Ok(()) };
            let Ok(whole) = whole(&searched, false) else { return Ok(()) };
            let matched = pattern::whole(&whole).unwrap();
            let (found, matched) =
                (found.captures(subject.as_bytes()), matched.captures(subject.as_bytes()));
            prop_assert_eq!(found.is_some(), matched.is_some(), "{} {}", searched, whole);
            prop_assert!(subject.starts_with(&beginning(&whole)) || matched.is_none());
        }

        #[test]
        fn an_escaped_text_is_itself(text in "\\PC{0,12}") {
            let regex = pattern::whole(&escape(&text)).unwrap();
            prop_assert!(regex.is_match(text.as_bytes()));
        }
    }
}
