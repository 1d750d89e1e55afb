//! `listen`: addresses, and the servers that share them.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::scope::Scope;
use super::token::Directive;
use super::upstream::socket;
use crate::import::draft::Table;
use crate::import::remark::{Remark, Weight};

/// Servers that have the same addresses.
pub struct Group {
    pub addresses: Vec<SocketAddr>,
    /// Their places in the file.
    pub servers: Vec<usize>,
    /// That of whom the others' requests are.
    pub default: usize,
    pub is_tls: bool,
    /// The directive by which PROXY headers are expected.
    pub has_proxy_header: bool,
}

#[derive(Default)]
struct Address {
    servers: Vec<usize>,
    default: Option<usize>,
    is_tls: bool,
    has_proxy_header: bool,
}

/// The groups, in the order of the file; what can't be listened on is said.
pub fn groups(servers: &[Scope<'_>], remarks: &mut Table) -> Vec<Group> {
    let mut order: Vec<SocketAddr> = Vec::new();
    let mut by_address: HashMap<SocketAddr, Address> = HashMap::new();
    for (index, server) in servers.iter().enumerate() {
        let listens: Vec<&Directive> =
            server.own().iter().filter(|directive| directive.name() == "listen").collect();
        let mut addresses: Vec<(SocketAddr, Vec<&str>)> = Vec::new();
        for listen in &listens {
            let arguments = listen.arguments();
            let Some((text, options)) = arguments.split_first() else { continue };
            match listen_address(text) {
                Some(address) => addresses.push((address, options.to_vec())),
                None => {
                    let why = "listeners have an IP address and a port";
                    let remark = Remark::new(&listen.place, &listen.all(), Weight::LeftOut, why);
                    remarks.remark(remark);
                }
            }
            let unheard = ["udp", "quic"].iter().find(|option| options.contains(option));
            if let Some(option) = unheard {
                let why = format!("{option}: a [[vip]] takes it, by packets: docs/l4.md");
                remarks.remark(Remark::new(&listen.place, &listen.all(), Weight::LeftOut, why));
                addresses.pop();
            }
        }
        if listens.is_empty() {
            addresses.push((SocketAddr::from(([0, 0, 0, 0], 80)), Vec::new()));
        }
        for (address, options) in addresses {
            let has = |name: &str| options.contains(&name);
            let entry = by_address.entry(address).or_insert_with(|| {
                order.push(address);
                Address::default()
            });
            if !entry.servers.contains(&index) {
                entry.servers.push(index);
            }
            if has("default_server") || has("default") {
                entry.default = Some(index);
            }
            entry.is_tls |= has("ssl") || server.is_on("ssl");
            entry.has_proxy_header |= has("proxy_protocol");
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for address in order {
        let Some(entry) = by_address.remove(&address) else { continue };
        let default = entry.default.unwrap_or(entry.servers[0]);
        let same = groups.iter_mut().find(|group| {
            group.servers == entry.servers
                && group.default == default
                && group.is_tls == entry.is_tls
                && group.has_proxy_header == entry.has_proxy_header
        });
        match same {
            Some(group) => group.addresses.push(address),
            None => groups.push(Group {
                addresses: vec![address],
                servers: entry.servers,
                default,
                is_tls: entry.is_tls,
                has_proxy_header: entry.has_proxy_header,
            }),
        }
    }
    groups
}

fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return Some(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    let text = text.strip_prefix('*').map_or(text.to_owned(), |rest| format!("0.0.0.0{rest}"));
    socket(&text, 80)
}
