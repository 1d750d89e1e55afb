//! The thread that checks, ticks and mends.
//!
//! What it asks can change while it runs ([`Prober::update`]): what stays is not disturbed, neither its
//! phase nor its streaks.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use steerage_common::health::State;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::check::Prepared;
use super::lag::{Histogram, Lag};
use super::record::{Record, Report};
use super::since::Since;
use super::target::{Subscriber, Target};
use super::ticker::{Ticked, tick};
use super::watch::{Common, Watch, tell};
use crate::config::model::Check;
use crate::region::{Region, Tenant};
use crate::tls::upstream::Keyring;

/// Checks that run at the same time.
const CHECKS_MAX: usize = 256;

/// How much longer than the longest timeout the first round of checks may take: it has as many turns
/// as there are times [`CHECKS_MAX`] silent backends.
const FIRST_ROUND_MORE: Duration = Duration::from_secs(1);

/// The records of all targets, by what is asked and then whom.
type Records = HashMap<Arc<Check>, HashMap<SocketAddr, Arc<Record>>>;

/// A running prober; it stops when this is dropped.
#[derive(Debug)]
pub struct Prober {
    records: Arc<Mutex<Records>>,
    lag: Arc<Histogram>,
    since: Arc<Since>,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What is to be asked from now on. Each target that was not asked before drops `ready` after its first
/// check.
struct Order {
    targets: Vec<Target>,
    ring: Arc<Keyring>,
    ready: mpsc::Sender<()>,
}

/// The first checks of new targets.
#[derive(Debug)]
pub struct FirstRound {
    is_over: mpsc::Receiver<()>,
    patience: Duration,
}

impl FirstRound {
    /// Waits until each was checked once, or could have been but for many silent ones.
    pub fn wait(self) {
        // That all senders are gone means that all were checked; or that the thread is gone, whose
        // panic is seen at the join.
        let _ = self.is_over.recv_timeout(self.patience);
    }
}

impl Prober {
    /// Starts checking; returns when each target was checked once, or could have been but for many
    /// silent ones: what then begins to serve begins with what is known.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub fn start(
        region: Arc<Region>,
        targets: Vec<Target>,
        ring: Arc<Keyring>,
    ) -> std::io::Result<Self> {
        let lag = Arc::new(Histogram::default());
        let (records, since) = (Arc::default(), Arc::<Since>::default());
        let (orders, ordered) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let round = Round::new(region, lag.clone(), Arc::clone(&records), since.clone());
        let thread = thread::Builder::new().name("prober".into()).spawn(move || {
            // Without the right to it, checks may come later under load; the lag tells.
            if let Err(error) = crate::sys::prefer_thread() {
                debug!(%error, "the prober has no precedence");
            }
            runtime.block_on(round.run(ordered));
        })?;
        let prober = Self { records, lag, since, orders: Some(orders), thread: Some(thread) };
        prober.update(targets, ring).wait();
        Ok(prober)
    }

    /// Asks these targets from now on. Those that were asked before go on as they were; a backend that
    /// comes to one of them hears at once what its last check said. `ring` is for those that are new.
    #[must_use]
    pub fn update(&self, targets: Vec<Target>, ring: Arc<Keyring>) -> FirstRound {
        let checks = targets.iter().filter_map(|target| target.check.as_ref());
        let longest = checks.map(|check| check.timeout).max().unwrap_or_default();
        let (ready, is_over) = mpsc::channel();
        if let Some(orders) = &self.orders {
            // The thread ends with the channel, or by a panic that is seen at the join.
            let _ = orders.send(Order { targets, ring, ready });
        }
        FirstRound { is_over, patience: longest + FIRST_ROUND_MORE }
    }

    /// What this check of a backend has said; `None` if it has not ended yet.
    #[must_use]
    pub fn report(&self, backend: SocketAddr, check: &Check) -> Option<Report> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(check)?.get(&check.target(backend))?.report()
    }

    /// For how long a backend has been in a state, as far as this prober has seen.
    #[must_use]
    pub fn held(&self, tenant: Tenant, state: State) -> Duration {
        self.since.held(tenant, state)
    }

    /// How late checks began.
    #[must_use]
    pub fn lag(&self) -> Lag {
        self.lag.lag()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread does.
struct Round {
    common: Arc<Common>,
    records: Arc<Mutex<Records>>,
    since: Arc<Since>,
    /// By what is asked and whom.
    watched: HashMap<(Arc<Check>, SocketAddr), Watched>,
    ticked: Vec<Ticked>,
    prepared: HashMap<Arc<Check>, Arc<Prepared>>,
    tasks: JoinSet<()>,
}

/// A target whose watch runs.
struct Watched {
    task: AbortHandle,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    wake: Arc<Notify>,
    record: Arc<Record>,
}

impl Round {
    fn new(
        region: Arc<Region>,
        lag: Arc<Histogram>,
        records: Arc<Mutex<Records>>,
        since: Arc<Since>,
    ) -> Self {
        let common = Arc::new(Common { region, permits: Semaphore::new(CHECKS_MAX), lag });
        Self {
            common,
            records,
            since,
            watched: HashMap::new(),
            ticked: Vec::new(),
            prepared: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Until nobody can give orders any more.
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                () = tick(&self.common.region, &mut self.ticked, &self.since) => {}
                order = orders.recv() => match order {
                    Some(order) => self.turn_to(order),
                    None => return,
                }
            }
        }
    }

    fn turn_to(&mut self, Order { targets, ring, ready }: Order) {
        let mut former = std::mem::take(&mut self.watched);
        let words: HashMap<_, _> = self.ticked.drain(..).map(Ticked::last).collect();
        let mut records = Records::new();
        for Target { address, check, subscribers } in targets {
            let watched = check.map(|check| {
                let key = (check, address);
                let watched = match former.remove(&key) {
                    Some(watched) => {
                        watched.pass_to(subscribers.clone(), &self.common.region);
                        watched
                    }
                    None => self.watch(&key, &ring, subscribers.clone(), ready.clone()),
                };
                let of_check = records.entry(key.0.clone()).or_default();
                of_check.insert(address, watched.record.clone());
                self.watched.entry(key).insert_entry(watched).get().wake.clone()
            });
            for subscriber in subscribers {
                let last = words.get(&subscriber.tenant).copied();
                let region = &self.common.region;
                self.ticked.push(Ticked::new(region, subscriber, watched.clone(), last));
            }
        }
        for gone in former.into_values() {
            gone.task.abort();
        }
        while self.tasks.try_join_next().is_some() {}
        self.prepared.retain(|check, _| records.contains_key(check));
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records;
    }

    fn watch(
        &mut self,
        (check, address): &(Arc<Check>, SocketAddr),
        ring: &Keyring,
        subscribers: Vec<Subscriber>,
        ready: mpsc::Sender<()>,
    ) -> Watched {
        let subscribers = Arc::new(Mutex::new(subscribers));
        let (wake, record) = (Arc::new(Notify::new()), Arc::new(Record::default()));
        let made = self.prepared.entry(check.clone());
        let prepared = made.or_insert_with(|| Arc::new(Prepared::new(check.clone(), ring))).clone();
        let watch = Watch {
            address: *address,
            prepared,
            subscribers: subscribers.clone(),
            record: record.clone(),
            wake: wake.clone(),
            common: self.common.clone(),
        };
        let task = self.tasks.spawn(watch.run(ready));
        Watched { task, subscribers, wake, record }
    }
}

impl Watched {
    /// Lets others hear. Those who are new to it hear of the last check at once, and so do those of whom
    /// nothing is known any more: they were leaving, and are wanted again.
    fn pass_to(&self, others: Vec<Subscriber>, region: &Region) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *subscribers, others);
        if let Some(report) = self.record.report() {
            let known: HashSet<_> = former.iter().map(|subscriber| subscriber.tenant).collect();
            let fresh = subscribers.iter().filter(|Subscriber { tenant, .. }| {
                !known.contains(tenant) || region.word(tenant.slot()).state() == State::Unknown
            });
            tell(fresh, region, report.failure.as_deref());
        }
    }
}

#[cfg(test)]
mod tests;
