//! The thread that writes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::error;

use super::follow::Followers;
use super::target::{Failed, Target};
use crate::config::model::Destination;

/// Between two words about lines that could not be written.
const WORD_INTERVAL: Duration = Duration::from_secs(60);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// To write there from now on.
    Target(Option<Target>),
    /// To open the destination anew.
    Reopen,
}

/// What the thread and others both know.
#[derive(Debug)]
pub(super) struct Shared {
    orders: Mutex<Vec<Order>>,
    destination: Mutex<Destination>,
    /// Lines that could not be written.
    pub(super) lost: AtomicU64,
    /// Those who look on.
    pub(super) followers: Followers,
}

impl Shared {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            orders: Mutex::default(),
            destination: Mutex::new(destination),
            lost: AtomicU64::new(0),
            followers: Followers::default(),
        }
    }

    pub(super) fn destination(&self) -> Destination {
        self.destination.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_destination(&self, destination: Destination) {
        *self.destination.lock().unwrap_or_else(PoisonError::into_inner) = destination;
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
    }

    fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Writer {
    target: Option<Target>,
    shared: std::sync::Arc<Shared>,
    complaint: Complaint,
}

impl Writer {
    pub(super) fn new(target: Option<Target>, shared: std::sync::Arc<Shared>) -> Self {
        Self { target, shared, complaint: Complaint::default() }
    }

    /// Writes until nobody has a way to say more.
    pub(super) fn run(mut self, mut batches: mpsc::Receiver<Vec<u8>>) {
        while let Some(batch) = batches.blocking_recv() {
            for order in self.shared.take_orders() {
                self.obey(order);
            }
            let Some(target) = &mut self.target else { continue };
            if batch.is_empty() {
                continue;
            }
            if let Err(Failed { error, lost }) = target.write(&batch) {
                self.shared.lost.fetch_add(lost, Ordering::Relaxed);
                self.complain(&error, lost);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Target(target) => self.target = target,
            Order::Reopen => {
                let Some(target) = &mut self.target else { return };
                // The former one stays open.
                if let Err(error) = target.reopen() {
                    let path = self.shared.destination();
                    error!(%path, %error, "the access log can't be opened anew: the former file goes on");
                }
            }
        }
    }

    fn complain(&mut self, error: &io::Error, lost: u64) {
        if let Some(lost) = self.complaint.note(lost, Instant::now()) {
            let path = self.shared.destination();
            error!(%path, %error, lost, "lines of the access log could not be written");
        }
    }
}

/// Says one thing a minute.
#[derive(Debug, Default)]
struct Complaint {
    said: Option<Instant>,
    lost: u64,
}

impl Complaint {
    /// Counts lines; gives how many are to be spoken of now.
    fn note(&mut self, lost: u64, now: Instant) -> Option<u64> {
        self.lost += lost;
        if self.said.is_some_and(|said| now < said + WORD_INTERVAL) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_spoken_of_once_a_minute_with_all_that_was_lost() {
        let (mut complaint, now) = (Complaint::default(), Instant::now());
        assert_eq!(complaint.note(3, now), Some(3));
        assert_eq!(complaint.note(4, now + WORD_INTERVAL / 2), None);
        assert_eq!(complaint.note(5, now + WORD_INTERVAL), Some(9));
    }
}
