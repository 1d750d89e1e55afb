//! The guard of a client's connection, as the stream's reader and the requests share it.
//!
//! What is refused waits for its turn: the requests before it are answered first. And what comes after
//! a request that may switch protocols waits for the switch, or for the end of its response.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use steerage_common::error::ErrorClass;

use super::guard::{Limits, Place, RequestGuard, Verdict};

/// A connection's guard.
#[derive(Debug)]
pub(super) struct Gate {
    guard: RefCell<RequestGuard>,
    refusal: Cell<Option<Refusal>>,
    /// Requests that hyper has handed over.
    begun: Cell<u64>,
    /// Whoever waits for a decision about held bytes.
    reader: RefCell<Option<Waker>>,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) class: ErrorClass,
    /// Whether it is a request's body that was refused; else it is what should have been a head.
    pub(super) is_in_body: bool,
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            guard: RefCell::new(RequestGuard::new(limits)),
            refusal: Cell::new(None),
            begun: Cell::new(0),
            reader: RefCell::default(),
        }
    }

    /// How many of `bytes` may pass. Those that follow are refused, or to be held.
    pub(super) fn inspect(&self, bytes: &[u8]) -> usize {
        let mut guard = self.guard.borrow_mut();
        match guard.inspect(bytes) {
            Verdict::Pass => bytes.len(),
            Verdict::Hold(passed) => passed,
            Verdict::Refuse(passed, class) => {
                let is_in_body = guard.place() == Place::Body;
                self.refusal.set(Some(Refusal { class, is_in_body }));
                passed
            }
        }
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get()
    }

    /// Where the client's next byte belongs.
    pub(super) fn place(&self) -> Place {
        self.guard.borrow().place()
    }

    /// Whether bytes are to be held until it is known whose they are; the task is woken then.
    pub(super) fn is_undecided(&self, cx: &Context<'_>) -> bool {
        let is_undecided = self.guard.borrow().is_undecided();
        if is_undecided {
            *self.reader.borrow_mut() = Some(cx.waker().clone());
        }
        is_undecided
    }

    /// Whether heads have passed that hyper has not handed over yet.
    pub(super) fn has_more(&self) -> bool {
        self.guard.borrow().heads() > self.begun.get()
    }

    pub(super) fn request_began(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    pub(super) fn request_ended(&self) {
        self.guard.borrow_mut().stayed();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
