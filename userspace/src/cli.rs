//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// An L4 and L7 load balancer: XDP and HTTP on one health truth.
#[derive(Debug, Parser)]
#[command(name = "steerage", version, about)]
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
    },
    /// Check a configuration file; says line and remedy of every mistake.
    Check {
        /// The file.
        file: PathBuf,
        /// What to say beside that.
        #[command(flatten)]
        request: Request,
    },
    /// Show services, backends, vips and workers of the running daemon.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// The daemon's admin socket; by default the one that the configuration names.
        #[arg(long, value_name = "SOCKET")]
        admin: Option<PathBuf>,
        /// Which configuration.
        #[command(flatten)]
        config: Config,
    },
    /// Remove the programs and tables that L4 forwarding goes on with after the daemon has stopped.
    Detach {
        /// Which configuration.
        #[command(flatten)]
        config: Config,
    },
    /// What the supervisor starts workers with.
    #[command(hide = true)]
    Worker(Worker),
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
    /// The region's tables.
    #[arg(long, value_delimiter = ',')]
    pub region: Vec<i32>,
    /// `listener:descriptor` each.
    #[arg(long, value_delimiter = ',')]
    pub sockets: Vec<String>,
}
