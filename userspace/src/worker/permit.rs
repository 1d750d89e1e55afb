//! Permits: how many connections a worker may have.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A number of permits that are taken before a connection is accepted and come back with its end.
#[derive(Clone, Debug)]
pub(super) struct Permits(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: Cell<usize>,
    taken: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Shared {
    fn wake(&self) {
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

/// The right to one connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Permits);

impl Permits {
    /// `limit` permits, at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self(Rc::new(Shared {
            limit: Cell::new(limit.max(1)),
            taken: Cell::new(0),
            waiting: RefCell::new(Vec::new()),
        }))
    }

    /// Gives out no more than `limit` from now on, at least one.
    pub(super) fn limit(&self, limit: usize) {
        self.0.limit.set(limit.max(1));
        self.0.wake();
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.0.taken.get()
    }

    /// Takes one for what `poll` gives; does not poll, but calls `pause`, while there is none. So
    /// several who wait for something to happen share the last permit: whoever's happens first has it.
    pub(super) async fn take_for<T>(
        &self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
        mut pause: impl FnMut(),
    ) -> (Permit, T) {
        poll_fn(|cx| {
            if self.poll_until(cx, |taken| taken < self.0.limit.get()).is_pending() {
                pause();
                return Poll::Pending;
            }
            poll(cx).map(|value| (self.take_anyway(), value))
        })
        .await
    }

    /// Takes one even beyond the limit.
    pub(super) fn take_anyway(&self) -> Permit {
        self.0.taken.set(self.taken() + 1);
        Permit(self.clone())
    }

    /// Waits until none is taken.
    pub(super) async fn all_returned(&self) {
        poll_fn(|cx| self.poll_until(cx, |taken| taken == 0)).await;
    }

    fn poll_until(&self, cx: &Context<'_>, suits: impl Fn(usize) -> bool) -> Poll<()> {
        if suits(self.taken()) {
            return Poll::Ready(());
        }
        self.0.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.taken.set(shared.taken.get() - 1);
        shared.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;

    #[test]
    fn no_more_permits_are_out_than_there_are() {
        net::run(net::Io::Auto, async {
            let permits = Permits::new(2);
            let take = |permits: Permits| async move {
                permits.take_for(|_| Poll::Ready(()), || {}).await
            };
            // One who waits for something holds nothing meanwhile.
            let waiting = permits.clone();
            net::spawn(async move { waiting.take_for(|_| Poll::<()>::Pending, || {}).await });
            let (first, second) = (take(permits.clone()).await, take(permits.clone()).await);
            let third = net::spawn(take(permits.clone()));
            tokio::task::yield_now().await;
            assert!(!third.is_finished());
            drop(first);
            let third = third.await.unwrap();
            assert_eq!(permits.taken(), 2);
            drop((second, third));
            permits.all_returned().await;
        })
        .unwrap();
    }
}
