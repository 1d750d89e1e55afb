//! The tables of a running daemon, as the daemon itself has them.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use steerage::region::Fds;
use steerage_common::abi::SCHEMA_VERSION;

/// The tables that are pinned there, with figures beside them.
///
/// # Errors
/// If there are none.
pub fn fds(pins: &Path, figures: OwnedFd) -> Result<Fds> {
    let directory = pins.join(format!("v{SCHEMA_VERSION}"));
    let fd = |name: &str| -> Result<OwnedFd> {
        let map = MapData::from_pin(directory.join(name));
        let map =
            map.with_context(|| format!("{name} is not pinned in {}", directory.display()))?;
        Ok(map.fd().as_fd().try_clone_to_owned()?)
    };
    Ok(Fds {
        control: fd("CONTROL")?,
        backends: fd("BACKENDS")?,
        health: fd("HEALTH")?,
        state: fd("STATE")?,
        services: fd("SERVICES")?,
        crew: fd("CREW")?,
        workers: fd("WORKERS")?,
        reports: fd("REPORTS")?,
        cells: fd("CELLS")?,
        tickets: fd("TICKETS")?,
        clients: fd("CLIENTS")?,
        figures,
    })
}

/// The figures of a supervisor: memory that it has open.
///
/// # Errors
/// If it has none.
pub fn figures(supervisor: u32) -> Result<OwnedFd> {
    for entry in fs::read_dir(format!("/proc/{supervisor}/fd"))? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().contains("steerage-figures") {
            return Ok(File::options().read(true).write(true).open(path)?.into());
        }
    }
    anyhow::bail!("process {supervisor} has no figures")
}
