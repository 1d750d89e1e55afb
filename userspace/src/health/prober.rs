//! The thread that checks, ticks and mends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steerage_common::health::{Event, Policy};
use steerage_common::publish::Change;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::check::{Failure, check};
use super::schedule::{next_delay, phase};
use crate::config::model::Probe;
use crate::region::{Region, Tenant};

/// Checks that run at the same time.
const CHECKS_MAX: usize = 256;

/// Between two ticks of the state machine: the unit of its deadlines.
const TICK: Duration = Duration::from_millis(100);

/// A backend, as one service sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The service's name, for logs.
    pub service: String,
    /// The backend's hold on its slot.
    pub tenant: Tenant,
    /// The service's numbers.
    pub policy: Policy,
}

/// One address and, unless its services do without, one check of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The backend's address.
    pub address: SocketAddr,
    /// The check; `None` for ticks only.
    pub probe: Option<Probe>,
    /// All who want to know.
    pub subscribers: Vec<Subscriber>,
}

/// Gathers the backends of all services: one target for each (address, check).
#[must_use]
pub fn targets(
    backends: impl IntoIterator<Item = (SocketAddr, Option<Probe>, Subscriber)>,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut index: HashMap<(SocketAddr, Option<Probe>), usize> = HashMap::new();
    for (address, probe, subscriber) in backends {
        let at = *index.entry((address, probe.clone())).or_insert_with(|| {
            targets.push(Target { address, probe, subscribers: Vec::new() });
            targets.len() - 1
        });
        targets[at].subscribers.push(subscriber);
    }
    targets
}

/// What the last check of a target said: for status.
#[derive(Clone, Debug)]
pub struct Last {
    /// `None` for a success.
    pub failure: Option<String>,
    /// How long the check took.
    pub took: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<HashMap<(SocketAddr, Probe), Last>>,
    lag_us: AtomicU64,
}

/// A running prober; it stops when this is dropped.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Prober {
    /// Starts checking; returns when each target was checked once, which takes at most the longest
    /// probe timeout: what then begins to serve begins with what is known.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub fn start(region: Arc<Region>, targets: Vec<Target>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("prober".into()).spawn({
            let shared = shared.clone();
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = run(region, targets, shared, ready) => {}
                        _ = stopped => {}
                    }
                });
            }
        })?;
        // An error means that the thread is gone: its panic is seen at the join.
        let _ = is_ready.recv();
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What the last check of this target said.
    #[must_use]
    pub fn last(&self, address: SocketAddr, probe: &Probe) -> Option<Last> {
        let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&(address, probe.clone())).cloned()
    }

    /// How late the latest check began.
    #[must_use]
    pub fn lag(&self) -> Duration {
        Duration::from_micros(self.shared.lag_us.load(Ordering::Relaxed))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    region: Arc<Region>,
    targets: Vec<Target>,
    shared: Arc<Shared>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let permits = Arc::new(Semaphore::new(CHECKS_MAX));
    let all: Vec<Subscriber> =
        targets.iter().flat_map(|target| target.subscribers.iter().cloned()).collect();
    let mut tasks = JoinSet::new();
    for target in targets {
        if let Some(probe) = target.probe {
            let watch = Watch {
                region: region.clone(),
                address: target.address,
                probe,
                subscribers: target.subscribers,
                shared: shared.clone(),
                permits: permits.clone(),
            };
            tasks.spawn(watch.run(ready.clone()));
        }
    }
    // Each task drops its sender after its first check.
    drop(ready);
    tick(&region, &all).await;
}

/// Gives every backend its ticks, for ever.
async fn tick(region: &Region, all: &[Subscriber]) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        for subscriber in all {
            let tenant = subscriber.tenant;
            if let Some(change) = region.apply(tenant, Event::Tick, &subscriber.policy) {
                report(&subscriber.service, None, change, "time");
            }
            region.publish(tenant.slot());
        }
    }
}

/// The checks of one target.
struct Watch {
    region: Arc<Region>,
    address: SocketAddr,
    probe: Probe,
    subscribers: Vec<Subscriber>,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

impl Watch {
    async fn run(self, ready: std::sync::mpsc::Sender<()>) {
        let in_transition = self.check_once().await;
        drop(ready);
        let random = crate::sys::random_u32();
        let first = if in_transition {
            next_delay(self.probe.interval, true, random)
        } else {
            phase(self.probe.interval, random)
        };
        let mut due = Instant::now() + first;
        loop {
            tokio::time::sleep_until(due).await;
            let lag = due.elapsed();
            self.shared.lag_us.store(lag.as_micros() as u64, Ordering::Relaxed);
            let in_transition = self.check_once().await;
            let random = crate::sys::random_u32();
            due = Instant::now() + next_delay(self.probe.interval, in_transition, random);
        }
    }

    /// Checks, tells all subscribers, and says whether any of them is on its way up or down.
    async fn check_once(&self) -> bool {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let begun = Instant::now();
        let outcome = check(self.address, &self.probe).await;
        self.remember(begun.elapsed(), &outcome);
        let event = if outcome.is_ok() { Event::ProbeOk } else { Event::ProbeFailed };
        let why = outcome.err().map_or_else(|| "probe ok".into(), |f| format!("probe: {f}"));
        let mut in_transition = false;
        for subscriber in &self.subscribers {
            let change = self.region.apply(subscriber.tenant, event, &subscriber.policy);
            if let Some(change) = change {
                report(&subscriber.service, Some(self.address), change, &why);
                in_transition |= change.to.probe_streak() != 0;
            }
        }
        in_transition
    }

    fn remember(&self, took: Duration, outcome: &Result<(), Failure>) {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert((self.address, self.probe.clone()), Last { failure, took });
    }
}

fn report(service: &str, backend: Option<SocketAddr>, change: Change, why: &str) {
    if !change.is_of_state() {
        return;
    }
    let (from, to) = (change.from.state().name(), change.to.state().name());
    let backend = backend.map(tracing::field::display);
    if change.from.accepts_new() && !change.to.accepts_new() {
        warn!(service, backend, from, to, why, "backend taken out of service");
    } else {
        info!(service, backend, from, to, why, "backend changed state");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use steerage_common::health::State;
    use steerage_common::slot::Slot;

    use super::*;
    use crate::config::model::ProbeKind;

    fn probe() -> Probe {
        let (interval, timeout) = (Duration::from_millis(20), Duration::from_secs(10));
        Probe { kind: ProbeKind::Tcp, port: None, interval, timeout, rise: 2, fall: 2 }
    }

    fn subscriber(index: u16) -> Subscriber {
        Subscriber {
            service: "api".into(),
            tenant: Tenant::new(Slot::new(index).unwrap(), 0),
            policy: Policy { fall: 2, ..Policy::DEFAULT },
        }
    }

    /// Waits until the state is reached and its bits are published: the one follows the other.
    fn wait_for(region: &Region, tenant: Tenant, state: State) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let is_reached = || {
            let word = region.word(tenant.slot());
            let bits = (region.accepts_new(tenant.slot()), region.keeps_flows(tenant.slot()));
            word.state() == state && bits == (word.accepts_new(), word.keeps_flows())
        };
        while !is_reached() {
            assert!(std::time::Instant::now() < deadline, "never {state:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn services_that_share_a_backend_share_its_check() {
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let other = Probe { rise: 1, ..probe() };
        let gathered = targets([
            (address, Some(probe()), subscriber(0)),
            (address, Some(probe()), subscriber(1)),
            (address, Some(other), subscriber(2)),
            (address, None, subscriber(3)),
        ]);
        assert_eq!(gathered.iter().map(|t| t.subscribers.len()).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn a_backend_is_known_before_the_start_and_followed_after_it() {
        let region = Arc::new(Region::in_memory(1).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let subscribers = [subscriber(0), subscriber(1)];
        for subscriber in &subscribers {
            region.apply(subscriber.tenant, Event::Assigned, &subscriber.policy).unwrap();
        }
        let [first, second] = subscribers;
        let tenants = [first.tenant, second.tenant];
        let gathered = targets([(address, Some(probe()), first), (address, Some(probe()), second)]);
        let prober = Prober::start(region.clone(), gathered).unwrap();
        assert!(tenants.iter().all(|tenant| region.accepts_new(tenant.slot())));
        drop(listener);
        for tenant in tenants {
            wait_for(&region, tenant, State::Down);
            assert!(!region.accepts_new(tenant.slot()) && !region.keeps_flows(tenant.slot()));
        }
        let last = prober.last(address, &probe()).unwrap();
        assert!(last.failure.unwrap().starts_with("connect: "));
        let _again = TcpListener::bind(address).unwrap();
        for tenant in tenants {
            wait_for(&region, tenant, State::Up);
        }
    }

    #[test]
    fn ticks_end_an_ejection() {
        let region = Arc::new(Region::in_memory(1).unwrap());
        let mut subscriber = subscriber(5);
        subscriber.policy =
            Policy { probed: false, consecutive: 1, ejection_ticks: 1, ..subscriber.policy };
        let (tenant, policy) = (subscriber.tenant, subscriber.policy);
        region.apply(tenant, Event::Assigned, &policy).unwrap();
        region.apply(tenant, Event::RequestFailed { jitter: 0 }, &policy).unwrap();
        assert!(!region.accepts_new(tenant.slot()));
        let address = "127.0.0.1:9".parse().unwrap();
        let _prober =
            Prober::start(region.clone(), targets([(address, None, subscriber)])).unwrap();
        wait_for(&region, tenant, State::Probation);
    }
}
