//! The proxies, each with one listener and one backend, upstream connections kept, and otherwise as
//! they come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns;
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::Topology;

use crate::stand::l7;

/// Who is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This daemon, with `global.io`.
    Steerage(Io),
    /// The same, with a backend that speaks TLS.
    SteerageTls(Io),
    /// Debian's HAProxy.
    Haproxy(Retry),
    /// Debian's nginx.
    Nginx(Retry),
}

/// `global.io`: how workers read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// By io_uring where the kernel allows it.
    Auto,
    /// By epoll.
    Epoll,
}

/// What a peer does with a request whose connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// What it does unless it is told otherwise.
    Default,
    /// It sends the request again, whatever its method.
    Always,
}

/// A running proxy.
#[derive(Debug)]
pub(super) enum Proxy {
    Steerage(Daemon),
    Other(#[allow(dead_code, reason = "dropped to end it")] Process),
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Steerage(Io::Auto),
        Self::SteerageTls(Io::Auto),
        Self::Steerage(Io::Epoll),
        Self::Haproxy(Retry::Default),
        Self::Nginx(Retry::Default),
        Self::Haproxy(Retry::Always),
        Self::Nginx(Retry::Always),
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steerage(Io::Auto) => "steerage",
            Self::Steerage(Io::Epoll) => "steerage-epoll",
            Self::SteerageTls(Io::Auto) => "steerage-tls",
            Self::SteerageTls(Io::Epoll) => "steerage-tls-epoll",
            Self::Haproxy(Retry::Default) => "haproxy",
            Self::Nginx(Retry::Default) => "nginx",
            Self::Haproxy(Retry::Always) => "haproxy-retry",
            Self::Nginx(Retry::Always) => "nginx-retry",
        }
    }
}

impl Proxy {
    pub(super) fn start(
        kind: Kind,
        topology: &Topology,
        scratch: &Scratch,
        backend: SocketAddr,
    ) -> Result<Self> {
        let host = &topology.balancer;
        let start = |program: &str, arguments: &[&str], config: PathBuf| {
            let mut command = host.command(program);
            command.args(arguments).arg(config);
            let process = Process::spawn(program, command, &scratch.join("proxy.log"))?;
            netns::wait_for_port(host, l7(), daemon::PATIENCE)
                .with_context(|| format!("{program}: {}", process.log_tail(10)))?;
            Ok(Self::Other(process))
        };
        match kind {
            Kind::Steerage(io) | Kind::SteerageTls(io) => {
                let tls = match kind {
                    // The other end is not what is put to the test.
                    Kind::SteerageTls(_) => "upstream_tls = { verify = false }",
                    _ => "",
                };
                let text = steerage(scratch, io, tls, backend);
                let config = scratch.write("steerage.toml", &text)?;
                let log = scratch.join("proxy.log");
                let daemon = Daemon::serving(host, &daemon::binary()?, &config, &log)?;
                daemon.wait_available(1)?;
                Ok(Self::Steerage(daemon))
            }
            Kind::Haproxy(retry) => {
                let config = scratch.write("haproxy.cfg", &haproxy(retry, backend))?;
                start("haproxy", &["-db", "-f"], config)
            }
            Kind::Nginx(retry) => {
                let config = scratch.write("nginx.conf", &nginx(retry, scratch, backend))?;
                start("nginx", &["-c"], config)
            }
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        l7()
    }

    /// What it says itself of the backend; only Steerage is asked.
    pub(super) fn counts(&self) -> Result<BTreeMap<String, u64>> {
        match self {
            Self::Steerage(daemon) => Ok(super::backend_counts(&daemon.status()?)),
            Self::Other(_) => Ok(BTreeMap::new()),
        }
    }
}

fn steerage(scratch: &Scratch, io: Io, tls: &str, backend: SocketAddr) -> String {
    let (global, bind) = (daemon::global(scratch), l7());
    let io = match io {
        Io::Auto => "auto",
        Io::Epoll => "epoll",
    };
    format!(
        "{global}workers = 2\nio = \"{io}\"\n\
         [[listener]]\nname = \"web\"\nbind = [\"{bind}\"]\nprotocol = \"http\"\n\
         [[listener.route]]\nservice = \"app\"\n\
         [[service]]\nname = \"app\"\n{tls}\n\
         [[service.backend]]\naddress = \"{backend}\"\n"
    )
}

pub(crate) fn haproxy(retry: Retry, backend: SocketAddr) -> String {
    let bind = l7();
    let retry = match retry {
        Retry::Default => "",
        Retry::Always => " retry-on all-retryable-errors\n",
    };
    format!(
        "defaults\n mode http\n timeout connect 3s\n timeout client 60s\n timeout server 60s\n\
         frontend web\n bind {bind}\n default_backend app\n\
         backend app\n{retry} server one {backend}\n"
    )
}

pub(crate) fn nginx(retry: Retry, scratch: &Scratch, backend: SocketAddr) -> String {
    let (bind, directory) = (l7(), scratch.path().display());
    let retry = match retry {
        Retry::Default => "",
        Retry::Always => "proxy_next_upstream error timeout non_idempotent;",
    };
    format!(
        "daemon off;\nuser root;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n\
         events {{}}\n\
         http {{\n access_log off;\n client_body_temp_path {directory}/nginx-body;\n\
         proxy_temp_path {directory}/nginx-proxy;\n fastcgi_temp_path {directory}/nginx-fastcgi;\n\
         uwsgi_temp_path {directory}/nginx-uwsgi;\n scgi_temp_path {directory}/nginx-scgi;\n\
         upstream app {{\n server {backend};\n keepalive 64;\n }}\n\
         server {{\n listen {bind};\n location / {{\n proxy_pass http://app;\n\
         {retry}\n proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n }}\n }}\n}}\n"
    )
}
