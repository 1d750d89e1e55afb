//! Bodies in transit: hyper's, watched.
//!
//! A request body notes how far it is, so that a timeout is blamed on the side that stalls. A
//! response body settles its attempt: at its end the backend did well and gets its connection back
//! into the pool; when it breaks the backend failed; when the client loses interest nobody did.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use steerage_common::abi::FailureClass;

use super::connection::Client;
use super::exchange::Attempt;
use super::pool::Connection;
use crate::net::clock;

/// Who a request body waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The backend, to take more.
    Backend,
    /// The client, to send more.
    Client,
    /// Nobody: it has passed whole.
    Done,
    /// Nobody: the client broke off.
    Broken,
}

/// How far a request body is.
#[derive(Debug)]
pub(super) struct Upload {
    stage: Cell<Stage>,
    progress_ms: Cell<u64>,
    bytes: Cell<u64>,
    client: Rc<Client>,
}

impl Upload {
    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// When bytes last came, by [`clock::now_ms`].
    pub(super) fn progress_ms(&self) -> u64 {
        self.progress_ms.get()
    }

    /// Bytes since the last call.
    pub(super) fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }
}

/// A request body on its way to a backend.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    /// `None` for an empty body.
    upload: Option<Rc<Upload>>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, client: &Rc<Client>) -> Self {
        let upload = (!incoming.is_end_stream()).then(|| {
            Rc::new(Upload {
                stage: Cell::new(Stage::Backend),
                progress_ms: Cell::new(clock::now_ms()),
                bytes: Cell::new(0),
                client: client.clone(),
            })
        });
        Self { incoming, upload }
    }

    pub(super) fn upload(&self) -> Option<Rc<Upload>> {
        self.upload.clone()
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let Some(upload) = &self.upload else { return polled };
        upload.stage.set(match &polled {
            Poll::Pending => Stage::Client,
            Poll::Ready(None) => Stage::Done,
            Poll::Ready(Some(Err(_))) => Stage::Broken,
            Poll::Ready(Some(Ok(frame))) => {
                upload.progress_ms.set(clock::now_ms());
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                upload.bytes.set(upload.bytes.get() + bytes as u64);
                if self.incoming.is_end_stream() { Stage::Done } else { Stage::Backend }
            }
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload
            && matches!(upload.stage(), Stage::Backend | Stage::Client)
        {
            upload.client.leave_unread();
        }
    }
}

/// A response body on its way to the client.
#[derive(Debug)]
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
    incoming: Incoming,
    /// `None` once the attempt is settled.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    attempt: Attempt,
    connection: Connection,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, attempt: Attempt, connection: Connection) -> Self {
        let mut body = Self { incoming, open: Some(Open { attempt, connection }) };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(Open { attempt, connection }) = self.open.take() {
            attempt.finished(connection);
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let (Some(open), Some(data)) = (&self.open, frame.data_ref()) {
                    open.attempt.received(data.len());
                }
                if self.incoming.is_end_stream() {
                    self.finish();
                }
            }
            Some(Err(_)) => {
                if let Some(open) = self.open.take() {
                    open.attempt.broke(FailureClass::Reset);
                }
            }
            None => self.finish(),
        }
        Poll::Ready(polled)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Backend(body) => body.poll_frame(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Backend(body) => body.incoming.is_end_stream(),
            Self::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Backend(body) => body.incoming.size_hint(),
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
