//! Waiting for a backend's SETTINGS.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};

use steerage_common::abi::FailureClass;

use super::class_of;
use super::trunk::Http2;
use crate::net;

/// Stands for the number of streams that a backend allows until its SETTINGS have come; none can say it.
pub(super) const STREAMS_UNTOLD: usize = 1 << 32;

/// Waits for a backend's first words. hyper does not tell of them, so the task that reads them does.
#[derive(Clone, Debug, Default)]
pub(super) struct Greeting(Rc<GreetingState>);

#[derive(Debug, Default)]
struct GreetingState {
    is_over: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Greeting {
    pub(super) async fn wait(&self, connection: &mut Http2) -> Result<(), FailureClass> {
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(end) = Pin::new(&mut *connection).poll(cx) {
                return Poll::Ready(Err(
                    end.map_or_else(|e| class_of(&e), |()| FailureClass::Connect)
                ));
            }
            if connection.current_max_send_streams() != STREAMS_UNTOLD {
                return Poll::Ready(Ok(()));
            }
            *self.0.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        });
        let outcome = outcome.await;
        self.0.is_over.set(true);
        outcome
    }

    /// Notes that something may have been read.
    fn may_have_come(&self) {
        if let Some(waiting) = self.0.waiting.take() {
            waiting.wake();
        }
    }
}

/// Runs hyper's tasks beside the others of this thread.
#[derive(Clone, Debug)]
pub(super) struct Executor(pub(super) Greeting);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        if self.0.0.is_over.get() {
            net::spawn(task);
            return;
        }
        // The first is the connection's own.
        let greeting = self.0.clone();
        net::spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let polled = task.as_mut().poll(cx);
                greeting.may_have_come();
                polled
            })
            .await;
        });
    }
}
