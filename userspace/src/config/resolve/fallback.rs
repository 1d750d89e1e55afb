//! What serves a vip on a host without eBPF.

use std::collections::HashMap;

use toml::Spanned;

use super::{Replies, Resolver};
use crate::config::model::{Listener, Protocol};
use crate::config::schema::{self, L4Fallback};

/// A tcp listener with all its defaults.
const PLAIN: &str = "name = ''\nbind = []\nprotocol = 'tcp'\n";

impl Resolver<'_> {
    /// The listener that takes the place of a vip where there is no eBPF; `None` if that is an error then.
    pub(super) fn fallback(
        &mut self,
        vip: &schema::Vip,
        everywhere: L4Fallback,
        services: &HashMap<String, usize>,
        listeners: &[Listener],
    ) -> Option<Box<Listener>> {
        let own = vip.l4_fallback.as_ref();
        if own.map_or(everywhere, |own| *own.get_ref()) == L4Fallback::Error {
            return None;
        }
        let address = *vip.address.get_ref();
        let name = format!("vip {}", vip.name.get_ref());
        let is_same = |of: &&Listener| of.bind.contains(&address) || of.name == name;
        let taken = listeners.iter().find(is_same);
        let obstacle = if *vip.protocol.get_ref() != Protocol::Tcp {
            Some("a proxy passes on TCP alone".to_owned())
        } else if address.port() == 0 {
            Some("a proxy listens on one port, and this vip has all of them".to_owned())
        } else {
            taken.map(|of| format!("listener {:?} has its address or name", of.name))
        };
        if let Some(obstacle) = obstacle {
            // For all of them it is meant for those that it suits.
            if let Some(own) = own {
                self.problem(own.span(), format!("l4_fallback: {obstacle}; remove it"));
            }
            return None;
        }
        if !services.contains_key(vip.service.get_ref()) {
            return None;
        }
        let mut listener: schema::Listener =
            toml::from_str(PLAIN).expect("a listener with nothing but defaults is one");
        let at = |of: std::ops::Range<usize>, text: String| Spanned::new(of, text);
        listener.name = at(vip.name.span(), name);
        listener.bind = vec![Spanned::new(vip.address.span(), address)];
        listener.service = Some(at(vip.service.span(), vip.service.get_ref().clone()));
        let replies = Replies { pages: Vec::new(), header: false };
        self.listeners(vec![listener], services, &replies).pop().map(Box::new)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Error, Model};

    const BASE: &str = "[global]
[[listener]]
name = 'web'
protocol = 'http'
bind = ['192.0.2.11:80']
[[listener.route]]
service = 'api'
[[vip]]
name = 'v'
address = '192.0.2.10:80'
protocol = 'tcp'
mode = 'nat'
interface = 'eth0'
service = 'api'
[[service]]
name = 'api'
[[service.backend]]
address = '10.0.0.1:80'
";

    fn load(good: &str, bad: &str) -> Result<Model, Error> {
        assert!(BASE.contains(good), "{good}");
        crate::config::parse(Path::new("t.toml"), &BASE.replacen(good, bad, 1))
    }

    #[test]
    fn a_vip_has_a_listener_to_fall_back_on_where_it_is_asked_for() {
        assert!(load("", "").unwrap().vips[0].fallback.is_none());
        let everywhere = ("[global]", "[global]\nl4_fallback = 'proxy'");
        let here = ("mode = 'nat'", "mode = 'nat'\nl4_fallback = 'proxy'");
        for (good, bad) in [everywhere, here] {
            let model = load(good, bad).unwrap();
            let listener = model.vips[0].fallback.clone().unwrap();
            assert_eq!(listener.name, "vip v");
            assert_eq!(listener.bind, [model.vips[0].address]);
            let streams = listener.streams.unwrap();
            assert_eq!((streams.is_tls, streams.routes.len()), (false, 1));
            let json = serde_json::to_string(&model).unwrap();
            assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
        }
        let not_here = "[global]\nl4_fallback = 'proxy'";
        let text = BASE.replacen("[global]", not_here, 1);
        let text = text.replacen("mode = 'nat'", "mode = 'nat'\nl4_fallback = 'error'", 1);
        assert!(
            crate::config::parse(Path::new("t.toml"), &text).unwrap().vips[0].fallback.is_none()
        );
    }

    #[test]
    fn what_no_proxy_can_be_is_said_where_it_is_asked_for_by_name() {
        let asked = "mode = 'nat'\nl4_fallback = 'proxy'";
        for (good, bad, expected) in [
            ("'tcp'", "'udp'", "13:15: l4_fallback: a proxy passes on TCP alone"),
            ("192.0.2.10:80", "192.0.2.10:0", "13:15: l4_fallback: a proxy listens on one port"),
            (
                "192.0.2.10:80",
                "192.0.2.11:80",
                "13:15: l4_fallback: listener \"web\" has its address",
            ),
        ] {
            let text = BASE.replacen("mode = 'nat'", asked, 1).replacen(good, bad, 1);
            let error = crate::config::parse(Path::new("t.toml"), &text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            // For all vips it is meant for those that it suits.
            let text = BASE.replacen("[global]", "[global]\nl4_fallback = 'proxy'", 1);
            let text = text.replacen(good, bad, 1);
            let model = crate::config::parse(Path::new("t.toml"), &text).unwrap();
            assert!(model.vips[0].fallback.is_none());
        }
    }
}
