//! The thread that checks, ticks and mends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;
use tracing::debug;

use super::check::Prepared;
use super::lag::{Histogram, Lag};
use super::record::{Record, Report};
use super::target::Target;
use super::ticker::{Ticked, tick};
use super::watch::{Common, Watch};
use crate::config::model::Check;
use crate::region::Region;

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
    records: Records,
    lag: Arc<Histogram>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Prober {
    /// Starts checking; returns when each target was checked once, or could have been but for many
    /// silent ones: what then begins to serve begins with what is known.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub fn start(region: Arc<Region>, targets: Vec<Target>) -> std::io::Result<Self> {
        let lag = Arc::new(Histogram::default());
        let common = Arc::new(Common {
            region: region.clone(),
            permits: Semaphore::new(CHECKS_MAX),
            lag: lag.clone(),
        });
        let mut records = Records::new();
        let mut prepared: HashMap<Arc<Check>, Arc<Prepared>> = HashMap::new();
        let mut watches = Vec::with_capacity(targets.len());
        let mut ticked = Vec::with_capacity(targets.len());
        let mut longest = Duration::ZERO;
        for Target { address, check, subscribers } in targets {
            let wake = check.as_ref().map(|_| Arc::new(Notify::new()));
            for subscriber in &subscribers {
                ticked.push(Ticked::new(&region, subscriber.clone(), wake.clone()));
            }
            if let (Some(check), Some(wake)) = (check, wake) {
                longest = longest.max(check.timeout);
                let record = Arc::new(Record::default());
                records.entry(check.clone()).or_default().insert(address, record.clone());
                let common = common.clone();
                let made = prepared.entry(check.clone());
                let prepared = made.or_insert_with(|| Arc::new(Prepared::new(check))).clone();
                watches.push(Watch { address, prepared, subscribers, record, wake, common });
            }
        }
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("prober".into()).spawn(move || {
            // Without the right to it, checks may come later under load; the lag tells.
            if let Err(error) = crate::sys::prefer_thread() {
                debug!(%error, "the prober has no precedence");
            }
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for watch in watches {
                    tasks.spawn(watch.run(ready.clone()));
                }
                // Each task drops its sender after its first check.
                drop(ready);
                tokio::select! {
                    () = tick(&region, ticked) => {}
                    _ = stopped => {}
                }
            });
        })?;
        // That all senders are gone means that all were checked; or that the thread is gone, whose
        // panic is seen at the join.
        let _ = is_ready.recv_timeout(longest + FIRST_ROUND_MORE);
        Ok(Self { records, lag, stop: Some(stop), thread: Some(thread) })
    }

    /// What this check of a backend has said; `None` if it has not ended yet.
    #[must_use]
    pub fn report(&self, backend: SocketAddr, check: &Check) -> Option<Report> {
        self.records.get(check)?.get(&check.target(backend))?.report()
    }

    /// How late checks began.
    #[must_use]
    pub fn lag(&self) -> Lag {
        self.lag.lag()
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

#[cfg(test)]
mod tests;
