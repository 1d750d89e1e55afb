//! Coarse timers.
//!
//! Every request sets a timer and almost none expires. So setting one is a store into a slab, and a
//! ticker looks through the slab every [`TICK`]: a deadline is noticed at its time or up to one tick
//! later, never before it. Precise timers are for what happens rarely ([`super::sleep`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Slab, clock};

/// How late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(100);

/// A time that did not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// One coarse timer of this thread.
#[derive(Debug)]
pub struct Deadline {
    key: usize,
    of_this_thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Entry {
    at_ms: u64,
    waker: Option<Waker>,
}

/// No time at all: later than any clock.
const NEVER: u64 = u64::MAX;

thread_local! {
    static ENTRIES: RefCell<Slab<Entry>> = const { RefCell::new(Slab::new()) };
}

impl Deadline {
    /// A timer that is not set.
    #[must_use]
    pub fn unset() -> Self {
        Self::at_ms(NEVER)
    }

    /// A timer for `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::at_ms(from_now(duration))
    }

    /// A timer for a time of [`clock::now_ms`].
    #[must_use]
    pub fn at_ms(at_ms: u64) -> Self {
        let key = ENTRIES.with_borrow_mut(|entries| entries.insert(Entry { at_ms, waker: None }));
        Self { key, of_this_thread: PhantomData }
    }

    /// Sets the timer anew.
    pub fn set(&self, duration: Duration) {
        self.set_at_ms(from_now(duration));
    }

    /// Sets the timer to a time of [`clock::now_ms`].
    pub fn set_at_ms(&self, at_ms: u64) {
        self.with_entry(|entry| entry.at_ms = at_ms);
    }

    /// Stops the timer; [`Deadline::poll_reached`] is pending until it is set again.
    pub fn unset_again(&self) {
        self.set_at_ms(NEVER);
    }

    /// What becomes of `future` before the time has come.
    ///
    /// # Errors
    /// If the time comes first.
    pub async fn cut<F: Future>(&self, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_reached(cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Ready once the time has come; until then the task is woken when it comes.
    pub fn poll_reached(&self, cx: &Context<'_>) -> Poll<()> {
        let now = clock::now_ms();
        self.with_entry(|entry| {
            if entry.at_ms <= now {
                return Poll::Ready(());
            }
            match &entry.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => entry.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }

    fn with_entry<T>(&self, f: impl FnOnce(&mut Entry) -> T) -> T {
        ENTRIES.with_borrow_mut(|entries| {
            f(entries.get_mut(self.key).expect("an entry lives as long as its deadline"))
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The slab is gone if the thread ends with the deadline still in some other thread-local.
        let _ = ENTRIES.try_with(|entries| entries.borrow_mut().remove(self.key));
    }
}

fn from_now(duration: Duration) -> u64 {
    clock::now_ms().saturating_add(u64::try_from(duration.as_millis()).unwrap_or(NEVER))
}

/// Wakes the tasks whose time has come. Called once a [`TICK`].
pub(super) fn wake_due() {
    let now = clock::now_ms();
    wake(|entry| entry.at_ms <= now);
}

/// Wakes every task that waits for a deadline, so that it looks at what else has changed.
pub fn wake_all() {
    wake(|_| true);
}

fn wake(chosen: impl Fn(&Entry) -> bool) {
    ENTRIES.with_borrow_mut(|entries| {
        for entry in entries.iter_mut().filter(|entry| chosen(entry)) {
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    });
}

/// The future's output, unless `duration` passes first.
///
/// # Errors
/// [`Elapsed`] if it does.
pub async fn within<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    Deadline::after(duration).cut(future).await
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_each;
    use super::*;

    #[test]
    fn a_deadline_is_noticed_and_not_before_its_time() {
        on_each(|| async {
            let before = crate::clock::now_ms();
            let outcome = within(Duration::from_millis(30), std::future::pending::<()>()).await;
            assert_eq!(outcome, Err(Elapsed));
            // The cached time is that of the turn's beginning: 1 ms for its rounding.
            assert!(crate::clock::now_ms() + 1 >= before + 30);
        });
    }

    #[test]
    fn what_is_ready_has_no_deadline() {
        on_each(|| async {
            assert_eq!(within(Duration::ZERO, std::future::ready(7)).await, Ok(7));
        });
    }

    #[test]
    fn everyone_who_waits_can_be_woken() {
        on_each(|| async {
            let deadline = Deadline::unset();
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                assert!(deadline.poll_reached(cx).is_pending());
                if polls == 1 {
                    wake_all();
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
        });
    }
}
