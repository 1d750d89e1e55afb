//! The network links of a configuration's vips; without one, all that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Finding;
use crate::config::Model;
use crate::kernel;
use crate::supervisor::families;

/// Drivers that run XDP programs themselves (Linux 6.12, `NETDEV_XDP_ACT_BASIC`).
const NATIVE: [&str; 30] = [
    "atlantic",
    "bnxt_en",
    "bonding",
    "cpsw",
    "dpaa2-eth",
    "ena",
    "enetc",
    "fec",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "tsnep",
    "tun",
    "veth",
    "virtio_net",
    "vmxnet3",
];

pub fn examine(model: Option<&Model>) -> Vec<Finding> {
    let links: BTreeSet<String> = match model {
        Some(model) => model.vips.iter().flat_map(|vip| vip.interfaces.clone()).collect(),
        None => all(),
    };
    let families = model.map(families).unwrap_or_default();
    let mut findings = Vec::new();
    for link in &links {
        if !Path::new("/sys/class/net").join(link).exists() {
            let found = "there is no such link";
            findings.push(Finding::fail(
                &what(link),
                found,
                "mend `interface` of the vip (ip link)",
            ));
            continue;
        }
        findings.push(driver(link));
        findings.extend(offloads(link));
        if model.is_some() {
            findings.push(occupied(link));
            findings.extend(families.iter().map(|family| forwarding(link, *family)));
        }
    }
    findings
}

/// All links but the loopback.
fn all() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lo" && !name.starts_with("bonding_masters")).collect()
}

fn what(link: &str) -> String {
    format!("link {link}")
}

fn driver(link: &str) -> Finding {
    let path = Path::new("/sys/class/net").join(link);
    let mtu = fs::read_to_string(path.join("mtu")).unwrap_or_default();
    let driver = fs::read_link(path.join("device/driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    // Virtual links have no device.
    let driver = driver.or_else(|| ethtool("-i", link, "driver"));
    let mtu = mtu.trim();
    match driver {
        Some(driver) if NATIVE.contains(&driver.as_str()) => {
            Finding::ok(what(link), format!("driver {driver} has native XDP; MTU {mtu}"))
        }
        Some(driver) => Finding::warn(
            &what(link),
            format!("driver {driver} is not known for native XDP; MTU {mtu}"),
            "vips work in generic mode, at several times the cost for each packet",
        ),
        None => Finding::warn(
            &what(link),
            format!("its driver is not known; MTU {mtu}"),
            "install ethtool; `steerage status` shows the mode that XDP has in the end",
        ),
    }
}

/// What joins packets before XDP sees them.
fn offloads(link: &str) -> Option<Finding> {
    let what = format!("{} offloads", what(link));
    match ethtool("-k", link, "large-receive-offload").as_deref() {
        Some("on") => Some(Finding::warn(
            &what,
            "large-receive-offload is on",
            format!("ethtool -K {link} lro off: many drivers refuse native XDP with it"),
        )),
        Some(_) => Some(Finding::ok(what, "none that joins packets before XDP")),
        None => None,
    }
}

fn occupied(link: &str) -> Finding {
    let what = format!("{} XDP", what(link));
    match kernel::program_on(link) {
        Ok(None) => Finding::ok(what, "no program is attached"),
        Ok(Some(id)) => Finding::ok(
            what,
            format!("program {id} is attached; `bpftool prog show id {id}` says whose it is"),
        ),
        Err(error) => Finding::warn(&what, error.to_string(), "ip -d link show"),
    }
}

fn forwarding(link: &str, family: u8) -> Finding {
    let what = format!("{} IPv{family} forwarding", what(link));
    match kernel::check_forwarding(link, family) {
        Ok(()) => Finding::ok(what, "on"),
        Err(error) => Finding::fail(&what, "off", error.to_string()),
    }
}

/// A line of what ethtool says.
fn ethtool(option: &str, link: &str, key: &str) -> Option<String> {
    let output = Command::new("ethtool").args([option, link]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next().map(str::to_owned)
}
