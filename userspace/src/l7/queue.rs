//! Requests that wait because every backend has as many as it may: first come, first served.
//!
//! A request takes a place in the line, and is called when one of this worker's requests to the service
//! has ended, and at every tick, because another worker's may have. Whoever comes while others wait
//! stands behind them, also when a backend is free by then. A line outlives the configuration that it
//! began under.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::net::{Deadline, Elapsed};

/// The line of one service, in one worker.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    next: Cell<u64>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    is_called: bool,
    waker: Option<Waker>,
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Rc<Queue>,
    number: u64,
    deadline: Deadline,
}

impl Queue {
    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Takes the last place.
    pub(crate) fn stand(self: &Rc<Self>, timeout: Duration) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        // Somebody may have become free between the pick and now: the first asks once more.
        let is_called = self.is_empty();
        self.waiting.borrow_mut().push_back(Waiting { number, is_called, waker: None });
        Place { queue: self.clone(), number, deadline: Deadline::after(timeout) }
    }

    /// Calls the first.
    #[inline]
    pub(super) fn call(&self) {
        if let Some(first) = self.waiting.borrow_mut().front_mut() {
            first.is_called = true;
            if let Some(waker) = first.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Place {
    /// Waits until it is the first and was called.
    ///
    /// # Errors
    /// If its time is over before.
    pub(crate) async fn called(&self) -> Result<(), Elapsed> {
        poll_fn(|cx| {
            let mut waiting = self.queue.waiting.borrow_mut();
            let is_first = waiting.front().is_some_and(|first| first.number == self.number);
            let place = waiting.iter_mut().find(|place| place.number == self.number);
            let Some(place) = place else { return Poll::Ready(Ok(())) };
            if is_first && place.is_called {
                place.is_called = false;
                return Poll::Ready(Ok(()));
            }
            place.waker = Some(cx.waker().clone());
            self.deadline.poll_reached(cx).map(|()| Err(Elapsed))
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|place| place.number == self.number) {
            waiting.remove(at);
        }
        drop(waiting);
        // There may be room for the next one too.
        self.queue.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn first_come_first_served() {
        net::run(net::Io::Auto, async {
            let queue = Rc::new(Queue::default());
            let order = Rc::new(RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            let blocker = queue.stand(LONG);
            blocker.called().await.unwrap();
            for number in 0..3 {
                let (queue, order) = (queue.clone(), order.clone());
                tasks.push(net::spawn(async move {
                    let place = queue.stand(LONG);
                    place.called().await.unwrap();
                    order.borrow_mut().push(number);
                }));
            }
            tokio::task::yield_now().await;
            assert!(!queue.is_empty() && order.borrow().is_empty());
            drop(blocker);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.borrow(), [0, 1, 2]);
            assert!(queue.is_empty());
        })
        .unwrap();
    }

    #[test]
    fn whoever_waits_too_long_leaves_and_holds_nobody_up() {
        net::run(net::Io::Auto, async {
            let queue = Rc::new(Queue::default());
            let first = queue.stand(LONG);
            first.called().await.unwrap();
            let second = queue.stand(Duration::from_millis(1));
            assert!(second.called().await.is_err());
            drop(second);
            let third = queue.stand(LONG);
            drop(first);
            third.called().await.unwrap();
        })
        .unwrap();
    }
}
