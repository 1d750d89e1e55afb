//! Response bodies in transit: hyper's, watched.
//!
//! A response body settles its attempt: at its end the backend did well and gets its connection back
//! into the pool; when it breaks the backend failed; when the client loses interest nobody did.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;

use super::attempt::Attempt;
use super::via::Via;
use crate::net::Deadline;

/// A response body on its way to the client.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are a backend's")]
pub enum Body {
    /// From a backend.
    #[allow(private_interfaces, reason = "made here only")]
    Backend(ResponseBody),
    /// Steerage's own, a short text.
    Own(Option<Bytes>),
}

/// A backend's response body.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// `None` once the attempt is settled.
    open: Option<Open>,
    /// Runs while the backend is waited for; made when it is for the first time.
    stall: Option<Deadline>,
    /// How it broke; told once hyper has had a moment to flush what came before.
    broken: Option<Broken>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    /// hyper, which frames it.
    Hyper(Incoming),
    /// The connection itself, so many bytes.
    Connection { left: u64 },
}

impl Source {
    fn is_end(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Connection { left } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Connection { left } => SizeHint::with_exact(*left),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        via: Option<&Via>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match (self, via) {
            (Self::Hyper(incoming), Some(via)) if via.is_driven_by_holder() => {
                // What comes, comes by driving: nothing else has to wake this task.
                let unheard = &mut Context::from_waker(Waker::noop());
                // Asked first: nothing is read that nobody wants.
                let polled = Pin::new(&mut *incoming).poll_frame(unheard);
                let polled = if polled.is_ready() {
                    polled
                } else {
                    via.drive(cx);
                    Pin::new(incoming).poll_frame(unheard)
                };
                polled.map_err(Broken::ByBackend)
            }
            (Self::Hyper(incoming), _) => {
                Pin::new(incoming).poll_frame(cx).map_err(Broken::ByBackend)
            }
            (Self::Connection { left }, Some(via)) if *left != 0 => {
                let piece = ready!(via.poll_body(cx)).map_err(Broken::Connection);
                if let Ok(piece) = &piece {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
            (Self::Connection { .. }, _) => Poll::Ready(None),
        }
    }
}

/// Why a response body has no end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection ended, or what came was no body.
    #[error("the backend broke off: {0}")]
    ByBackend(hyper::Error),
    /// The connection ended before the body did.
    #[error("the backend broke off: {0}")]
    Connection(io::Error),
    /// The backend let too much time pass.
    #[error("nothing came of the response for too long")]
    Stalled,
}

#[derive(Debug)]
struct Open {
    attempt: Attempt,
    via: Via,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, attempt: Attempt, via: Via) -> Self {
        let source = match via.body_left() {
            0 => Source::Hyper(incoming),
            left => Source::Connection { left },
        };
        let mut body =
            Self { source, open: Some(Open { attempt, via }), stall: None, broken: None };
        if body.source.is_end() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(Open { attempt, via }) = self.open.take() {
            attempt.finished(via);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let via = self.open.as_ref().map(|open| &open.via);
        let Poll::Ready(polled) = self.source.poll_frame(cx, via) else {
            return self.poll_stalled(cx).map(|()| Some(Err(Broken::Stalled)));
        };
        self.stall = None;
        match polled {
            Some(Ok(frame)) => {
                if let (Some(open), Some(data)) = (&self.open, frame.data_ref()) {
                    open.attempt.received(data.len());
                }
                // Behind trailers comes nothing, and nobody asks for it.
                if frame.is_trailers() || self.source.is_end() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(Open { attempt, via }) = self.open.take() {
                    attempt.broke(match &error {
                        Broken::ByBackend(error) => via.broke(error),
                        Broken::Connection(_) | Broken::Stalled => FailureClass::Reset,
                    });
                }
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// Ready when the backend has let too much time pass.
    fn poll_stalled(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(open) = &self.open else { return Poll::Pending };
        let limit = open.attempt.stall();
        let stall = self.stall.get_or_insert_with(|| Deadline::after(limit));
        if stall.poll_reached(cx).is_pending() {
            return Poll::Pending;
        }
        tracing::debug!("response ended: nothing comes of it");
        if let Some(Open { attempt, mut via }) = self.open.take() {
            via.ends(Cause::BackendStall);
            attempt.broke(FailureClass::Stall);
        }
        Poll::Ready(())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Backend(body) => body.poll_frame(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Backend(body) => body.source.is_end(),
            Self::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Backend(body) => body.source.size_hint(),
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
