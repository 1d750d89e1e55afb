//! All certificates of a configuration: what workers are handed, and what is known of each.
//!
//! At a start and of a new configuration every pair must be good. A pair that is in force already may turn
//! bad in its files: then what was read before stays, and the reason is told. So a botched renewal costs
//! nothing but a line in the log, and neither other certificates nor other changes wait for it. A pair
//! whose only fault is its time is refused in the place of one that is good, and stays where there is
//! nothing better: some clients go on with it, and the others are told the truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pair::{Facts, Fault, Pair};
use crate::config::Model;
use crate::config::model::CertificateFiles;

/// The pairs of a configuration, by their files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf(BTreeMap<CertificateFiles, Arc<Pair>>);

impl Shelf {
    /// What was read from these files.
    #[must_use]
    pub fn get(&self, files: &CertificateFiles) -> Option<&Arc<Pair>> {
        self.0.get(files)
    }
}

impl Serialize for Shelf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(files, pair)| (files, &**pair)))
    }
}

impl<'de> Deserialize<'de> for Shelf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(CertificateFiles, Pair)>::deserialize(deserializer)?;
        Ok(Self(pairs.into_iter().map(|(files, pair)| (files, Arc::new(pair))).collect()))
    }
}

/// A shelf, and what is known of what stands on it.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// For the workers.
    pub shelf: Shelf,
    /// What each certificate says.
    pub facts: BTreeMap<CertificateFiles, Facts>,
    /// What is wrong with files whose former contents are in force, or which are in force nevertheless.
    pub faults: BTreeMap<CertificateFiles, Fault>,
}

/// At what moment certificates are read.
#[derive(Clone, Copy, Debug)]
pub enum Occasion<'a> {
    /// A file is looked at, for nobody.
    Check,
    /// The daemon starts: there is nothing better than what the files have.
    Start,
    /// The daemon runs, with these.
    Change(&'a Stock),
}

impl Stock {
    /// Reads all certificates of a configuration. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// All faults of pairs that there is no former one of.
    pub fn read(model: &Model, occasion: Occasion<'_>, now: i64) -> Result<Self, Vec<Fault>> {
        let mut stock = Self::default();
        let mut refusals = Vec::new();
        for files in files(model) {
            let read = Pair::read(files).and_then(|(pair, facts)| match facts.check_time(now) {
                Ok(()) => Ok((pair, facts, None)),
                Err(why) => {
                    let fault = Fault { file: files.cert.clone(), why };
                    if serves_nevertheless(files, &pair, occasion) {
                        Ok((pair, facts, Some(fault)))
                    } else {
                        Err(fault)
                    }
                }
            });
            let (pair, facts, fault) = match read {
                Ok((pair, facts, fault)) => (Arc::new(pair), facts, fault),
                Err(fault) => match occasion.former(files) {
                    Some((pair, facts)) => (pair, facts, Some(fault)),
                    None => {
                        refusals.push(fault);
                        continue;
                    }
                },
            };
            stock.shelf.0.insert(files.clone(), pair);
            stock.facts.insert(files.clone(), facts);
            if let Some(fault) = fault {
                stock.faults.insert(files.clone(), fault);
            }
        }
        if refusals.is_empty() { Ok(stock) } else { Err(refusals) }
    }
}

impl Occasion<'_> {
    fn former(self, files: &CertificateFiles) -> Option<(Arc<Pair>, Facts)> {
        let Self::Change(stock) = self else { return None };
        Some((stock.shelf.get(files)?.clone(), stock.facts.get(files)?.clone()))
    }
}

/// Whether a pair whose time is not now is in force all the same: it is the one that was.
fn serves_nevertheless(files: &CertificateFiles, pair: &Pair, occasion: Occasion<'_>) -> bool {
    match occasion {
        Occasion::Check => false,
        Occasion::Start => true,
        Occasion::Change(stock) => stock.shelf.get(files).is_some_and(|former| **former == *pair),
    }
}

/// The files of all certificates that a configuration names, each once.
pub fn files(model: &Model) -> impl Iterator<Item = &CertificateFiles> {
    let all = model.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let each: std::collections::BTreeSet<_> = all.flat_map(|tls| &tls.certificates).collect();
    each.into_iter()
}
