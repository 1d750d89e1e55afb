//! What can go wrong between userspace and the kernel, and what to do about it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::maps::MapError;

use super::layout::Layout;

/// A failure at the border to the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No BPF file system where the pins should go.
    #[error(
        "{} is not on a BPF file system, and pinned maps need one; \
         `mount -t bpf bpf /sys/fs/bpf`, or set global.bpf_dir",
        path.display()
    )]
    NoBpffs {
        /// Where pins should go.
        path: PathBuf,
    },
    /// The kernel lacks something that the programs use.
    #[error("Linux {found} is too old for the L4 plane, which needs {needed} or later")]
    OldKernel {
        /// The running kernel.
        found: String,
        /// The oldest one that will do.
        needed: &'static str,
    },
    /// The process may not do this.
    #[error(
        "{what} is not permitted; run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON"
    )]
    NoPrivilege {
        /// What was attempted.
        what: String,
    },
    /// A pinned map is not laid out as this version lays it out.
    #[error(
        "{}: the pinned map {map} is {found}, and this version needs {expected}; \
         `steerage detach` removes the former version's maps (L4 flows end)",
        path.display()
    )]
    Layout {
        /// The map's name.
        map: String,
        /// Where it is pinned.
        path: PathBuf,
        /// The pinned map.
        found: Box<Layout>,
        /// What the programs were compiled for.
        expected: Box<Layout>,
    },
    /// The pinned maps say that another schema made them.
    #[error(
        "{}: the pinned maps have schema {found}, and this version needs {expected}; \
         `steerage detach` removes them (L4 flows end)",
        path.display()
    )]
    Schema {
        /// The pin of `CONTROL`.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// [`steerage_common::abi::SCHEMA_VERSION`].
        expected: u32,
    },
    /// The kernel refused the programs or their maps.
    #[error("the kernel refused the programs: {0}")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The object has no such map or program.
    #[error(
        "the kernel object has no {0}; it was not built from this version's sources \
         (STEERAGE_EBPF_OBJECT?)"
    )]
    Missing(&'static str),
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A ring was asked for that is outside the table.
    #[error("{what} {index} is out of range")]
    OutOfRange {
        /// What the index counts.
        what: &'static str,
        /// The index.
        index: usize,
    },
    /// There is no such link.
    #[error("there is no network interface named {0:?}; `ip link` lists those there are")]
    NoInterface(String),
    /// Another XDP program holds the link.
    #[error(
        "{interface}: another XDP program (id {program}) is attached; `bpftool net show dev \
         {interface}` names it, `ip link set dev {interface} xdp off` removes one that was attached \
         without a link"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The other program.
        program: u32,
    },
    /// The kernel would not forward what comes in on this link.
    #[error(
        "{interface}: the kernel forwards no {protocol} packets from this interface, so there is no next \
         hop for them; `sysctl -w net.{protocol}.conf.{interface}.forwarding=1` (or \
         net.{protocol}.conf.all.forwarding=1)"
    )]
    NoForwarding {
        /// The interface.
        interface: String,
        /// `ipv4` or `ipv6`.
        protocol: &'static str,
    },
    /// Another process captures packets.
    #[error("process {pid} captures already; one can at a time")]
    Capturing {
        /// The other process.
        pid: u32,
    },
    /// The program could not be attached in any mode.
    #[error("{interface}: the XDP program cannot be attached: {source}")]
    Attach {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Asking the kernel for a neighbour failed.
    #[error("link {ifindex}: cannot ask for the link address of {address}: {source}")]
    Neighbor {
        /// The link.
        ifindex: u32,
        /// The next hop.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something on the way to the kernel failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// An I/O error, or what it means here.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivilege { what },
            _ => Self::Io { what, source },
        }
    }

    /// A failed map operation.
    pub(super) fn map(map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }

    /// A refusal of the programs, or what it means here.
    pub(super) fn load(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        match os_error(&error) {
            Some(libc::EPERM) => Self::NoPrivilege { what: "loading eBPF programs".into() },
            _ => Self::Load(Box::new(error)),
        }
    }
}

/// The system's error number at the root of `error`.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}
