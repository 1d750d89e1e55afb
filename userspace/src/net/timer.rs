//! Precise timers, for what happens seldom.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;
use hyper_util::rt::TokioTimer;

use super::reactor;
use crate::sys;

/// Waits, to the millisecond.
pub async fn sleep(duration: Duration) {
    if reactor::is_running() {
        Sleep::new(duration).await;
    } else {
        tokio::time::sleep(duration).await;
    }
}

/// The timers that hyper is given.
#[derive(Clone, Copy, Debug)]
pub struct Timer;

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        if reactor::is_running() {
            Box::pin(Sleep::new(duration))
        } else {
            TokioTimer::new().sleep(duration)
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

/// A timer on the ring.
#[derive(Debug)]
struct Sleep {
    at_us: u64,
    key: Option<reactor::TimerKey>,
}

impl Sleep {
    fn new(duration: Duration) -> Self {
        let until = sys::monotonic().saturating_add(duration);
        Self { at_us: u64::try_from(until.as_micros()).unwrap_or(u64::MAX), key: None }
    }
}

impl rt::Sleep for Sleep {}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.key {
            // It has gone off.
            Some(key) if !reactor::reset_timer(key, cx.waker()) => return Poll::Ready(()),
            Some(_) => {}
            None => self.key = reactor::set_timer(self.at_us, cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            reactor::remove_timer(key);
        }
    }
}
