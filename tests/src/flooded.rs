//! Real clients beside a SYN flood: what becomes of their connections, and of the balancer's tables.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use steerage::kernel::flows::{Flows, Remembered};
use steerage_lab::flood::{Flood, Origin};
use steerage_lab::poller::Reuse;
use steerage_lab::wait;

use crate::load::{Fault, Load, Plan, Shot};
use crate::stand::{Choices, Stand, l4};

/// How long a real client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the daemon may take to see what it is to see.
const WITHIN: Duration = Duration::from_secs(10);

/// The real clients' addresses: so many from the first on.
const CLIENTS: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 80, 0, 20), 200);
/// Who floods in [`Case::OneSource`].
const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 250);

/// What is done, and against what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// No flood, no guard.
    Quiet,
    /// A flood from anywhere, and no guard.
    Bare,
    /// A flood from anywhere, and a guard that challenges.
    Challenged,
    /// A flood from one address, and no guard.
    OneBare,
    /// A flood from one address, and a guard that limits the SYNs of each.
    OneLimited,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Quiet, Self::Bare, Self::Challenged, Self::OneBare, Self::OneLimited];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "no flood",
            Self::Bare => "flood, no guard",
            Self::Challenged => "flood, syn_flood",
            Self::OneBare => "one source, no guard",
            Self::OneLimited => "one source, syn_rate",
        }
    }

    const fn origin(self) -> Option<Origin> {
        match self {
            Self::Quiet => None,
            Self::Bare | Self::Challenged => Some(Origin::Anywhere),
            Self::OneBare | Self::OneLimited => Some(Origin::One(FLOODER)),
        }
    }

    fn guard(self, rates: &Rates) -> String {
        match self {
            Self::Quiet | Self::Bare | Self::OneBare => String::new(),
            Self::Challenged => {
                format!("\n[guard]\nsyn_flood = {{ above = {}, hold = \"1s\" }}\n", rates.above)
            }
            // A source of real clients opens a share of their connections.
            Self::OneLimited => "\n[guard]\nsyn_rate = { rate = 100, burst = 100 }\n".into(),
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Connections a second of real clients.
    pub real: u32,
    /// SYNs a second of the flood.
    pub flood: u32,
    /// SYNs a second that make a flood.
    pub above: u32,
    /// For so long.
    pub span: Duration,
}

/// What became of it all.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Real connections that were due.
    pub asked: usize,
    /// Those that got no answer.
    pub failed: BTreeMap<Fault, usize>,
    /// Times of those that did, in order.
    pub took: Vec<Duration>,
    /// SYNs that the flood sent.
    pub flooded: u64,
    /// For how long it did.
    pub flooded_for: Duration,
    /// Connections that were opened to backends, or seemed to be.
    pub flows: u64,
    /// Entries in the flow tables before and after.
    pub table: (u64, u64),
    /// Packets by reason.
    pub reasons: BTreeMap<String, u64>,
}

impl Outcome {
    /// The time that `share` of the real connections were faster than.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }

    /// Packets of one reason.
    #[must_use]
    pub fn reason(&self, name: &str) -> u64 {
        self.reasons.get(name).copied().unwrap_or_default()
    }
}

/// Plays a case on an installation of its own.
///
/// # Errors
/// If it can't be built, or the flood does not show.
pub fn play(case: Case, rates: &Rates) -> Result<Outcome> {
    let choices = Choices { tcp_vip: true, more: case.guard(rates), ..Choices::default() };
    let stand = Stand::start_with(&choices, |topology| {
        let (first, count) = CLIENTS;
        for number in 0..count {
            let address = Ipv4Addr::from_bits(first.to_bits() + number);
            topology.client.ip(&format!("address add {address}/24 dev eth0"))?;
        }
        Ok(())
    })?;
    let table_before = entries(&stand)?;
    let flood_began = Instant::now();
    let SocketAddr::V4(target) = l4() else { bail!("the vip is of IPv4") };
    let flood = match case.origin() {
        None => None,
        Some(origin) => Some(Flood::start(&stand.topology.client, target, origin, rates.flood)?),
    };
    if let Some(flood) = &flood {
        let many = u64::from(rates.flood) / 2;
        wait::for_condition("the flood to run", WITHIN, || flood.sent() > many)?;
    }
    let plan = Plan {
        address: l4(),
        rate: rates.real,
        reuse: Reuse::Never,
        patience: PATIENCE,
        from: Some(CLIENTS),
    };
    let begun = Instant::now();
    let load = Load::start(&stand.topology.client, plan)?;
    wait::for_condition("the span to pass", rates.span + WITHIN, || begun.elapsed() > rates.span)?;
    let shots = load.stop();
    let flooded = flood.as_ref().map_or(0, Flood::sent);
    let flooded_for = flood_began.elapsed();
    let table_after = entries(&stand)?;
    drop(flood);
    let status = stand.daemon.status()?;
    let mut took: Vec<Duration> =
        shots.iter().filter(|shot| shot.answer.is_ok()).map(|shot| shot.took).collect();
    took.sort_unstable();
    Ok(Outcome {
        asked: shots.len(),
        failed: failures(&shots),
        took,
        flooded,
        flooded_for,
        flows: status["vips"][0]["l4"]["flows"].as_u64().context("status counts flows")?,
        table: (table_before, table_after),
        reasons: reasons(&status),
    })
}

fn failures(shots: &[Shot]) -> BTreeMap<Fault, usize> {
    let mut failures = BTreeMap::new();
    for fault in shots.iter().filter_map(|shot| shot.answer.as_ref().err()) {
        *failures.entry(*fault).or_default() += 1;
    }
    failures
}

fn reasons(status: &Value) -> BTreeMap<String, u64> {
    let all = status["l4_reasons"].as_array().into_iter().flatten();
    all.filter_map(|reason| Some((reason["name"].as_str()?.to_owned(), reason["count"].as_u64()?)))
        .collect()
}

/// Flows in both tables of the installation's kernel half.
fn entries(stand: &Stand) -> Result<u64> {
    let flows: u64 = Flows::open(&stand.pins())?.live().values().sum();
    Ok(flows + Remembered::open(&stand.pins())?.all() as u64)
}
