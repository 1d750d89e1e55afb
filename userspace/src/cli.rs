//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Overrides, Source, overrides};
use crate::import::Kind;
use crate::kernel::decap::Hook;

/// Version and build, and what must be the same for two daemons to follow one another.
const LONG_VERSION: &str = concat!(
    env!("STEERAGE_BUILD"),
    "\nbuilt by ",
    env!("STEERAGE_COMPILER"),
    " for ",
    env!("STEERAGE_TARGET"),
);

/// What a command's exit code says.
const EXIT_CODES: &str = "\
Exit code: 0 if it was done, 1 if not (standard error says why), 2 if the command line is not understood.
Colours are for terminals alone, and none if NO_COLOR is set.";

/// An L4 and L7 load balancer: XDP and HTTP on one health truth.
#[derive(Debug, Parser)]
#[command(
    name = "steerage",
    version,
    long_version = LONG_VERSION,
    about,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground.
    Run {
        /// Which configuration.
        #[command(flatten)]
        config: Config,
        /// Follow the running daemon at the other end of standard input.
        #[arg(long, hide = true)]
        inherit: bool,
    },
    /// Start another binary, or the same one, in the running daemon's place: no connection is closed
    /// that its workers can finish, and no flow moves.
    Upgrade {
        /// The binary; by default the one that the daemon was started from, as it is on disk now.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Say whether this host has what the daemon needs, and what to do where it has not.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// The configuration file; by default /etc/steerage/steerage.toml if it is there.
        #[arg(short = 'c', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
        /// Values that hold whatever the file says.
        #[command(flatten)]
        overrides: Set,
    },
    /// Check a configuration file; says line and remedy of every mistake.
    Check {
        /// The file.
        file: PathBuf,
        /// As JSON: what it holds, or each mistake with its line and column.
        #[arg(long, conflicts_with = "explain")]
        json: bool,
        /// Values that hold whatever the file says.
        #[command(flatten)]
        overrides: Set,
        /// What to say beside that.
        #[command(flatten)]
        request: Request,
    },
    /// Translate another proxy's configuration into one of Steerage's; what could not be is said.
    Import {
        /// `nginx.conf` or `haproxy.cfg`.
        file: PathBuf,
        /// Whose it is; by default as its name has it.
        #[arg(long, value_enum)]
        from: Option<Kind>,
        /// Where to; by default standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show services, backends, vips and workers of the running daemon.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show the running daemon's services, backends, vips, listeners, workers and certificates live; drain
    /// backends and take them back. Without a terminal: `status`, once.
    Top {
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print lines of the running daemon's access log as they come, wherever else they are written. The
    /// daemon does not wait: how many lines it left out is said.
    Logs {
        /// That is what it does; for those who are used to say so.
        #[arg(short, long)]
        follow: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Have the running daemon take its configuration file anew.
    Reload {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Seal tickets of TLS sessions with another key, before its time: after the third time nothing that
    /// was sealed before opens any more.
    RotateTickets {
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show the configuration in force, and what a reload would change.
    Config {
        /// What to do.
        #[command(subcommand)]
        what: ConfigOrder,
    },
    /// List backends, and take them out of service and back.
    Backend {
        /// What to do.
        #[command(subcommand)]
        what: Backend,
    },
    /// Say which backend a flow gets, and why, from the tables by which packets are steered.
    Flows(Flows),
    /// Write packets of vips to a pcapng file, as they came and as they left, with what became of them.
    Capture(Capture),
    /// On a backend: take packets out of a balancer's tunnels, in the foreground.
    Decap(Decap),
    /// Remove the programs and tables that L4 forwarding goes on with after the daemon has stopped.
    Detach {
        /// Which configuration.
        #[command(flatten)]
        config: Config,
    },
    /// Print a shell's completions.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write manual pages and completions, as packages install them.
    #[command(hide = true)]
    Generate {
        /// What becomes `/usr/share`.
        #[arg(long)]
        into: PathBuf,
    },
    /// What the supervisor starts workers with.
    #[command(hide = true)]
    Worker(Worker),
}

/// Packets to be captured.
#[derive(Debug, Args)]
pub struct Capture {
    /// Only packets to this vip and from it, also those that pass untouched; by default all that were not
    /// passed untouched.
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,
    /// One of so many packets, at random.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// End after so many packets; by default with SIGINT or SIGTERM.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Where to; `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Which configuration.
    #[command(flatten)]
    pub config: Config,
}

/// A flow to be explained.
#[derive(Debug, Args)]
pub struct Flows {
    /// Address of the client.
    pub source: IpAddr,
    /// Port of the client.
    pub source_port: u16,
    /// The vip: its name, or `ADDRESS:PORT`.
    pub vip: String,
    /// Only this protocol; by default each that the address has a vip of.
    #[arg(long, value_parser = ["tcp", "udp"])]
    pub protocol: Option<String>,
    /// As JSON: one value for each protocol.
    #[arg(long)]
    pub json: bool,
    /// Which configuration.
    #[command(flatten)]
    pub config: Config,
}

/// What to take out of tunnels.
#[derive(Debug, Args)]
pub struct Decap {
    /// A link that tunnels' packets come in on; may be repeated.
    #[arg(long, required = true, value_name = "LINK")]
    pub interface: Vec<String>,
    /// Where to take them: before the kernel's network stack, or on its way into it.
    #[arg(long, value_enum, default_value_t = Hook::Xdp)]
    pub hook: Hook,
    /// A service address that this host serves (on its loopback link, say); may be repeated.
    #[arg(long, required = true, value_name = "ADDRESS")]
    pub vip: Vec<IpAddr>,
}

/// A request to be explained.
#[derive(Debug, Args)]
pub struct Request {
    /// Say which route and service a request to this URL would take, and why.
    #[arg(long, value_name = "URL")]
    pub explain: Option<String>,
    /// The request's method.
    #[arg(long, requires = "explain", default_value = "GET")]
    pub method: String,
    /// A header of the request, as 'Name: value'; may be repeated.
    #[arg(long, requires = "explain", value_name = "HEADER")]
    pub header: Vec<String>,
    /// Only this listener; by default all that are bound to the URL's port.
    #[arg(long, requires = "explain", value_name = "NAME")]
    pub listener: Option<String>,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigOrder {
    /// Print the configuration in force, as JSON.
    Show {
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print the JSON schema of the configuration file, which editors can use.
    Schema,
    /// Print the text that the configuration in force was made of.
    Text {
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Say what the daemon's file says else than what is in force; nothing is changed.
    Diff {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Put another configuration in force, until the daemon's own file is read the next time.
    Apply {
        /// A file that holds it; `-` for standard input.
        file: PathBuf,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// Give one key another value.
    Set {
        /// The key: `global.log.level`, `service.NAME.panic_percent`.
        key: String,
        /// The value as in the file; quotes around a text may be left out.
        value: String,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// Take a configuration back.
    Rollback {
        /// To which revision; by default to the one before that in force.
        revision: Option<u64>,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// List the configurations that can be taken back; the last is in force.
    Revisions {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// What to do with backends.
#[derive(Debug, Subcommand)]
pub enum Backend {
    /// List the backends of all services with their states.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a backend no new work, and show what it still has until that is done.
    Drain {
        /// `ADDRESS:PORT`, in every service that has it, or `SERVICE/ADDRESS:PORT`.
        name: String,
        /// After this time the backend is out, whatever is left: tunnels are closed, flows move.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        deadline: Option<Duration>,
        /// Only give the order.
        #[arg(long)]
        no_wait: bool,
        /// As JSON, one value a line.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Give a service another backend, until the daemon's file is read the next time.
    Add {
        /// `SERVICE/ADDRESS:PORT`.
        name: String,
        /// Its share of the work, 0 to 256.
        #[arg(long)]
        weight: Option<u16>,
        /// It serves while no lower tier has any backend.
        #[arg(long)]
        tier: Option<u8>,
        /// Requests that it may have at a time.
        #[arg(long)]
        max_requests: Option<u32>,
        /// Connections that it may have in use.
        #[arg(long)]
        max_connections: Option<u32>,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// Take a backend out of the configuration: it finishes what it has.
    Remove {
        /// `ADDRESS:PORT`, in every service that has it, or `SERVICE/ADDRESS:PORT`.
        name: String,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// Give a backend another share of the work.
    Weight {
        /// `ADDRESS:PORT`, in every service that has it, or `SERVICE/ADDRESS:PORT`.
        name: String,
        /// The weight, 0 to 256; 0 takes no new work.
        weight: u16,
        /// How.
        #[command(flatten)]
        options: Change,
    },
    /// Let a backend take work again.
    Undrain {
        /// `ADDRESS:PORT`, in every service that has it, or `SERVICE/ADDRESS:PORT`.
        name: String,
        /// As JSON, one value a line.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Take a backend out at once.
    Maintenance {
        /// `ADDRESS:PORT`, in every service that has it, or `SERVICE/ADDRESS:PORT`.
        name: String,
        /// As JSON, one value a line.
        #[arg(long)]
        json: bool,
        /// Which daemon.
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// How a change of the configuration is made.
#[derive(Debug, Args)]
pub struct Change {
    /// Make it in the daemon's configuration file too; everything else there stays as it is written.
    #[arg(long)]
    pub persist: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// Which daemon to ask.
#[derive(Debug, Args)]
pub struct Daemon {
    /// The daemon's admin socket; by default the one that the configuration names.
    #[arg(long, value_name = "SOCKET")]
    pub admin: Option<PathBuf>,
    /// Which configuration.
    #[command(flatten)]
    pub config: Config,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct Config {
    /// The configuration file.
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        default_value = "/etc/steerage/steerage.toml"
    )]
    pub path: PathBuf,
    /// Values that hold whatever the file says.
    #[command(flatten)]
    pub overrides: Set,
}

/// Values that hold whatever the file says.
#[derive(Debug, Args)]
// A command may be called `set`, too.
#[group(id = "overrides")]
pub struct Set {
    /// Another value for a key of the file: `global.drain=5s`, `service.NAME.balance=random`; may be
    /// repeated. Variables do the same: STEERAGE_GLOBAL_DRAIN=5s.
    #[arg(id = "override", long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Config {
    /// The file and what holds whatever it says.
    ///
    /// # Errors
    /// If an option is none.
    pub fn source(&self) -> Result<Source, overrides::Error> {
        self.overrides.source(&self.path)
    }
}

impl Set {
    /// The file with these values, and those of the environment.
    ///
    /// # Errors
    /// If an option is none.
    pub fn source(&self, path: &Path) -> Result<Source, overrides::Error> {
        // A variable that is no text is none of ours.
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let overrides = Overrides::new(std::env::vars_os().filter_map(text), &self.set)?;
        Ok(Source { path: path.to_owned(), overrides })
    }
}

/// Descriptors that the supervisor left open.
#[derive(Debug, Args)]
pub struct Worker {
    /// The setup's memory.
    #[arg(long)]
    pub setup: i32,
    /// The control socket.
    #[arg(long)]
    pub control: i32,
    /// The way of lines about requests.
    #[arg(long)]
    pub log: i32,
    /// The region's tables.
    #[arg(long, value_delimiter = ',')]
    pub region: Vec<i32>,
    /// Listening sockets, in the order of the plan's.
    #[arg(long, value_delimiter = ',')]
    pub sockets: Vec<i32>,
}
