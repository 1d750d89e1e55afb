//! A daemon with a service for each of many scripted backends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use steerage::stats::status::{Count, L7};
use steerage_lab::client::Connection;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{Topology, backend_address};
use steerage_lab::wait;
use steerage_tests::scripted::{Scripted, Talk};
use steerage_tests::stand::{PREFIX, l7};

/// How long figures may take to show what has happened.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a backend does on a connection of the given number.
pub type Serve = dyn Fn(&mut Talk, u64) -> std::io::Result<()> + Send + Sync;

/// A script, and keys of the route that leads to it.
pub struct Script {
    pub serve: Box<Serve>,
    /// Keys of the route.
    pub route: &'static str,
}

/// Fields are dropped in this order.
pub struct Stand {
    pub daemon: Daemon,
    pub backends: Vec<Scripted>,
    topology: Topology,
    _scratch: Scratch,
}

impl Stand {
    /// Starts a backend for each script; requests for `/N` go to the `N`th.
    pub fn start(scripts: Vec<Script>) -> Self {
        let scratch = Scratch::new(PREFIX).unwrap();
        let topology = Topology::build(PREFIX, 1).unwrap();
        let mut routes = String::new();
        let mut services = String::new();
        let mut backends = Vec::new();
        for (number, script) in scripts.into_iter().enumerate() {
            let address = SocketAddr::from((backend_address(1), 9000 + number as u16));
            let netns = &topology.backends[0];
            backends.push(Scripted::start(netns, address, script.serve).unwrap());
            writeln!(
                routes,
                "[[listener.route]]\npath = \"/{number}\"\nservice = \"{number}\"\n{}",
                script.route
            )
            .unwrap();
            writeln!(
                services,
                "[[service]]\nname = \"{number}\"\n[[service.backend]]\naddress = \"{address}\""
            )
            .unwrap();
        }
        // One worker, so that one pool has all connections.
        let text = format!(
            "{}workers = 1\n[[listener]]\nname = \"web\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
             {routes}{services}",
            daemon::global(&scratch),
            l7()
        );
        let config = scratch.write("steerage.toml", &text).unwrap();
        let (binary, log) = (daemon::binary().unwrap(), scratch.join("steerage.log"));
        let daemon = Daemon::serving(&topology.balancer, &binary, &config, &log).unwrap();
        Self { daemon, backends, topology, _scratch: scratch }
    }

    /// A connection to the listener.
    pub fn connect(&self) -> Connection {
        Connection::open(Some(&self.topology.client), l7()).unwrap()
    }

    /// What the daemon says of the `number`th backend.
    pub fn l7(&self, number: usize) -> L7 {
        let status = self.daemon.status().unwrap();
        serde_json::from_value(status["services"][number]["backends"][0]["l7"].clone()).unwrap()
    }

    /// Waits until a backend's figures are as expected; gives them otherwise.
    pub fn settles(&self, number: usize, expected: &Figures) -> Result<(), Figures> {
        let mut last = Figures::default();
        let settled = wait::for_condition("the figures", PATIENCE, || {
            last = Figures::of(&self.l7(number));
            last == *expected
        });
        settled.map_err(|_| last)
    }
}

/// What a backend's connections and health come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub active: u64,
    pub connections: u64,
    pub idle: u64,
    /// Connections closed by reason.
    pub closed: Vec<String>,
    /// Failures by class.
    pub failures: Vec<String>,
}

impl Figures {
    fn of(l7: &L7) -> Self {
        Self {
            active: l7.active,
            connections: l7.connections,
            idle: l7.idle,
            closed: some(&l7.ends),
            failures: some(&l7.failures),
        }
    }
}

/// Counts above zero.
pub fn some(counts: &[Count]) -> Vec<String> {
    let some = counts.iter().filter(|count| count.count > 0);
    some.map(|count| format!("{} {}", count.name, count.count)).collect()
}
