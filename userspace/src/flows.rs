//! `steerage flows`: which backend a flow gets, and why.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use steerage::cli::Flows;
use steerage::config::Model;
use steerage::kernel::explain::{Tables, Tuple};
use steerage::supervisor;
use steerage_common::abi::{PROTOCOL_TCP, PROTOCOL_UDP};

pub fn run(options: &Flows) -> anyhow::Result<()> {
    let model = options.config.source()?.load()?;
    let tables = Tables::open(&supervisor::instance_dir(&model))
        .context("is there an L4 plane? `steerage status` shows the vips")?;
    let (vip, protocols) = vip_of(options, &model)?;
    let client = SocketAddr::new(options.source, options.source_port);
    if client.is_ipv4() != vip.is_ipv4() {
        bail!("{} and {vip} are not of one address family", options.source);
    }
    let mut found = Vec::new();
    for protocol in protocols {
        found.extend(tables.explain(&Tuple { client, vip, protocol })?);
    }
    if found.is_empty() {
        bail!("{vip} is no vip in force; `steerage status` shows those there are");
    }
    for explanation in found {
        if options.json {
            println!("{}", serde_json::to_string_pretty(&explanation)?);
        } else {
            print!("{explanation}");
        }
    }
    Ok(())
}

/// The address that the flow goes to, and the protocols that it may have.
fn vip_of(options: &Flows, model: &Model) -> anyhow::Result<(SocketAddr, Vec<u8>)> {
    let asked: Vec<u8> = match options.protocol.as_deref() {
        Some("tcp") => vec![PROTOCOL_TCP],
        Some("udp") => vec![PROTOCOL_UDP],
        _ => vec![PROTOCOL_TCP, PROTOCOL_UDP],
    };
    if let Ok(address) = options.vip.parse() {
        return Ok((address, asked));
    }
    let Some(vip) = model.vips.iter().find(|vip| vip.name == options.vip) else {
        bail!("{:?} is neither ADDRESS:PORT nor the name of a vip", options.vip);
    };
    if vip.address.port() == 0 {
        bail!("{:?} is of all ports: give {}:PORT", options.vip, vip.address.ip());
    }
    Ok((vip.address, vec![vip.protocol.number()]))
}
