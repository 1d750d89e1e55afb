//! `Via` (RFC 9110, 7.6.3), and the loops that it shows.
//!
//! A request that bears our own pseudonym has passed here before: it would run in a circle until
//! something gives out. So the pseudonym must be that of nothing else: two Steerages in a row, on two
//! hosts or in two network namespaces of one, and two listeners of one Steerage, of which one's backend
//! asks the other, are no loop. By itself it is a hash of what tells a listener from all others: the
//! host's boot, its name, the network namespace, the instance, the listener. A host that passes requests
//! in a circle with others of its group sees them again when they come back to it; a name that the
//! group shares makes the first of them see it.
//!
//! Responses have no `Via` of ours: a gateway need not, and it would tell clients what stands here.

use http::Version;
use http::header::{Entry, HeaderMap, HeaderValue, VIA};
use steerage_common::error::ErrorClass;
use steerage_common::hash::{key_from_seed, sip13_bytes};

use crate::config::model;
use crate::service::Random;

/// What a listener writes and looks for.
#[derive(Debug)]
pub(super) struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// `None` if it is off.
    pub(super) fn new(via: &model::Via, own: impl FnOnce() -> String) -> Option<Self> {
        let pseudonym = match via {
            model::Via::Off => return None,
            model::Via::Auto => own(),
            model::Via::Name(name) => name.clone(),
        };
        let value = |version| HeaderValue::from_str(&format!("{version} {pseudonym}")).ok();
        Some(Self { http10: value("1.0")?, http11: value("1.1")?, http2: value("2")?, pseudonym })
    }

    /// Adds the entry of a request that came as `version`.
    pub(super) fn pass(&self, headers: &mut HeaderMap, version: Version) -> Result<(), ErrorClass> {
        let value = match version {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        match headers.entry(VIA) {
            Entry::Vacant(entry) => {
                entry.insert(value.clone());
            }
            Entry::Occupied(mut entry) => {
                if entry.iter().any(|value| self.is_named_in(value.as_bytes())) {
                    return Err(ErrorClass::Loop);
                }
                entry.append(value.clone());
            }
        }
        Ok(())
    }

    /// Whether one of the entries is ours: protocol, pseudonym, perhaps a comment.
    fn is_named_in(&self, value: &[u8]) -> bool {
        value.split(|byte| *byte == b',').any(|entry| {
            let mut words =
                entry.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            let name = words.nth(1).unwrap_or_default();
            name.eq_ignore_ascii_case(self.pseudonym.as_bytes())
        })
    }
}

/// What tells this network stack from all others.
#[derive(Debug)]
pub(crate) struct Host(String);

impl Host {
    /// This one, as all processes in it see it.
    pub(crate) fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let boot = read("/proc/sys/kernel/random/boot_id");
        let name = read("/proc/sys/kernel/hostname");
        let network = std::fs::read_link("/proc/self/ns/net").ok();
        Self(match (boot, name, network) {
            (Some(boot), Some(name), Some(network)) => {
                format!("{boot}\n{name}\n{}", network.display())
            }
            // Rather a loop that is not seen than a loop that is none.
            _ => Random::fresh_seed().to_string(),
        })
    }

    /// The pseudonym of one of its listeners.
    pub(super) fn pseudonym(&self, instance: &str, listener: &str) -> String {
        let whole = [&self.0, instance, listener].map(|part| format!("{}:{part}", part.len()));
        let hash = sip13_bytes(key_from_seed(b"via"), whole.concat().as_bytes());
        let digits: [u8; 12] = super::hex(hash);
        format!("steerage-{}", String::from_utf8_lossy(&digits))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, values};
    use super::*;

    fn via(name: &str) -> Via {
        Via::new(&model::Via::Name(name.into()), || unreachable!()).unwrap()
    }

    fn pass(via: &Via, sent: &[&str]) -> Result<Vec<String>, ErrorClass> {
        let sent: Vec<_> = sent.iter().map(|value| ("via", *value)).collect();
        let mut headers = lines(&sent);
        via.pass(&mut headers, Version::HTTP_11)?;
        Ok(values(&headers, "via").into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn the_entry_goes_to_the_end_with_the_version_that_was_received() {
        assert_eq!(pass(&via("a"), &[]).unwrap(), ["1.1 a"]);
        assert_eq!(
            pass(&via("a"), &["1.0 x, 1.1 y", "2 z"]).unwrap(),
            ["1.0 x, 1.1 y", "2 z", "1.1 a"]
        );
        for (version, entry) in [(Version::HTTP_10, "1.0 a"), (Version::HTTP_2, "2 a")] {
            let mut headers = HeaderMap::new();
            via("a").pass(&mut headers, version).unwrap();
            assert_eq!(values(&headers, "via"), [entry]);
        }
    }

    #[test]
    fn a_request_that_was_here_before_is_a_loop() {
        for sent in [
            &["1.1 edge"][..],
            &["1.0 x, HTTP/1.1 EDGE (comment)", "1.1 y"],
            &["1.0 x", "2\tedge"],
            &["1.1  edge ,1.1 x"],
        ] {
            assert_eq!(pass(&via("edge"), sent), Err(ErrorClass::Loop), "{sent:?}");
        }
        for sent in ["1.1 edge2", "1.1 my-edge", "edge", "1.1 x (1.1 edge)", "", ",", "edge 1.1"] {
            assert!(pass(&via("edge"), &[sent]).is_ok(), "{sent:?}");
        }
    }

    #[test]
    fn a_pseudonym_is_of_one_listener_on_one_host_alone() {
        let (here, there) = (Host("boot\na\nnet:[1]".into()), Host("boot\na\nnet:[2]".into()));
        let name = here.pseudonym("default", "web");
        assert_eq!(name, here.pseudonym("default", "web"));
        assert_eq!(name.len(), "steerage-".len() + 12);
        for other in [
            here.pseudonym("default", "inner"),
            here.pseudonym("other", "web"),
            there.pseudonym("default", "web"),
            here.pseudonym("defaultw", "eb"),
        ] {
            assert_ne!(name, other);
        }
        assert_eq!(Host::here().0, Host::here().0);
    }
}
