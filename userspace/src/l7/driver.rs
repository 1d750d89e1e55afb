//! Who drives a backend's connection: hyper's side of it moves only when somebody polls it.
//!
//! While it is idle, a task of its own does: it sees the backend close in the moment in which that
//! happens. While it carries a request the request's own task does, in the same poll in which it looks
//! for the response: two tasks would wake each other half a dozen times for every request. What the
//! connection says to the response then needs no waker, and what is said to the idle task goes unheard
//! ([`Bell`]).
//!
//! A response that begins before the request's body has ended goes back to the connection's own task:
//! the body must go on even if the client reads nothing of the response.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use hyper::client::conn::http1::{self, Parts};
use hyper_util::rt::TokioIo;

use super::upload::RequestBody;
use super::watch::Watched;

type Machine = http1::Connection<TokioIo<Watched>, RequestBody>;

/// A connection's machine, and who polls it.
#[derive(Debug)]
pub(super) struct Driver {
    /// `None` once HTTP has ended on the connection.
    machine: RefCell<Option<Machine>>,
    /// What is left of it, if it ended by the rules.
    parts: RefCell<Option<Parts<TokioIo<Watched>>>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

/// Wakes the connection's own task, unless another one drives.
#[derive(Debug, Default)]
struct Bell {
    is_muted: AtomicBool,
    task: OnceLock<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_muted.load(Ordering::Relaxed)
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}

impl Driver {
    pub(super) fn new(machine: Machine) -> Rc<Self> {
        let bell = Arc::new(Bell::default());
        Rc::new(Self {
            machine: RefCell::new(Some(machine)),
            parts: RefCell::new(None),
            waker: Waker::from(bell.clone()),
            bell,
        })
    }

    /// Drives the connection whenever nobody else does, until HTTP ends on it.
    pub(super) async fn run(&self) {
        poll_fn(|cx| {
            self.bell.task.get_or_init(|| cx.waker().clone());
            if self.is_taken() { Poll::Pending } else { self.poll_by_itself() }
        })
        .await;
    }

    /// The caller drives from now on.
    pub(super) fn take(&self) {
        self.bell.is_muted.store(true, Ordering::Relaxed);
    }

    /// The connection's own task drives from now on.
    pub(super) fn leave(&self) {
        self.bell.is_muted.store(false, Ordering::Relaxed);
        // The task needs not run for it: what happens next rings.
        if self.poll_by_itself().is_ready() {
            self.bell.wake_by_ref();
        }
    }

    /// Whether the holder of the connection has to drive it.
    pub(super) fn is_taken(&self) -> bool {
        self.bell.is_muted.load(Ordering::Relaxed)
    }

    /// Moves the connection on; ready when HTTP has ended on it.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut machine = self.machine.borrow_mut();
        let Some(running) = machine.as_mut() else { return Poll::Ready(()) };
        let Poll::Ready(outcome) = running.poll_without_shutdown(cx) else {
            return Poll::Pending;
        };
        // Dropped in any case: whoever waits for a response learns by it that none comes.
        let ended = machine.take();
        drop(machine);
        match outcome {
            Ok(()) => *self.parts.borrow_mut() = ended.map(Machine::into_parts),
            Err(error) => tracing::debug!(%error, "connection to backend broke"),
        }
        Poll::Ready(())
    }

    fn poll_by_itself(&self) -> Poll<()> {
        self.poll(&mut Context::from_waker(&self.waker))
    }

    /// Drives until `answer`, which the connection gives, is there.
    pub(super) async fn until<F: Future>(&self, answer: F) -> F::Output {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            let _ = self.poll(cx);
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// Drives until HTTP has ended; what is left of it, if it ended by the rules.
    pub(super) async fn end(&self) -> Option<Parts<TokioIo<Watched>>> {
        poll_fn(|cx| self.poll(cx)).await;
        self.parts.take()
    }
}
