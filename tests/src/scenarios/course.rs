//! The hosts of the scenarios, and one course under load.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use steerage_common::slot::Slot;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::poller::Reuse;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, CLIENT_LINK, Topology};
use steerage_lab::wait;

use super::outcome::{Outcome, Seen};
use super::watch::Watch;
use super::{CALM, PATIENCE};
use crate::load::{Load, Plan};
use crate::moody::{Mood, Moody};
use crate::stand::{PREFIX, l4, l7, name};

/// Requests a second by each plane.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// On kept connections to the listener.
    pub l7: u32,
    /// Each on a connection of its own to the vip.
    pub l4: u32,
}

/// How long one request may take: longer than any timeout of the configuration.
const REQUEST_PATIENCE: Duration = Duration::from_secs(8);

/// A client, a daemon and moody backends, each a host. Fields are dropped in this order.
#[derive(Debug)]
pub struct Setting {
    daemon: Daemon,
    moody: Vec<Moody>,
    topology: Topology,
    rates: Rates,
    panics: bool,
    scratch: Scratch,
}

impl Setting {
    /// Builds it, with so many backends, all up.
    ///
    /// # Errors
    /// If the hosts can't be made, or the daemon does not serve.
    pub fn build(backends: u8, panic_percent: u8, rates: Rates) -> Result<Self> {
        let scratch = Scratch::new(PREFIX)?;
        let topology = Topology::build(PREFIX, backends)?;
        let start = |number: u8| {
            let netns = &topology.backends[usize::from(number) - 1];
            let gateway = Ipv4Addr::new(10, 81, number, 1);
            Moody::start(&name(number), netns, topology::backend_socket(number), gateway)
        };
        let moody = (1..=backends).map(start).collect::<Result<_>>()?;
        let config = scratch.write("steerage.toml", &config(&scratch, backends, panic_percent))?;
        let log = scratch.join("steerage.log");
        let daemon = Daemon::serving(&topology.balancer, &daemon::binary()?, &config, &log)?;
        daemon.wait_available(backends.into()).with_context(|| daemon.log())?;
        Ok(Self { daemon, moody, topology, rates, panics: panic_percent > 0, scratch })
    }

    /// How many backends there are.
    #[must_use]
    pub fn backends(&self) -> u8 {
        self.moody.len() as u8
    }

    /// Whether health is ignored when few are left.
    #[must_use]
    pub fn panics(&self) -> bool {
        self.panics
    }

    /// Changes a backend's mood.
    ///
    /// # Errors
    /// As [`Moody::set`].
    pub fn set(&mut self, backend: u8, mood: Mood) -> Result<()> {
        let index = usize::from(backend) - 1;
        self.moody[index].set(&self.topology.backends[index], mood)
    }

    /// Makes all well, and lets the daemon forget what was: maintenance ends every ejection.
    ///
    /// # Errors
    /// If they do not come up.
    pub fn heal(&mut self) -> Result<()> {
        for backend in 1..=self.backends() {
            self.set(backend, Mood::Well)?;
            for order in ["maintenance", "undrain"] {
                let address = topology::backend_socket(backend).to_string();
                self.daemon.backend(&[order, &address])?;
            }
        }
        self.daemon.wait_available(self.backends().into())
    }

    fn slots(&self) -> Result<Vec<Slot>> {
        let status = self.daemon.status()?;
        let backends = status["services"][0]["backends"].as_array().context("no backends")?;
        let slot =
            |backend: &serde_json::Value| Slot::new(backend["slot"].as_u64()?.try_into().ok()?);
        backends.iter().map(|backend| slot(backend).context("no slot")).collect()
    }
}

fn config(scratch: &Scratch, backends: u8, panic_percent: u8) -> String {
    let mut text = daemon::global(scratch);
    let _ = write!(
        text,
        "workers = 2\n[[listener]]\nname = \"web\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
         [[listener.route]]\nservice = \"app\"\n\
         timeouts = {{ connect = \"500ms\", first_byte = \"1s\" }}\n\
         [[vip]]\nname = \"app\"\naddress = \"{}\"\nprotocol = \"tcp\"\nmode = \"nat\"\n\
         interface = \"{CLIENT_LINK}\"\nservice = \"app\"\n\
         [[service]]\nname = \"app\"\nbalance = \"round_robin\"\npanic_percent = {panic_percent}\n\
         slow_start = \"1s\"\n\
         probe = {{ kind = \"http\", path = \"/health\", interval = \"500ms\", timeout = \"200ms\", \
         rise = 2, fall = 2 }}\n\
         ejection = {{ consecutive = 5, base = \"1s\", max = \"8s\" }}\n",
        l7(),
        l4()
    );
    for number in 1..=backends {
        let address = topology::backend_socket(number);
        let _ = writeln!(text, "[[service.backend]]\naddress = \"{address}\"");
    }
    text
}

/// One course: the clients at work, and who watches.
#[derive(Debug)]
pub struct Course {
    /// What the tables say.
    pub watch: Watch,
    requests: Load,
    connections: Load,
}

impl Course {
    /// Puts the setting under load.
    ///
    /// # Errors
    /// If the tables can't be watched.
    pub fn start(setting: &Setting) -> Result<Self> {
        let pins = daemon::pins(&daemon::instance(&setting.scratch));
        let client = &setting.topology.client;
        let plan = |address, rate, reuse| Plan {
            address,
            rate,
            reuse,
            patience: REQUEST_PATIENCE,
            from: None,
        };
        Ok(Self {
            watch: Watch::start(&pins, setting.slots()?)?,
            requests: Load::start(client, plan(l7(), setting.rates.l7, Reuse::KeepAlive))?,
            connections: Load::start(client, plan(l4(), setting.rates.l4, Reuse::Never))?,
        })
    }

    fn planes(&self) -> [&Load; 2] {
        [&self.requests, &self.connections]
    }

    /// Waits until each of these has answered, by both planes, something that was due since a moment.
    ///
    /// # Errors
    /// If one does not.
    pub fn wait_for_answers(&self, of: &[u8], since: Instant) -> Result<()> {
        wait::for_condition(format!("answers of {of:?} by both planes"), PATIENCE, || {
            self.planes().iter().all(|load| {
                let shots = load.since(since);
                of.iter().all(|backend| {
                    let name = name(*backend);
                    shots.iter().any(|shot| shot.answer.as_ref() == Ok(&name))
                })
            })
        })
    }

    /// Waits until everything that was due for some time has been answered, by those who may.
    ///
    /// # Errors
    /// If that does not come.
    pub fn wait_for_calm(&self, may_answer: impl Fn(&str) -> bool) -> Result<()> {
        wait::for_condition("calm on both planes", PATIENCE, || {
            self.planes().iter().all(|load| {
                let shots = Instant::now().checked_sub(CALM).map(|since| load.since(since));
                shots.is_some_and(|shots| {
                    let good = |answer: &str| may_answer(answer);
                    shots.len() > 20 && shots.iter().all(|s| s.answer.as_deref().is_ok_and(good))
                })
            })
        })
    }

    /// Whether so many connections to the vip that were due since a moment failed.
    #[must_use]
    pub fn has_failed(&self, since: Instant, count: usize) -> bool {
        let shots = self.connections.since(since);
        shots.iter().filter(|shot| shot.answer.is_err()).count() >= count
    }

    /// Ends the load, and reads it off. Given are the onset, and when the recovery began and was done.
    #[must_use]
    pub fn finish(
        self,
        [onset, recovery, recovered]: [Instant; 3],
        victims: std::ops::RangeInclusive<u8>,
    ) -> Outcome {
        let changes = self.watch.since(onset);
        let [requests, connections] = [self.requests.stop(), self.connections.stop()];
        Outcome::read(&Seen { onset, recovery, recovered, victims, changes, requests, connections })
    }
}
