//! `Expect: 100-continue`: a request body that waits for the backend's word.
//!
//! hyper's server tells a client to go on when the body is read for the first time, and hyper's client
//! would read it at once. So the body has a gate before it, which opens by the backend's 100, or after
//! [`PATIENCE`] without any answer, because a backend need not know the header (RFC 9110, 10.1.1). If the
//! answer is a final one, the body is not read at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{EXPECT, HeaderMap};
use http::{Request, StatusCode};

use crate::net::Deadline;

/// How long a body waits for a backend that says nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the client waits to be told to send the body.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What a body waits at.
#[derive(Debug)]
pub(super) struct Gate {
    latch: Arc<Latch>,
    patience: Deadline,
}

/// The half that hyper's callback has; of one thread as well, but hyper does not know that.
#[derive(Debug, Default)]
struct Latch {
    is_open: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { latch: Arc::default(), patience: Deadline::after(PATIENCE) }
    }

    /// Ready when the body may pass.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        *self.latch.waiting() = Some(cx.waker().clone());
        if self.latch.is_open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.poll_reached(cx)
    }

    /// What makes the backend's 100 to a request open the gate.
    pub(super) fn opener<B>(&self) -> impl FnOnce(&mut Request<B>) + use<B> {
        let latch = self.latch.clone();
        move |request| {
            hyper::ext::on_informational(request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    latch.open();
                }
            });
        }
    }
}

impl Latch {
    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        if let Some(waker) = self.waiting().take() {
            waker.wake();
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
