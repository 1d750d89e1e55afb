//! The names that a certificate is for, and which of several is for a name: pure functions.
//!
//! A wildcard stands for one label, the leftmost (RFC 6125, 6.4.3): `*.a.org` is for `b.a.org`, and neither
//! for `a.org` nor for `c.b.a.org`. An exact name goes before a wildcard.

use std::collections::HashMap;

/// The names of one certificate, in lower case; those that begin with `*.` are wildcards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// These names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether one of them is, or stands for, `host` (in lower case).
    #[must_use]
    pub fn cover(&self, host: &str) -> bool {
        let parent = parent(host);
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => parent == Some(below),
            None => name == host,
        })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.0
    }
}

/// Which certificates are for a name, of several. There may be more than one of the same names, with
/// different kinds of keys.
#[derive(Clone, Debug, Default)]
pub struct Index {
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Index {
    /// The index of these certificates.
    pub fn new<'a>(all: impl IntoIterator<Item = &'a Names>) -> Self {
        let mut index = Self::default();
        for (place, names) in all.into_iter().enumerate() {
            for name in &names.0 {
                let places = match name.strip_prefix("*.") {
                    Some(below) => index.wildcard.entry(below.to_owned()).or_default(),
                    None => index.exact.entry(name.clone()).or_default(),
                };
                places.push(place);
            }
        }
        index
    }

    /// The certificates for a name (in lower case), in their order; none if none is.
    #[must_use]
    pub fn find(&self, name: &str) -> &[usize] {
        let exact = self.exact.get(name);
        let found = exact.or_else(|| self.wildcard.get(parent(name)?));
        found.map_or(&[], Vec::as_slice)
    }
}

/// A name without its leftmost label.
fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent).filter(|parent| !parent.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        Names::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_a_wildcard_is_one_label() {
        let all = [names(&["*.a.org", "a.org"]), names(&["B.a.org"]), names(&["b.a.org", "c.org"])];
        let index = Index::new(&all);
        for (name, found) in [
            ("a.org", &[0][..]),
            ("x.a.org", &[0]),
            ("b.a.org", &[1, 2]),
            ("c.org", &[2]),
            ("x.b.a.org", &[]),
            ("x.c.org", &[]),
            ("org", &[]),
            ("", &[]),
        ] {
            assert_eq!(index.find(name), found, "{name}");
            for (place, names) in all.iter().enumerate() {
                let is_found = found.contains(&place);
                // The exact name hides the wildcard, which is for it nevertheless.
                assert_eq!(
                    names.cover(name),
                    is_found || (name, place) == ("b.a.org", 0),
                    "{name}"
                );
            }
        }
    }
}
