//! What QUIC connection ids say of backends.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;

use steerage_common::quic::{CONFIGS, SERVER_ID_BYTES_MAX};
use toml::Spanned;

use super::Resolver;
use crate::config::model::{self, Protocol, Quic, ServerId};
use crate::config::schema;

/// The server ids of a file as written, by service and backend, to say later what is wrong with them.
pub(super) type Written = HashMap<(String, SocketAddr), Range<usize>>;

impl Resolver<'_> {
    /// How a vip's connection ids are read; `at` is the place of its protocol.
    pub(super) fn quic(
        &mut self,
        written: Option<Spanned<schema::Quic>>,
        protocol: &Spanned<Protocol>,
    ) -> Option<Quic> {
        let is_quic = *protocol.get_ref() == Protocol::Quic;
        let Some(written) = written else {
            if is_quic {
                let message = "protocol: a quic vip must say how long server ids are: \
                               quic = { server_id_bytes = [4] }";
                self.problem(protocol.span(), message);
            }
            return None;
        };
        let span = written.span();
        let bytes = written.into_inner().server_id_bytes;
        if !is_quic {
            self.problem(span.clone(), "quic: for protocol \"quic\" alone");
        }
        let is_used = |bytes: &&u8| (1..=SERVER_ID_BYTES_MAX).contains(&usize::from(**bytes));
        let is_known = |bytes: &u8| usize::from(*bytes) <= SERVER_ID_BYTES_MAX;
        let has_one = bytes.iter().find(is_used).is_some();
        if bytes.len() > CONFIGS || !has_one || !bytes.iter().all(is_known) {
            self.problem(
                span,
                format!(
                    "quic: server_id_bytes has a length for each of up to {CONFIGS} configurations, \
                     from 1 to {SERVER_ID_BYTES_MAX}, or 0 for one that is not in use"
                ),
            );
        }
        Some(Quic { server_id_bytes: bytes })
    }

    /// The ids of a backend.
    pub(super) fn server_ids(
        &mut self,
        ids: Option<&Spanned<schema::ServerIds>>,
    ) -> [Option<ServerId>; 2] {
        let Some(ids) = ids else { return [None; 2] };
        match ids.get_ref().0.as_slice() {
            [one] => [Some(*one), None],
            [one, other] if one.bytes().len() != other.bytes().len() => [Some(*one), Some(*other)],
            _ => {
                let message = "server_id: one, or a list of two that differ in length";
                self.problem(ids.span(), message);
                [None; 2]
            }
        }
    }

    /// Looks for server ids that two backends of a service have, and for those that no vip reads.
    pub(super) fn check_server_ids(
        &mut self,
        services: &[model::Service],
        vips: &[model::Vip],
        written: &Written,
    ) {
        for (index, service) in services.iter().enumerate() {
            let quic =
                vips.iter().filter(|vip| vip.service == index).filter_map(|vip| vip.quic.as_ref());
            let lengths: HashSet<u8> =
                quic.flat_map(|quic| quic.server_id_bytes.iter().copied()).collect();
            let mut seen = HashMap::new();
            for backend in &service.backends {
                let key = (service.name.clone(), backend.address);
                let Some(span) = written.get(&key) else { continue };
                for id in backend.server_ids.iter().flatten() {
                    if !lengths.contains(&(id.bytes().len() as u8)) {
                        let message = format!(
                            "server_id: no quic vip of service {:?} has server_id_bytes = [{}]",
                            service.name,
                            id.bytes().len()
                        );
                        self.problem(span.clone(), message);
                    }
                    if let Some(other) = seen.insert(*id, backend.address) {
                        let message = format!("server_id: {id} is the backend {other}'s already");
                        self.problem(span.clone(), message);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Error, Model};

    const BASE: &str = "[[vip]]
name = 'h3'
address = '192.0.2.10:443'
protocol = 'quic'
quic = { server_id_bytes = [4, 0, 8] }
mode = 'nat'
interface = 'eth0'
service = 'api'
[[service]]
name = 'api'
[[service.backend]]
address = '10.0.0.1:443'
server_id = 'c0ffee01'
[[service.backend]]
address = '10.0.0.2:443'
server_id = ['c0ffee02', '0102030405060708']
";

    fn load(good: &str, bad: &str) -> Result<Model, Error> {
        assert!(BASE.contains(good), "{good}");
        crate::config::parse(Path::new("test.toml"), &BASE.replacen(good, bad, 1))
    }

    #[test]
    fn a_quic_vip_knows_how_long_server_ids_are_and_backends_know_theirs() {
        let model = load("", "").unwrap();
        assert_eq!(model.vips[0].quic.as_ref().unwrap().server_id_bytes, [4, 0, 8]);
        let ids = model.services[0].backends[1].server_ids.map(|id| id.unwrap());
        assert_eq!(ids[0].bytes(), [0xc0, 0xff, 0xee, 0x02]);
        assert_eq!(ids[1].to_string(), "0102030405060708");
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
    }

    #[test]
    fn what_cannot_be_routed_is_said_with_its_line() {
        for (good, bad, expected) in [
            ("quic = { server_id_bytes = [4, 0, 8] }\n", "", "4:12: protocol: a quic vip must say"),
            ("'quic'", "'udp'", "5:8: quic: for protocol \"quic\" alone"),
            (
                "[4, 0, 8]",
                "[4, 16, 8]",
                "5:8: quic: server_id_bytes has a length for each of up to 7",
            ),
            ("[4, 0, 8]", "[0]", "5:8: quic: server_id_bytes has a length"),
            ("[4, 0, 8]", "[4, 8, 8, 8, 8, 8, 8, 8]", "5:8: quic: server_id_bytes has a length"),
            ("'c0ffee01'", "'c0ffee0'", "13:13: server_id: \"c0ffee0\": a server id is 2 to 30"),
            (
                "'c0ffee01'",
                "'c0ffee02'",
                "16:13: server_id: c0ffee02 is the backend 10.0.0.1:443's",
            ),
            ("'c0ffee01'", "'c0'", "13:13: server_id: no quic vip of service \"api\" has"),
            ("'c0ffee01'", "['c0ffee01', 'c0ffee03']", "13:13: server_id: one, or a list of two"),
        ] {
            let error = load(good, bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
        let both = "[[vip]]\nname = 'dns'\naddress = '192.0.2.10:443'\nprotocol = 'udp'\nmode = 'nat'\n\
                    interface = 'eth0'\nservice = 'api'\n[[service]]";
        let error = load("[[service]]", both).unwrap_err().to_string();
        assert!(error.contains("192.0.2.10:443 is the address of vip \"h3\" already"), "{error}");
    }
}
