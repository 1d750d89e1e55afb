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

use super::pair::{Facts, Pair};
use crate::config::Model;
use crate::config::model::CertificateFiles;
use crate::pem::Fault;

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// 1 January 2026.
    const NOW: i64 = 1_767_225_600;

    /// A directory of the test's own, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("steerage-shelf-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// Writes a pair that is valid from year to year.
        fn sign(&self, file: &str, years: (i32, i32)) {
            let mut params = CertificateParams::new([format!("{file}.test")]).unwrap();
            (params.not_before, params.not_after) =
                (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
            let key = KeyPair::generate().unwrap();
            self.write(&format!("{file}.pem"), &params.self_signed(&key).unwrap().pem());
            self.write(&format!("{file}.key"), &key.serialize_pem());
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.0.join(file), text).unwrap();
        }

        fn model(&self, files: &[&str]) -> Model {
            let entries: Vec<String> =
                files.iter().map(|f| format!("{{ cert = '{f}.pem', key = '{f}.key' }}")).collect();
            let text = format!(
                "[[listener]]\nname = 'a'\nprotocol = 'https'\nbind = ['127.0.0.1:1']\n\
                 certificates = [{}]\n[[listener.route]]\nservice = 's'\n[[service]]\nname = 's'\n",
                entries.join(", ")
            );
            crate::config::parse(&self.0.join("steerage.toml"), &text).unwrap()
        }

        /// What is wrong, by the file's name.
        fn said(&self, stock: &Stock) -> Vec<String> {
            stock.faults.values().map(|fault| self.short(fault)).collect()
        }

        fn short(&self, fault: &Fault) -> String {
            fault.to_string().replace(&format!("{}/", self.0.display()), "")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_pair_must_be_good_and_every_fault_is_told() {
        let directory = Directory::new("new");
        for file in ["good", "over", "soon", "mixed"] {
            directory.sign(file, (2020, 2030));
        }
        directory.sign("over", (2001, 2002));
        directory.sign("soon", (2027, 2030));
        directory.write("mixed.key", &KeyPair::generate().unwrap().serialize_pem());
        let model = directory.model(&["good", "over", "soon", "mixed", "none"]);
        let in_force = Stock::read(&directory.model(&["good"]), Occasion::Start, NOW).unwrap();
        assert_eq!(directory.said(&in_force), Vec::<String>::new());
        for occasion in [Occasion::Check, Occasion::Change(&in_force)] {
            let faults = Stock::read(&model, occasion, NOW).unwrap_err();
            let said: Vec<String> = faults.iter().map(|fault| directory.short(fault)).collect();
            assert_eq!(
                said,
                [
                    "mixed.key: is not the key of mixed.pem",
                    "none.pem: cannot be read: No such file or directory (os error 2)",
                    "over.pem: expired at 2002-01-01T00:00:00Z",
                    "soon.pem: is not valid before 2027-01-01T00:00:00Z",
                ]
            );
        }
        // At a start time alone is no reason to serve nobody.
        let faults = Stock::read(&model, Occasion::Start, NOW).unwrap_err();
        assert_eq!(faults.len(), 2);
        let model = directory.model(&["good", "over"]);
        let stock = Stock::read(&model, Occasion::Start, NOW).unwrap();
        assert_eq!(directory.said(&stock), ["over.pem: expired at 2002-01-01T00:00:00Z"]);
        assert_eq!(stock.facts.len(), 2);
    }

    #[test]
    fn what_was_good_stays_while_its_files_are_not() {
        let directory = Directory::new("old");
        directory.sign("one", (2020, 2030));
        directory.sign("two", (2020, 2030));
        let model = directory.model(&["one", "two"]);
        let first = Stock::read(&model, Occasion::Start, NOW).unwrap();
        let pair = |stock: &Stock, name: &str| {
            let files = files(&model).find(|files| files.cert.ends_with(name)).unwrap();
            stock.shelf.get(files).unwrap().clone()
        };
        directory
            .write("one.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        directory.sign("two", (2020, 2031));
        let second = Stock::read(&model, Occasion::Change(&first), NOW).unwrap();
        assert_eq!(pair(&second, "one.pem"), pair(&first, "one.pem"));
        assert_ne!(pair(&second, "two.pem"), pair(&first, "two.pem"), "the other one changes");
        let said = directory.said(&second);
        assert!(said[0].starts_with("one.pem: certificate 1 of it cannot be parsed"), "{said:?}");
        // One whose time is over takes no place of a good one, and keeps its own.
        directory.sign("one", (2001, 2002));
        let third = Stock::read(&model, Occasion::Change(&second), NOW).unwrap();
        assert_eq!(pair(&third, "one.pem"), pair(&first, "one.pem"));
        let later = NOW + 6 * 365 * 24 * 3600;
        let fourth = Stock::read(&directory.model(&["two"]), Occasion::Change(&third), later);
        let fourth = fourth.unwrap();
        assert_eq!(directory.said(&fourth), ["two.pem: expired at 2031-01-01T00:00:00Z"]);
        directory.sign("one", (2020, 2040));
        let mended = Stock::read(&model, Occasion::Change(&third), NOW).unwrap();
        assert_eq!(directory.said(&mended), Vec::<String>::new());
    }

    #[test]
    fn workers_are_handed_all_of_it() {
        let directory = Directory::new("handed");
        directory.sign("one", (2020, 2030));
        let model = directory.model(&["one"]);
        let stock = Stock::read(&model, Occasion::Start, NOW).unwrap();
        let json = serde_json::to_vec(&stock.shelf).unwrap();
        let handed: Shelf = serde_json::from_slice(&json).unwrap();
        assert_eq!(handed, stock.shelf);
        let pair = handed.get(files(&model).next().unwrap()).unwrap();
        let (certified, names) = pair.open().unwrap();
        assert_eq!((certified.cert.len(), names.all()), (1, &["one.test".to_owned()][..]));
        assert!(!format!("{stock:?}").contains("PRIVATE"), "nobody is shown keys");
    }
}
