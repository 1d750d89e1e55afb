//! Which route takes a TLS client, by what it says first.
//!
//! Precedence: the name itself, then the longest wildcard (`*.example.com` is every name that ends in
//! `.example.com`), then routes without a name. Of one name's routes the first in the file whose protocols
//! the client speaks one of; a route that names no protocols takes any client.

use std::collections::HashMap;

use super::client_hello::{Alert, ClientHello};
use crate::config::model::{Host, StreamRoute};

/// A listener's routes by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<String, Vec<Offer>>,
    /// By what names end in, with its dot.
    suffixes: HashMap<String, Vec<Offer>>,
    others: Vec<Offer>,
}

/// What a route takes of its name's clients.
#[derive(Clone, Debug)]
struct Offer {
    route: usize,
    /// Empty for all of them.
    alpn: Vec<String>,
}

impl Names {
    pub(super) fn new(routes: &[StreamRoute]) -> Self {
        let mut names = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let offers = match &route.sni {
                Some(Host::Exact(name)) => names.exact.entry(name.clone()).or_default(),
                Some(Host::Suffix(suffix)) => names.suffixes.entry(suffix.clone()).or_default(),
                None => &mut names.others,
            };
            offers.push(Offer { route: index, alpn: route.alpn.clone() });
        }
        names
    }

    /// The route of a client.
    ///
    /// # Errors
    /// What to tell a client that none takes.
    pub(super) fn find(&self, hello: &ClientHello) -> Result<usize, Alert> {
        let name = hello.server_name.as_deref().unwrap_or_default();
        // Dots from the left: the longest ending first.
        let suffixes = name.match_indices('.').filter_map(|(at, _)| self.suffixes.get(&name[at..]));
        let lists = self.exact.get(name).into_iter().chain(suffixes).chain([&self.others]);
        let mut alert = Alert::UnrecognizedName;
        for offer in lists.flatten() {
            if offer.alpn.is_empty() || hello.speaks(&offer.alpn) {
                return Ok(offer.route);
            }
            alert = Alert::NoApplicationProtocol;
        }
        Err(alert)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{StreamEnd, StreamTimeouts};

    fn names(routes: &[(&str, &[&str])]) -> Names {
        let (connect, tunnel, half_closed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let route = |(sni, alpn): &(&str, &[&str])| StreamRoute {
            line: 1,
            sni: match sni.strip_prefix('*') {
                _ if sni.is_empty() => None,
                Some(suffix) => Some(Host::Suffix(suffix.into())),
                None => Some(Host::Exact((*sni).into())),
            },
            alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
            end: StreamEnd::Service(0),
            timeouts: StreamTimeouts { connect, tunnel, half_closed },
        };
        Names::new(&routes.iter().map(route).collect::<Vec<_>>())
    }

    fn hello(name: &str, alpn: &[&str]) -> ClientHello {
        ClientHello {
            server_name: (!name.is_empty()).then(|| name.to_owned()),
            alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn the_nearest_name_decides() {
        let names = names(&[
            ("", &[]),
            ("*.example.com", &[]),
            ("*.b.example.com", &[]),
            ("a.example.com", &[]),
        ]);
        let cases = [
            ("a.example.com", 3),
            ("b.example.com", 1),
            ("x.b.example.com", 2),
            ("y.x.b.example.com", 2),
            ("example.com", 0),
            ("example.org", 0),
            ("", 0),
        ];
        for (name, route) in cases {
            assert_eq!(names.find(&hello(name, &[])), Ok(route), "{name}");
        }
    }

    #[test]
    fn protocols_decide_among_the_routes_of_a_name_and_wider_names_take_the_rest() {
        let names = names(&[
            ("a.test", &["h2", "http/1.1"]),
            ("a.test", &["acme-tls/1"]),
            ("*.test", &["imap"]),
            ("b.test", &[]),
        ]);
        assert_eq!(names.find(&hello("a.test", &["http/1.1"])), Ok(0));
        assert_eq!(names.find(&hello("a.test", &["acme-tls/1"])), Ok(1));
        assert_eq!(names.find(&hello("a.test", &["x", "imap"])), Ok(2));
        assert_eq!(names.find(&hello("a.test", &["x"])), Err(Alert::NoApplicationProtocol));
        assert_eq!(names.find(&hello("a.test", &[])), Err(Alert::NoApplicationProtocol));
        assert_eq!(names.find(&hello("c.example", &[])), Err(Alert::UnrecognizedName));
        assert_eq!(names.find(&hello("", &["h2"])), Err(Alert::UnrecognizedName));
        assert_eq!(names.find(&hello("b.test", &[])), Ok(3));
    }
}
