//! `bind`: addresses, and what is spoken there.

use std::net::SocketAddr;
use std::path::Path;

use super::Bases;
use super::proxy::Proxy;
use crate::import::draft::Table;
use crate::import::file_beside;
use crate::import::remark::{Remark, Weight};

/// Addresses that speak the same.
pub struct Bind {
    pub is_tls: bool,
    /// Keys of the listener: addresses, TLS, PROXY headers.
    pub table: Table,
    pub port: u16,
}

/// The binds of a proxy; those that speak the same are one.
pub fn all(proxy: &Proxy<'_>, bases: &Bases, remarks: &mut Table) -> Vec<Bind> {
    let mut binds: Vec<(String, Bind)> = Vec::new();
    for line in proxy.lines().filter(|line| line.words[0] == "bind") {
        let words = line.all();
        let options = words.get(2..).unwrap_or_default();
        let key = options.join(" ");
        let mut addresses = Vec::new();
        for text in words.get(1).map_or("", |word| word).split(',') {
            let found = addresses_of(text, options);
            if found.is_empty() {
                let why = "listeners have an IP address and a port";
                remarks.remark(Remark::new(&line.place, &words, Weight::LeftOut, why));
            }
            addresses.extend(found);
        }
        let Some(first) = addresses.first() else { continue };
        let known = binds.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            let mut table = Table::default();
            let is_tls = options.contains(&"ssl");
            set_options(options, line, bases, &mut table);
            binds.push((key.clone(), Bind { is_tls, table, port: first.port() }));
            binds.len() - 1
        });
        for address in addresses {
            binds[known].1.table.push(&["bind"], address.to_string());
        }
    }
    binds.into_iter().map(|(_, bind)| bind).collect()
}

fn addresses_of(text: &str, options: &[&str]) -> Vec<SocketAddr> {
    let text = text.strip_prefix("ipv4@").or(text.strip_prefix("ipv6@")).unwrap_or(text);
    let Some((host, port)) = text.rsplit_once(':') else { return Vec::new() };
    let Ok(port) = port.parse::<u16>() else { return Vec::new() };
    let v4 = SocketAddr::from(([0, 0, 0, 0], port));
    let v6 = SocketAddr::from(([0_u16; 8], port));
    match host.trim_matches(['[', ']']) {
        "" | "*" => vec![v4],
        "::" if options.contains(&"v4v6") => vec![v4, v6],
        ip => ip.parse().map(|ip| vec![SocketAddr::new(ip, port)]).unwrap_or_default(),
    }
}

fn set_options(options: &[&str], line: &super::token::Line, bases: &Bases, table: &mut Table) {
    let value = |name: &str| {
        let at = options.iter().position(|option| *option == name)?;
        options.get(at + 1).copied()
    };
    let remark = |weight, why: &str| Remark::new(&line.place, &line.all(), weight, why);
    if options.contains(&"accept-proxy") {
        for net in ["0.0.0.0/0", "::/0"] {
            table.push(&["proxy_protocol", "accept_from"], net);
        }
        let why =
            "anybody may say who the client is, as there: name the proxies alone in accept_from";
        table.remark(remark(Weight::Differs, why));
    }
    if !options.contains(&"ssl") {
        return;
    }
    for (index, _) in options.iter().enumerate().filter(|(_, option)| **option == "crt") {
        let Some(named) = options.get(index + 1) else { continue };
        for file in pem_files(&bases.certificates, named) {
            let mut pair = toml_edit::InlineTable::new();
            pair.insert("cert", file.as_str().into());
            pair.insert("key", file.as_str().into());
            table.push(&["certificates"], pair);
        }
    }
    if let Some(ca) = value("ca-file") {
        let mode = match value("verify") {
            Some("required") => Some("required"),
            Some("optional") => Some("optional"),
            _ => None,
        };
        if let Some(mode) = mode {
            table.set(&["client_auth", "mode"], mode);
            table.set(&["client_auth", "ca"], file_beside(&bases.authorities, ca));
        }
    }
    if value("ssl-min-ver") == Some("TLSv1.3") {
        table.set(&["tls", "min_version"], "1.3");
    }
    if value("alpn").is_some_and(|alpn| !alpn.split(',').any(|protocol| protocol == "h2")) {
        table.remark(remark(Weight::Differs, "HTTP/2 is offered too"));
    }
    for unheard in ["ciphers", "ciphersuites", "curves"] {
        if value(unheard).is_some() {
            let why = format!("{unheard}: the suites are those of rustls, all of which are safe");
            table.remark(remark(Weight::LeftOut, &why));
        }
    }
}

/// The file, or those of the directory, in the order of their names.
fn pem_files(directory: &Path, named: &str) -> Vec<String> {
    let path = directory.join(named);
    let Ok(entries) = std::fs::read_dir(&path) else { return vec![file_beside(directory, named)] };
    let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    let mut files: Vec<String> =
        files.map(|file| file_beside(Path::new(""), &file.display().to_string())).collect();
    files.sort();
    files
}
