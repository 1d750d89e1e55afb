//! The texts of configurations that were in force, so that one can be taken back.

use std::collections::VecDeque;

use crate::admin::order;

/// Texts that are kept, the one in force with them.
const REVISIONS_MAX: usize = 16;

/// The latest configurations of this daemon, the one in force last. Never empty.
#[derive(Debug)]
pub struct Revisions(VecDeque<Revision>);

#[derive(Debug)]
struct Revision {
    told: order::Revision,
    text: String,
}

impl Revisions {
    /// Begins with the configuration that the daemon starts with.
    pub fn new(text: String) -> Self {
        let mut revisions = Self(VecDeque::new());
        revisions.add(text, "start");
        revisions
    }

    /// Another one is in force.
    pub fn add(&mut self, text: String, why: &str) {
        let number = self.0.back().map_or(1, |last| last.told.number + 1);
        let at = crate::clock::since_epoch().as_secs();
        let told = order::Revision { number, at_seconds: at, why: why.to_owned() };
        self.0.push_back(Revision { told, text });
        if self.0.len() > REVISIONS_MAX {
            self.0.pop_front();
        }
    }

    /// The text in force.
    pub fn text(&self) -> &str {
        self.0.back().map_or("", |last| &last.text)
    }

    /// The text of a revision, or of the one before that in force.
    pub fn find(&self, number: Option<u64>) -> Option<(u64, &str)> {
        let found = match number {
            Some(number) => self.0.iter().find(|revision| revision.told.number == number),
            None => self.0.iter().nth_back(1),
        };
        found.map(|revision| (revision.told.number, revision.text.as_str()))
    }

    /// What there is, the one in force last.
    pub fn list(&self) -> Vec<order::Revision> {
        self.0.iter().map(|revision| revision.told.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_found() {
        let mut revisions = Revisions::new("0".into());
        assert_eq!(revisions.find(None), None, "there is none before the first");
        for number in 1..=20 {
            revisions.add(number.to_string(), "a test");
        }
        assert_eq!(revisions.text(), "20");
        assert_eq!(revisions.find(None), Some((20, "19")));
        assert_eq!(revisions.find(Some(6)), Some((6, "5")));
        assert_eq!(revisions.find(Some(5)), None, "sixteen are kept");
        assert_eq!(revisions.list().len(), REVISIONS_MAX);
        assert_eq!(revisions.list().last().map(|last| last.number), Some(21));
    }
}
