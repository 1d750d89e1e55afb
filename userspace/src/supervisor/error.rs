//! Why the supervisor could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::pem::Fault;

/// Why the supervisor could not start or go on. Each message names the thing, the place and the
/// remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PID file could not be written.
    #[error("pid file {}: {source}; set global.pid_file to a place that can be written", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon holds this instance.
    #[error(
        "another steerage (pid {pid}) holds {}; stop it first, or give this one its own \
         global.instance, global.pid_file and global.admin",
        path.display()
    )]
    AlreadyRunning {
        /// The PID file.
        path: PathBuf,
        /// What it says.
        pid: String,
    },
    /// The access log's destination could not be opened.
    #[error("global.access_log: cannot open {destination}: {source}; {}", log_remedy(source))]
    AccessLog {
        /// As the configuration names it.
        destination: String,
        /// What the system said.
        source: io::Error,
    },
    /// A listener's address could not be bound.
    #[error("listener {listener:?}: cannot bind {address}: {source}; {}", bind_remedy(source))]
    Bind {
        /// The listener's name.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates that can't serve.
    #[error("certificates: {}", faults(.0))]
    Certificates(Vec<Fault>),
    /// The metrics address could not be bound.
    #[error("global.metrics: cannot bind {address}: {source}; {}", bind_remedy(source))]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The admin socket could not be made.
    #[error("global.admin: cannot listen on {}: {source}; choose a place that can be written", path.display())]
    Admin {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A vip was asked for, and there is no eBPF to serve it.
    #[error("vip {vip:?} needs XDP: {source}")]
    Kernel {
        /// The vip's name.
        vip: String,
        /// What the kernel half said.
        source: crate::kernel::Error,
    },
    /// The kernel half failed at something after it had been loaded.
    #[error(transparent)]
    Program(#[from] crate::kernel::Error),
    /// A file of TLS to backends is not as it was looked at.
    #[error(transparent)]
    Keyring(#[from] crate::tls::upstream::Unreadable),
    /// The shared region could not be mapped.
    #[error("the shared region cannot be mapped: {0}")]
    Region(#[source] io::Error),
    /// There is no such user.
    #[error("global.user: there is no user {0:?} on this host; create it, or name another one")]
    NoUser(String),
    /// Only root may choose who workers run as.
    #[error("global.user: only root may run workers as {0:?}; run as root, or remove the key")]
    UserNeedsRoot(String),
    /// A vip's link does not exist.
    #[error(
        "vip {vip:?}: this host has no link named {interface:?}; `ip link` lists those there are"
    )]
    NoInterface {
        /// The vip's name.
        vip: String,
        /// The link's name.
        interface: String,
    },
    /// A backend of a vip can't be reached by packets that XDP forwards.
    #[error(
        "vip {vip:?}: its backend {backend} is this host itself, which XDP cannot forward packets \
         to; name a backend on another host"
    )]
    LocalBackend {
        /// The vip's name.
        vip: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// There are too many backends, with those that are leaving.
    #[error(
        "no slot is free for every backend: those that were removed keep theirs until their requests and \
         flows have ended; reload again then"
    )]
    NoSlots,
    /// More addresses than the packet programs can know.
    #[error(
        "vips and guarded addresses of listeners are more than {most}; bind listeners to fewer"
    )]
    TooManyAddresses {
        /// So many they can.
        most: usize,
    },
    /// A listener is to be guarded, and the daemon has no eBPF.
    #[error(
        "listener {listener:?}: this daemon was started without eBPF (its log says why), so nothing can \
         guard addresses; put that right and restart it"
    )]
    FirstGuard {
        /// The listener's name.
        listener: String,
    },
    /// A daemon without eBPF gets a vip.
    #[error(
        "vip {vip:?}: this daemon was started without eBPF (its log says why), which XDP needs; put that \
         right and restart it"
    )]
    FirstVip {
        /// The vip's name.
        vip: String,
    },
    /// A change at run time names what is not there.
    #[error(transparent)]
    Edit(#[from] crate::config::edit::Error),
    /// No such configuration is kept.
    #[error("{}; `steerage config revisions` lists what can be taken back", match .0 {
        Some(number) => format!("there is no revision {number}"),
        None => "no configuration was in force before this one".to_owned(),
    })]
    NoRevision(Option<u64>),
    /// The change is in force, and the file is as it was.
    #[error("{}: cannot be written: {source}; the change is in force until the next reload", path.display())]
    Persist {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What a former daemon hands over does not arrive.
    #[error(
        "the running daemon does not hand over: {source}; `steerage upgrade` starts the next one"
    )]
    Handover {
        /// What was missing.
        source: io::Error,
    },
    /// The former daemon's tables are not what this one was compiled for.
    #[error(
        "the running daemon {version} has tables of layout {found}, this one knows layout {expected}: \
         its flows cannot be taken over; restart instead, with this binary"
    )]
    OtherLayout {
        /// The running daemon's version.
        version: String,
        /// Its layout.
        found: u32,
        /// This one's.
        expected: u32,
    },
    /// An upgrade is of one instance.
    #[error(
        "the file's global.instance is {asked:?}, the running daemon's is {running:?}: an upgrade takes over \
         one instance; start the other one beside it"
    )]
    OtherInstance {
        /// What the file says.
        asked: String,
        /// What runs.
        running: String,
    },
    /// The next daemon did not get ready.
    #[error("{}: {why}; this daemon serves on", binary.display())]
    Upgrade {
        /// What was started.
        binary: PathBuf,
        /// Why it is not ready.
        why: String,
    },
    /// The daemon ends.
    #[error("the daemon is about to end")]
    Ending,
    /// A worker died before it could serve.
    #[error("worker {worker} stopped before it could serve ({status}); its own message is above")]
    WorkerStart {
        /// Its index.
        worker: usize,
        /// How it ended.
        status: String,
    },
    /// Every worker was given up.
    #[error(
        "no worker is left: each died again and again right after its start; what they said is above"
    )]
    NoWorkers,
    /// A worker could not be started.
    #[error("worker {worker} cannot be started: {source}")]
    Spawn {
        /// Its index.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Something that every Linux offers was refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`.
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

fn log_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its directory, or start the daemon that listens there",
        io::ErrorKind::PermissionDenied => "the daemon's user must be allowed to write there",
        _ if error.raw_os_error() == Some(libc::ENXIO) => "a FIFO needs a reader",
        _ => "choose another path, \"-\", \"syslog\", \"journald\" or \"off\"",
    }
}

fn bind_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there (`ss -ltnp` names it): stop it or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "this host has no such address: check `ip address`",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root: run as root or choose another port"
        }
        _ => "check the address",
    }
}

fn faults(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
