//! Putting the program on links, replacing it there, taking it off.
//!
//! Each link has a `bpf_link`, pinned at `<instance>/links/xdp-<interface>`. The pin alone keeps the
//! program attached: forwarding goes on when the daemon stops, and a new daemon swaps its own program
//! in under the same link, between two packets.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use nix::net::if_::if_nametoindex;
use steerage_common::abi::FAMILY_IPV6;
use tracing::{info, warn};

use super::{Error, Kernel, error::os_error, netlink};

/// How a link runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// After the driver: slower, works everywhere.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Kernel {
    /// Attaches the program to an interface of this network namespace: in the driver if it can, else
    /// behind it. A program that this instance attached before is replaced atomically. Packets of these
    /// families are to be sent on.
    ///
    /// # Errors
    /// If there is no such interface, it does not forward, another program holds it, or the kernel
    /// refuses.
    pub fn attach(&mut self, interface: &str, families: &[u8]) -> Result<Mode, Error> {
        let ifindex =
            if_nametoindex(interface).map_err(|_| Error::NoInterface(interface.to_owned()))?;
        families.iter().try_for_each(|family| check_forwarding(interface, *family))?;
        let directory = self.instance_dir.join("links");
        fs::create_dir_all(&directory)
            .map_err(Error::io(format!("creating {}", directory.display())))?;
        let pin = pin_of(&self.instance_dir, interface);
        if !(pin.exists() && self.replace(interface, ifindex, &pin)?) {
            self.attach_anew(interface, ifindex, &pin)?;
        }
        let attached = link_state(interface, ifindex)?;
        Ok(if attached.mode == XDP_ATTACHED_SKB { Mode::Generic } else { Mode::Native })
    }

    /// Takes the program off one link, if it is there.
    ///
    /// # Errors
    /// If the pin can't be removed.
    pub fn detach_from(&mut self, interface: &str) -> Result<(), Error> {
        let pin = pin_of(&self.instance_dir, interface);
        remove(fs::remove_file(&pin), &pin)
    }

    /// Takes all programs of the instance off their links.
    ///
    /// # Errors
    /// If a pin can't be removed.
    pub fn detach_all(&mut self) -> Result<(), Error> {
        remove_links(&self.instance_dir)
    }

    /// Swaps the program in under the pinned link; false if the link is no longer this interface's.
    fn replace(&mut self, interface: &str, ifindex: u32, pin: &Path) -> Result<bool, Error> {
        let id = self.program_id()?;
        let program = self.program_mut()?;
        let updated = PinnedLink::from_pin(pin)
            .map_err(|error| failed(interface, error))
            .and_then(|link| {
                XdpLink::try_from(FdLink::from(link)).map_err(|error| failed(interface, error))
            })
            .and_then(|link| {
                program.attach_to_link(link).map_err(|error| failed(interface, error))
            });
        match updated {
            Ok(link) => {
                let _ = program.take_link(link);
                // An interface of this name may have gone and come again since the pin was made.
                if link_state(interface, ifindex)?.program == id {
                    return Ok(true);
                }
            }
            Err(error) => info!(interface, %error, "the pinned link is stale"),
        }
        fs::remove_file(pin).map_err(Error::io(format!("removing {}", pin.display())))?;
        Ok(false)
    }

    fn attach_anew(&mut self, interface: &str, ifindex: u32, pin: &Path) -> Result<(), Error> {
        let program = self.program_mut()?;
        let link = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(link) => link,
            Err(error) if os_error(&error) == Some(libc::EBUSY) => {
                return Err(busy(interface, ifindex));
            }
            Err(error) => {
                info!(interface, %error, "no XDP in this driver, or not as it is set up: generic mode");
                generic(program, interface, ifindex)?
            }
        };
        pin_link(program, link, interface, pin)
    }
}

/// `XDP_ATTACHED_SKB` of the kernel's `if_link.h`.
const XDP_ATTACHED_SKB: u8 = 2;

fn generic(program: &mut Xdp, interface: &str, ifindex: u32) -> Result<XdpLinkId, Error> {
    program.attach_to_if_index(ifindex, XdpMode::Skb).map_err(|error| match os_error(&error) {
        Some(libc::EBUSY) => busy(interface, ifindex),
        Some(libc::EPERM) => {
            Error::NoPrivilege { what: format!("attaching an XDP program to {interface}") }
        }
        _ => failed(interface, error),
    })
}

/// From here on the pin alone holds the link.
fn pin_link(program: &mut Xdp, link: XdpLinkId, interface: &str, pin: &Path) -> Result<(), Error> {
    let link = program.take_link(link).map_err(|error: ProgramError| failed(interface, error))?;
    let link = FdLink::try_from(link).map_err(|error| failed(interface, error))?;
    link.pin(pin).map(drop).map_err(|error| failed(interface, error))
}

fn failed(interface: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Attach { interface: interface.to_owned(), source: Box::new(error) }
}

fn busy(interface: &str, ifindex: u32) -> Error {
    let program = netlink::attached(ifindex).map_or(0, |attached| attached.program);
    Error::Busy { interface: interface.to_owned(), program }
}

fn link_state(interface: &str, ifindex: u32) -> Result<netlink::Attached, Error> {
    netlink::attached(ifindex).map_err(Error::io(format!("asking about the link {interface}")))
}

/// Whether packets of a family are forwarded from an interface: `bpf_fib_lookup` finds no way for them else.
///
/// # Errors
/// If they are not.
pub fn check_forwarding(interface: &str, family: u8) -> Result<(), Error> {
    let protocol = if family == FAMILY_IPV6 { "ipv6" } else { "ipv4" };
    let path = format!("/proc/sys/net/{protocol}/conf/{interface}/forwarding");
    match fs::read_to_string(path) {
        Ok(text) if text.trim() == "0" => {
            Err(Error::NoForwarding { interface: interface.to_owned(), protocol })
        }
        // Without the file (no /proc) the counters will tell.
        _ => Ok(()),
    }
}

fn pin_of(instance_dir: &Path, interface: &str) -> PathBuf {
    instance_dir.join("links").join(format!("xdp-{interface}"))
}

/// The id of the XDP program on a link, whoever attached it.
///
/// # Errors
/// If there is no such link, or the kernel can't be asked.
pub fn program_on(interface: &str) -> Result<Option<u32>, Error> {
    let unknown = |_| Error::NoInterface(interface.to_owned());
    let ifindex = if_nametoindex(interface).map_err(unknown)?;
    let program = link_state(interface, ifindex)?.program;
    Ok((program != 0).then_some(program))
}

/// Removes everything that an instance left in the kernel: links first, so that no packet meets a
/// program whose maps nobody keeps; then maps. An instance that left nothing is fine.
///
/// # Errors
/// If a pin can't be removed.
pub fn detach(instance_dir: &Path) -> Result<(), Error> {
    remove_links(instance_dir)?;
    for directory in entries(instance_dir)? {
        for pin in entries(&directory)? {
            remove(fs::remove_file(&pin), &pin)?;
        }
        remove(fs::remove_dir(&directory), &directory)?;
    }
    remove(fs::remove_dir(instance_dir), instance_dir)
}

fn remove_links(instance_dir: &Path) -> Result<(), Error> {
    for pin in entries(&instance_dir.join("links"))? {
        remove(fs::remove_file(&pin), &pin)?;
    }
    Ok(())
}

fn remove(outcome: io::Result<()>, path: &Path) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            warn!(path = %path.display(), %error, "a pin stays");
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        Ok(()) => Ok(()),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let what = || Error::io(format!("listing {}", directory.display()));
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(what()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(what()(error)),
    }
}
