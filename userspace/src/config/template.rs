//! Templates of paths and locations: text with `$1`, `${name}` and, in redirects, parts of the request.
//!
//! `$$` is a dollar sign. A group that took no part in the match stands for nothing.

use regex::bytes::Regex;

use super::model::{Piece, Template};

/// What a template may refer to beside the groups of an expression.
const PARTS: [(&str, Piece); 6] = [
    ("scheme", Piece::Scheme),
    ("host", Piece::Host),
    ("authority", Piece::Authority),
    ("path", Piece::Path),
    ("query", Piece::Query),
    ("uri", Piece::Uri),
];

/// Parses a template. `groups` is the expression whose groups it may use; the request's parts may be
/// used if `has_parts`.
///
/// # Errors
/// What is wrong with the template.
pub fn parse(text: &str, groups: Option<&Regex>, has_parts: bool) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push_text(&mut pieces, &rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            push_text(&mut pieces, "$");
            rest = after;
            continue;
        }
        let (name, left) = match after.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or("\"${\" has no \"}\"")?,
            None => {
                let digits = after.bytes().take_while(u8::is_ascii_digit).count();
                after.split_at(digits)
            }
        };
        if name.is_empty() {
            return Err("'$' stands for nothing here; write \"$$\" for the sign itself".into());
        }
        pieces.push(reference(name, groups, has_parts)?);
        rest = left;
    }
    push_text(&mut pieces, rest);
    Ok(Template(pieces))
}

/// The text that a template was parsed from; groups by their numbers.
#[must_use]
pub fn text(template: &Template) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.replace('$', "$$"),
        Piece::Group(number) => format!("${{{number}}}"),
        part => {
            let known = PARTS.iter().find(|(_, known)| known == part);
            format!("${{{}}}", known.map_or("", |(name, _)| name))
        }
    };
    template.0.iter().map(piece).collect()
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn reference(name: &str, groups: Option<&Regex>, has_parts: bool) -> Result<Piece, String> {
    let part = PARTS.iter().find(|(part, _)| has_parts && *part == name);
    if let Some((_, piece)) = part {
        return Ok(piece.clone());
    }
    let index = groups.and_then(|groups| match name.parse::<usize>() {
        Ok(index) => (index < groups.captures_len()).then_some(index),
        Err(_) => groups.capture_names().position(|known| known == Some(name)),
    });
    index.map(Piece::Group).ok_or_else(|| {
        let groups = groups.map_or(0, |groups| groups.captures_len() - 1);
        let parts: Vec<&str> = PARTS.iter().map(|(part, _)| *part).collect();
        let parts = if has_parts { format!(", and {}", parts.join(", ")) } else { String::new() };
        format!("there is no {name:?} to put in; there are {groups} groups{parts}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pattern;

    #[test]
    fn references_are_resolved_to_groups_and_parts() {
        let regex = pattern::whole("/(a)/(?<rest>.*)").unwrap();
        let text = |text: &str| Piece::Text(text.into());
        for (template, pieces) in [
            ("/x/$1y${rest}", vec![text("/x/"), Piece::Group(1), text("y"), Piece::Group(2)]),
            ("/$$$$1", vec![text("/$$1")]),
            ("${2}0", vec![Piece::Group(2), text("0")]),
            ("", vec![]),
            ("$0", vec![Piece::Group(0)]),
        ] {
            assert_eq!(
                parse(template, Some(&regex), false).unwrap(),
                Template(pieces),
                "{template}"
            );
        }
        let parts = parse("${scheme}://${host}${uri}", None, true).unwrap();
        assert_eq!(parts.0, [Piece::Scheme, text("://"), Piece::Host, Piece::Uri]);
    }

    #[test]
    fn what_a_template_cannot_mean_is_an_error() {
        let regex = pattern::whole("/(a)").unwrap();
        for (template, said) in [
            ("/$2", "there is no \"2\" to put in; there are 1 groups"),
            ("/${rest}", "there is no \"rest\" to put in"),
            ("/${host}", "there is no \"host\" to put in"),
            ("/${1", "\"${\" has no \"}\""),
            ("/$", "'$' stands for nothing"),
            ("/$x", "'$' stands for nothing"),
            ("/${}", "'$' stands for nothing"),
        ] {
            let error = parse(template, Some(&regex), false).unwrap_err();
            assert!(error.starts_with(said), "{template}: {error}");
        }
    }
}
