//! The stale-connection race: a backend closes a kept connection while the next request is on its way.
//!
//! Clients post through a proxy to one backend that is [`DELAY`] away, each way, and closes every
//! connection after a random number of requests: at once after a response, or a random time after it
//! unless another request came. A FIN and a request that cross on the way are then as likely as not.
//! One connection in [`EXECUTED_ONE_IN`] ends worse: under a request that was executed.
//! The backend counts how often it executed each request, clients what they heard. So what is seen of a
//! proxy is: errors that nobody caused, requests that ran twice, requests that ran and yet failed.
//!
//! The same run serves for Steerage, HAProxy and nginx; the seed makes the backend's and the clients'
//! choices the same, though not their timing.

mod client;
pub(crate) mod proxy;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use steerage::service::Random;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, Topology};

use self::client::Heard;
use self::proxy::Proxy;
pub use self::proxy::{Io, Kind, Retry};
use crate::scripted::{Scripted, Talk, Waited};
use crate::stand::PREFIX;

/// How long a frame takes between proxy and backend, each way.
pub const DELAY: Duration = Duration::from_millis(30);

/// A connection serves at most so many requests.
const REQUESTS_MAX: usize = 8;

/// One connection in so many is closed in place of the answer to a request that was executed, which is
/// not its first. To send that one again is to run it twice.
const EXECUTED_ONE_IN: usize = 16;

/// The backend waits up to so long before it closes, and clients before their next request: about the
/// time in which a FIN and a request can cross.
const PAUSE_MS_MAX: usize = 80;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many requests are posted.
    pub requests: u64,
    /// Over how many client connections at once.
    pub clients: u64,
    /// How long each request's body is.
    pub body_bytes: usize,
    /// Seed of all choices.
    pub seed: u64,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests by what the client heard: `200`, `502 stale_unproven`, `closed`, `broken`.
    pub heard: BTreeMap<String, u64>,
    /// Requests that were executed twice or more.
    pub doubled: u64,
    /// Requests that were executed although the client got no 200.
    pub executed_yet_failed: u64,
    /// Requests that got a 200 and were not executed.
    pub not_executed: u64,
    /// The backend's connections.
    pub connections: u64,
    /// Of those: closed right after a response.
    pub closed_at_once: u64,
    /// Of those: closed after a pause, with nothing received since the last response.
    pub closed_idle: u64,
    /// Of those: closed after a pause in the moment in which a request had been received. Whoever sent
    /// it cannot know that it was not executed.
    pub closed_on_request: u64,
    /// Of those: closed under a request that was executed.
    pub closed_on_executed: u64,
    /// Steerage's replays by rule, refusals by reason, failures by class; empty for others.
    pub counts: BTreeMap<String, u64>,
}

/// How the backend closed its connections.
#[derive(Debug, Default)]
struct Closes {
    at_once: AtomicU64,
    idle: AtomicU64,
    on_request: AtomicU64,
    on_executed: AtomicU64,
}

impl Outcome {
    /// Requests that got no 200.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.heard.iter().filter(|(heard, _)| *heard != "200").map(|(_, count)| count).sum()
    }

    /// Requests of which a client heard this.
    #[must_use]
    pub fn heard(&self, what: &str) -> u64 {
        self.heard.get(what).copied().unwrap_or(0)
    }

    /// One of Steerage's counts, such as `replays.stale_proven`.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

/// Runs the race with one proxy.
///
/// # Errors
/// If something can't be started, or a client can't connect.
pub fn run(kind: Kind, plan: Plan) -> Result<Outcome> {
    let scratch = Scratch::new(PREFIX)?;
    let topology = Topology::build_apart(PREFIX, 1, DELAY)?;
    let closes = Arc::new(Closes::default());
    let (counted, seed) = (Arc::clone(&closes), plan.seed);
    let tls = match kind {
        Kind::SteerageTls(_) => Some(certified()?),
        _ => None,
    };
    let script = move |talk: &mut Talk, number| {
        if let Some(config) = &tls {
            talk.secure(config.clone())?;
        }
        serve(talk, &Random::new(seed ^ (number << 32)), &counted)
    };
    let backend = Scripted::start(&topology.backends[0], topology::backend_socket(1), script)?;
    let proxy = Proxy::start(kind, &topology, &scratch, backend.address())?;
    let heard = topology.client.enter(|| post_all(plan, proxy.address()))??;
    let counts = proxy.counts()?;
    drop(proxy);
    Ok(tally(&heard, &backend, &closes, counts))
}

/// One connection of the backend.
fn serve(talk: &mut Talk, random: &Random, closes: &Closes) -> std::io::Result<()> {
    let requests = 1 + random.below(REQUESTS_MAX);
    let is_on_executed = requests > 1 && random.below(EXECUTED_ONE_IN) == 0;
    let is_at_once = random.below(2) == 0;
    let mut served = 0;
    loop {
        let Some(request) = talk.read()? else { return Ok(()) };
        talk.execute(&request);
        if is_on_executed && served + 1 == requests {
            closes.on_executed.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")?;
        served += 1;
        if served < requests {
            continue;
        }
        let pause = Duration::from_millis(1 + random.below(PAUSE_MS_MAX) as u64);
        let count = if is_at_once {
            end(talk, random)?;
            &closes.at_once
        } else if talk.wait(pause)? == Waited::Nothing {
            if end(talk, random)? { &closes.on_request } else { &closes.idle }
        } else {
            continue;
        };
        count.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
}

/// Ends the connection; tells whether bytes had arrived by then. Over TLS in one of two ways: servers
/// differ in whether they say `close_notify`.
fn end(talk: &mut Talk, random: &Random) -> std::io::Result<bool> {
    if random.below(2) == 0 {
        talk.say_goodbye()?;
    }
    talk.close()
}

/// A server with a certificate that it has signed itself.
fn certified() -> Result<Arc<ServerConfig>> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["backend.test".into()])?;
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok(Arc::new(config))
}

/// What was heard of each request, by its id.
fn post_all(plan: Plan, proxy: SocketAddr) -> Result<HashMap<String, Heard>> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let post = |client| {
            let (next, random) = (&next, Random::new(plan.seed ^ client));
            move || client::post(proxy, plan, next, &random)
        };
        let clients: Vec<_> = (0..plan.clients).map(|client| scope.spawn(post(client))).collect();
        let mut all = HashMap::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

fn tally(
    heard: &HashMap<String, Heard>,
    backend: &Scripted,
    closes: &Closes,
    counts: BTreeMap<String, u64>,
) -> Outcome {
    let executed = backend.executed();
    let mut outcome = Outcome {
        doubled: executed.values().filter(|times| **times > 1).count() as u64,
        connections: backend.connections(),
        closed_at_once: closes.at_once.load(Ordering::SeqCst),
        closed_idle: closes.idle.load(Ordering::SeqCst),
        closed_on_request: closes.on_request.load(Ordering::SeqCst),
        closed_on_executed: closes.on_executed.load(Ordering::SeqCst),
        counts,
        ..Outcome::default()
    };
    for (id, what) in heard {
        let name = what.to_string();
        match (name == "200", executed.contains_key(id)) {
            (true, false) => outcome.not_executed += 1,
            (false, true) => outcome.executed_yet_failed += 1,
            _ => {}
        }
        *outcome.heard.entry(name).or_default() += 1;
    }
    outcome
}

/// The counts of the only backend in a status of the daemon.
fn backend_counts(status: &Value) -> BTreeMap<String, u64> {
    let l7 = &status["services"][0]["backends"][0]["l7"];
    let kinds = ["replays", "refusals", "failures", "ends"];
    let of_kind = |kind: &'static str| {
        let counts = l7[kind].as_array().into_iter().flatten();
        counts.filter_map(move |count| {
            Some((format!("{kind}.{}", count["name"].as_str()?), count["count"].as_u64()?))
        })
    };
    kinds.into_iter().flat_map(of_kind).filter(|(_, count)| *count > 0).collect()
}
