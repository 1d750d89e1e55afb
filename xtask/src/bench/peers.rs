//! The proxies under test, their origin, and one run of load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::sched_getaffinity;
use steerage_lab::command;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns::{self, Netns};
use steerage_lab::process::{self, Process};
use steerage_lab::scratch::Scratch;

use super::load::{self, Case, Count, Generator, Session};

/// First part of every name that is given here.
pub const PREFIX: &str = "steerage-bench";

/// How long a proxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Load before each run that is not counted: connections are made, caches warmed.
const WARM_UP: Duration = Duration::from_secs(1);

const ORIGIN: u16 = 9000;
const SINK: u16 = 9001;
const ORIGIN_HTTP2: u16 = 9002;
const ORIGIN_TLS: u16 = 9003;

/// The name in the certificate of all of them.
const NAME: &str = "bench.test";

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This daemon.
    Steerage,
    /// Debian's HAProxy.
    Haproxy,
    /// Debian's nginx.
    Nginx,
    /// The origin itself.
    Direct,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Steerage, Self::Haproxy, Self::Nginx, Self::Direct];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steerage => "steerage",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }

    const fn port(self, case: &Case) -> u16 {
        // All but Steerage have a port of its own for it.
        let is_http2 = matches!(case.by, Generator::H2load(_));
        match self {
            Self::Steerage if case.tls => 8021,
            Self::Haproxy if case.tls => 8022,
            Self::Nginx if case.tls => 8023,
            Self::Direct if case.tls => ORIGIN_TLS,
            Self::Steerage => 8001,
            Self::Haproxy if is_http2 => 8012,
            Self::Haproxy => 8002,
            Self::Nginx if is_http2 => 8013,
            Self::Nginx => 8003,
            Self::Direct if case.uploads => SINK,
            Self::Direct if is_http2 => ORIGIN_HTTP2,
            Self::Direct => ORIGIN,
        }
    }
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Responses in a second.
    pub per_second: f64,
    /// CPU time of the proxy's worker for one of them, in microseconds.
    pub cpu_us: Option<f64>,
}

/// Everything that runs. Fields are dropped in this order.
pub struct Peers {
    daemon: Daemon,
    nginx: Process,
    haproxy: Process,
    _origin: Process,
    _sink: Process,
    netns: Netns,
    scratch: Scratch,
    /// Where our own load generators are.
    tools: PathBuf,
    proxy_core: usize,
    load_core: usize,
}

impl Peers {
    /// Starts all of it.
    ///
    /// # Errors
    /// If one of them does not listen in time.
    pub fn start(binary: &Path) -> Result<Self> {
        let scratch = Scratch::new(PREFIX)?;
        let netns = Netns::create(format!("{PREFIX}-{}", std::process::id()))?;
        // Enough client ports for a connection a request.
        netns.sysctl("ipv4/ip_local_port_range", "10000 65535")?;
        let (load_core, proxy_core) = cores()?;
        let files = scratch.join("files");
        std::fs::create_dir(&files)?;
        std::fs::write(files.join("128"), [b'x'; 128])?;
        std::fs::write(files.join("64k"), vec![b'x'; 64 * 1024])?;
        // What `direct` is asked for by the path that goes to TLS.
        std::fs::create_dir(files.join("tls"))?;
        std::fs::copy(files.join("128"), files.join("tls/128"))?;
        scratch.write("upload.lua", include_str!("upload.lua"))?;
        certify(&scratch)?;

        let start = |name: &str, core: usize, arguments: &[&str]| {
            let mut command = pinned(&netns, core);
            command.args(arguments);
            Process::spawn(name, command, &scratch.join(&format!("{name}.out")))
        };
        let config = |name: &str, text: &str, port: u16| {
            let path = scratch.write(name, &fill(text, &scratch, port))?;
            anyhow::Ok(path.display().to_string())
        };
        let conf = config("origin.conf", include_str!("origin.conf"), ORIGIN)?;
        let origin = start("origin", load_core, &["nginx", "-c", &conf])?;
        let own = std::env::current_exe()?.display().to_string();
        let listen = format!("127.0.0.1:{SINK}");
        let sink =
            start("sink", load_core, &[&own, "backend", "--name", "sink", "--listen", &listen])?;
        let conf = config("nginx.conf", include_str!("nginx.conf"), 8003)?;
        let nginx = start("nginx", proxy_core, &["nginx", "-c", &conf])?;
        let conf = config("haproxy.cfg", include_str!("haproxy.cfg"), 8002)?;
        let haproxy = start("haproxy", proxy_core, &["haproxy", "-db", "-f", &conf])?;
        let conf = config("steerage.toml", include_str!("steerage.toml"), 8001)?;
        let mut command = pinned(&netns, proxy_core);
        command.arg(binary);
        let log = scratch.join("steerage.out");
        let mut daemon = Daemon::spawn(command, binary, Path::new(&conf), &log)?;
        daemon.wait_ready()?;
        for (port, process) in [(ORIGIN, &origin), (SINK, &sink), (8002, &haproxy), (8003, &nginx)]
        {
            netns::wait_for_port(&netns, SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)
                .with_context(|| format!("{}: {}", process.name(), process.log_tail(10)))?;
        }
        let (_origin, _sink) = (origin, sink);
        let tools = binary.parent().context("the binary is nowhere")?.to_owned();
        Ok(Self {
            daemon,
            nginx,
            haproxy,
            _origin,
            _sink,
            netns,
            scratch,
            tools,
            proxy_core,
            load_core,
        })
    }

    /// Machine, versions and cores.
    pub fn describe(&self) -> String {
        let first = |program: &str, flag: &str| {
            let output = Command::new(program).arg(flag).output().ok();
            let text = output.map(|out| [out.stdout, out.stderr].concat()).unwrap_or_default();
            String::from_utf8_lossy(&text).lines().next().unwrap_or("?").to_owned()
        };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        format!(
            "Linux {}; {}; {}\none worker each on core {}; origin (nginx) and load on core {}",
            kernel.trim(),
            first("haproxy", "-v"),
            first("nginx", "-v"),
            self.proxy_core,
            self.load_core
        )
    }

    /// Puts one case on one of them.
    ///
    /// # Errors
    /// If a request fails.
    pub fn measure(&mut self, kind: Kind, case: &Case, span: Duration) -> Result<Run> {
        let label = || format!("{} on {}", case.name, kind.name());
        self.load(kind, case, WARM_UP).with_context(label)?;
        let before = self.cpu_ns(kind)?;
        let count = self.load(kind, case, span).with_context(label)?;
        let after = self.cpu_ns(kind)?;
        #[allow(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 of either")]
        let per_request = |ns: u64| ns as f64 / 1e3 / count.requests as f64;
        let cpu_us = before.zip(after).map(|(before, after)| per_request(after - before));
        Ok(Run { per_second: count.per_second, cpu_us })
    }

    fn load(&self, kind: Kind, case: &Case, span: Duration) -> Result<Count> {
        let scheme = if case.tls { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}{}", kind.port(case), case.path);
        let (connections, seconds) = (case.connections.to_string(), span.as_secs().to_string());
        let mut generator = pinned(&self.netns, self.load_core);
        match case.by {
            Generator::Wrk(arguments) => {
                generator.args(["wrk", "-t1", "-c", &connections, "-d", &format!("{seconds}s")]);
                generator.args(arguments);
                if case.uploads {
                    generator.arg("-s").arg(self.scratch.join("upload.lua"));
                }
            }
            Generator::H2load(streams) => {
                generator.args(["h2load", "-t1", "-c", &connections, "-D", &seconds]);
                generator.args(["-m", &streams.to_string()]);
            }
            Generator::Handshakes(session) => {
                generator.arg(self.tools.join("handshakes"));
                generator.args(["--connections", &connections, "--seconds", &seconds]);
                generator.args(["--name", NAME, "--ca"]).arg(self.scratch.join("tls.crt"));
                if session == Session::Resumed {
                    generator.arg("--resume");
                }
            }
        }
        let report = command::output(generator.arg(url));
        steerage_lab::interrupt::check()?;
        load::read(case.by, &report?)
    }

    /// CPU time so far of the processes that serve requests.
    fn cpu_ns(&self, kind: Kind) -> Result<Option<u64>> {
        let pids = match kind {
            Kind::Steerage => self.daemon.workers()?,
            Kind::Haproxy => vec![self.haproxy.pid()],
            Kind::Nginx => process::children(self.nginx.pid()),
            Kind::Direct => return Ok(None),
        };
        let times = pids.into_iter().map(process::cpu_ns);
        times.sum::<Result<u64>>().map(Some)
    }
}

/// Makes a key (P-256) and a certificate of it, which is its own authority; both in one file for HAProxy.
fn certify(scratch: &Scratch) -> Result<()> {
    let (key, certificate) = (scratch.join("tls.key"), scratch.join("tls.crt"));
    // A server's certificate and not an authority's: rustls takes no other from a server.
    let config = format!(
        "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n\
         [name]\nCN = {NAME}\n\
         [extensions]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:{NAME}\n"
    );
    let config = scratch.write("tls.cnf", &config)?;
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    openssl.args(["-days", "2", "-config"]).arg(config);
    command::output(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    let both = [std::fs::read(certificate)?, std::fs::read(key)?].concat();
    std::fs::write(scratch.join("tls.pem"), both)?;
    Ok(())
}

/// A command on one core, inside the namespace.
fn pinned(netns: &Netns, core: usize) -> Command {
    let mut command = netns.command("taskset");
    command.args(["-c", &core.to_string()]);
    command
}

fn fill(text: &str, scratch: &Scratch, port: u16) -> String {
    text.replace("@GLOBAL@", &daemon::global(scratch))
        .replace("@DIR@", &scratch.path().display().to_string())
        .replace("@PORT@", &port.to_string())
        .replace("@PORT_HTTP2@", &(port + 10).to_string())
        .replace("@PORT_TLS@", &(port + 20).to_string())
        .replace("@ORIGIN_TLS@", &ORIGIN_TLS.to_string())
        .replace("@ORIGIN_HTTP2@", &ORIGIN_HTTP2.to_string())
        .replace("@ORIGIN@", &ORIGIN.to_string())
        .replace("@SINK@", &SINK.to_string())
}

/// The core of the load and that of the proxies: the first and the last that this process may use.
fn cores() -> Result<(usize, usize)> {
    let set = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..1024).filter(|core| set.is_set(*core)).collect();
    let (first, last) = cores.first().zip(cores.last()).context("this process has no core")?;
    if first == last {
        eprintln!(
            "only one core: the load disturbs the proxies, and only CPU time means something"
        );
    }
    Ok((*first, *last))
}
