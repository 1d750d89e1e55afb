//! A whole installation under test: hosts, backends and the daemon, with a configuration made of a
//! few choices.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steerage_lab::backend::Backend;
use steerage_lab::client::{Connection, Curl, curl};
use steerage_lab::command;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, BALANCER, CLIENT_LINK, Topology, VIP};
use steerage_lab::udp::Echo;
use steerage_lab::wait;

/// First part of every name that tests give.
pub const PREFIX: &str = "steerage-test";

/// Port of the listener.
const PORT: u16 = 8080;

/// Where the listener answers.
#[must_use]
pub fn l7() -> SocketAddr {
    SocketAddr::from((BALANCER, PORT))
}

/// Where the TCP vip answers.
#[must_use]
pub fn l4() -> SocketAddr {
    SocketAddr::from((VIP, 80))
}

/// Where the UDP vip answers.
#[must_use]
pub fn l4_udp() -> SocketAddr {
    SocketAddr::from((VIP, 53))
}

/// The choices.
#[derive(Clone, Debug)]
pub struct Choices {
    /// `global.workers`.
    pub workers: usize,
    /// A backend for each weight.
    pub weights: Vec<u16>,
    /// Their tiers; 0 for those that are not named.
    pub tiers: Vec<u8>,
    /// Whether there is a TCP vip.
    pub tcp_vip: bool,
    /// Whether there is a UDP vip, on the same backends.
    pub udp_vip: bool,
    /// More keys of `[global]`.
    pub global: &'static str,
    /// Keys of the service; probe and balance among them.
    pub service: &'static str,
    /// More listeners and services.
    pub more: String,
}

/// Probes that find a dead backend soon, and a breaker that trips before them under load.
pub const QUICK: &str = "balance = \"round_robin\"\n\
    probe = { kind = \"http\", path = \"/health\", interval = \"200ms\", timeout = \"100ms\", \
    rise = 2, fall = 2 }\n\
    ejection = { consecutive = 3, base = \"1s\" }\n";

impl Default for Choices {
    fn default() -> Self {
        Self {
            workers: 2,
            weights: vec![1, 1],
            tiers: Vec::new(),
            tcp_vip: false,
            udp_vip: false,
            global: "",
            service: QUICK,
            more: String::new(),
        }
    }
}

impl Choices {
    /// The configuration file.
    #[must_use]
    pub fn config(&self, scratch: &Scratch) -> String {
        let mut text = daemon::global(scratch);
        let _ = writeln!(text, "workers = {}\n{}", self.workers, self.global);
        let _ = write!(
            text,
            "[[listener]]\nname = \"web\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
             [[listener.route]]\nservice = \"app\"\nmax_body = \"off\"\n\n",
            l7()
        );
        let vips = [(self.tcp_vip, "tcp", l4()), (self.udp_vip, "udp", l4_udp())];
        for (_, protocol, address) in vips.into_iter().filter(|(wanted, ..)| *wanted) {
            let _ = write!(
                text,
                "[[vip]]\nname = \"app-{protocol}\"\naddress = \"{address}\"\n\
                 protocol = \"{protocol}\"\nmode = \"nat\"\ninterface = \"{CLIENT_LINK}\"\n\
                 service = \"app\"\n\n",
            );
        }
        let _ = writeln!(text, "[[service]]\nname = \"app\"\n{}", self.service);
        let tiers = self.tiers.iter().chain(std::iter::repeat(&0));
        for ((number, weight), tier) in (1..).zip(&self.weights).zip(tiers) {
            let address = topology::backend_socket(number);
            let _ = writeln!(
                text,
                "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\ntier = {tier}"
            );
        }
        text.push_str(&self.more);
        text
    }
}

/// The installation. Fields are dropped in this order.
#[derive(Debug)]
pub struct Stand {
    /// The daemon.
    pub daemon: Daemon,
    /// The backends, number 1 first; `None` for one that was killed.
    pub backends: Vec<Option<Backend>>,
    /// The hosts.
    pub topology: Topology,
    /// The configuration file.
    pub config: PathBuf,
    /// Files of the test.
    pub scratch: Scratch,
}

impl Stand {
    /// Builds it, with every backend up.
    ///
    /// # Errors
    /// If the daemon does not serve, with its log.
    pub fn start(choices: &Choices) -> Result<Self> {
        Self::start_with(choices, |_| Ok(()))
    }

    /// As [`start`](Self::start), with a change of the hosts before the daemon starts.
    ///
    /// # Errors
    /// As `start`, or if the change fails.
    pub fn start_with(
        choices: &Choices,
        change: impl FnOnce(&Topology) -> Result<()>,
    ) -> Result<Self> {
        let count = u8::try_from(choices.weights.len())?;
        let scratch = Scratch::new(PREFIX)?;
        let topology = Topology::build(PREFIX, count)?;
        change(&topology)?;
        let backends: Vec<_> =
            (1..=count).map(|n| start_backend(&topology, n).map(Some)).collect::<Result<_>>()?;
        let config = scratch.write("steerage.toml", &choices.config(&scratch))?;
        let daemon = serve(&topology, &config, &scratch)?;
        daemon.wait_available(u64::from(count)).with_context(|| daemon.log())?;
        Ok(Self { daemon, backends, topology, config, scratch })
    }

    /// Starts one more daemon on the same configuration: a successor.
    ///
    /// # Errors
    /// If it does not serve, with its log.
    pub fn successor(&self) -> Result<Daemon> {
        serve(&self.topology, &self.config, &self.scratch)
    }

    /// Ends a backend at once, with its connections.
    pub fn kill_backend(&mut self, number: u8) {
        self.backends[usize::from(number) - 1] = None;
    }

    /// Starts a killed backend again.
    ///
    /// # Errors
    /// If its address is taken.
    pub fn revive_backend(&mut self, number: u8) -> Result<()> {
        let backend = start_backend(&self.topology, number)?;
        self.backends[usize::from(number) - 1] = Some(backend);
        Ok(())
    }

    /// A running backend.
    ///
    /// # Panics
    /// If it was killed.
    #[must_use]
    pub fn backend(&self, number: u8) -> &Backend {
        self.backends[usize::from(number) - 1].as_ref().expect("this backend was killed")
    }

    /// Servers that echo datagrams, one on each backend's host, at `address` of its number.
    ///
    /// # Errors
    /// If an address is taken.
    pub fn echoes(&self, address: impl Fn(u8) -> SocketAddr) -> Result<Vec<Echo>> {
        let hosts = (1..).zip(&self.topology.backends);
        hosts.map(|(number, netns)| Echo::start(&name(number), netns, address(number))).collect()
    }

    /// A connection from the client's host.
    ///
    /// # Errors
    /// As the connect call.
    pub fn connect(&self, address: SocketAddr) -> Result<Connection> {
        Connection::open(Some(&self.topology.client), address)
            .with_context(|| format!("cannot connect to {address}"))
    }

    /// A connection whose first answer came from backend `wanted`.
    ///
    /// # Errors
    /// If a connection fails, or none of a hundred reaches it.
    pub fn connect_to(&self, address: SocketAddr, wanted: u8) -> Result<Connection> {
        for _ in 0..100 {
            let mut connection = self.connect(address)?;
            if connection.get("/")?.text().trim() == name(wanted) {
                return Ok(connection);
            }
        }
        anyhow::bail!("no connection to {address} reaches {}", name(wanted))
    }

    /// Runs curl on the client's host against the listener.
    ///
    /// # Errors
    /// If curl can't be run.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Result<Curl> {
        let url = format!("http://{}{path}", l7());
        let mut all = arguments.to_vec();
        all.push(&url);
        curl(&self.topology.client, &all)
    }

    /// Puts another configuration in the place of the file, as editors do: in one step.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let other = self.scratch.write(".steerage.toml.new", text)?;
        std::fs::rename(&other, &self.config).context("cannot replace the configuration file")
    }

    /// `steerage reload`; gives its answer.
    ///
    /// # Errors
    /// If the daemon does not take the file, with what it said.
    pub fn reload(&self) -> Result<serde_json::Value> {
        let mut command = std::process::Command::new(daemon::binary()?);
        let answer = command::output(command.args(["reload", "--json", "-c"]).arg(&self.config))?;
        serde_json::from_str(&answer).context("the answer is no JSON")
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// If the daemon does not take it, with what it said.
    pub fn reconfigure(&self, text: &str) -> Result<serde_json::Value> {
        self.write_config(text)?;
        self.reload()
    }

    /// Puts an XDP program on the client's link for as long as the process lives: our decapsulator, for an
    /// address that nobody has, so that all packets pass.
    ///
    /// veth does not tell the far end of frames that go back over the link they came in on (echo
    /// replies, errors) unless that end has a program; they wait for the next frame from elsewhere
    /// (Linux 6.18, `veth_xdp_flush`).
    ///
    /// # Errors
    /// If it can't be put there.
    pub fn wake_client(&self) -> Result<Process> {
        let mut command = self.topology.client.command(daemon::binary()?);
        command.args(["decap", "--interface", "eth0", "--vip", "198.18.0.1"]);
        let process = Process::spawn("client-xdp", command, &self.scratch.join("client-xdp.log"))?;
        let is_ready = || process.log().contains("ready");
        wait::for_condition("the client's program", Duration::from_secs(10), is_ready)?;
        Ok(process)
    }

    /// How many packets of vips had this reason.
    ///
    /// # Errors
    /// If the daemon does not answer, or knows no such reason.
    pub fn reason(&self, name: &str) -> Result<u64> {
        let status = self.daemon.status()?;
        let reasons = status["l4_reasons"].as_array().context("reasons in the status")?;
        let reason = reasons.iter().find(|reason| reason["name"] == name);
        reason.and_then(|reason| reason["count"].as_u64()).context("the reason")
    }

    /// The directory of the instance's pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        daemon::pins(&daemon::instance(&self.scratch))
    }
}

fn start_backend(topology: &Topology, number: u8) -> Result<Backend> {
    let netns = &topology.backends[usize::from(number) - 1];
    Backend::start(&name(number), Some(netns), topology::backend_socket(number))
}

/// How a backend calls itself.
#[must_use]
pub fn name(number: u8) -> String {
    format!("backend-{number}")
}

fn serve(topology: &Topology, config: &Path, scratch: &Scratch) -> Result<Daemon> {
    let log = scratch.join("steerage.log");
    Daemon::serving(&topology.balancer, &daemon::binary()?, config, &log)
}
