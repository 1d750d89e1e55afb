//! A client's HTTP/2 connection: its limits, and what hyper leaves to us.
//!
//! hyper and h2 parse, frame, and bound what a client can make us hold: the number of streams, the
//! windows of what it uploads, the length of a header list (and by it the number of CONTINUATION frames),
//! streams that it resets before they were looked at, and its protocol errors.
//!
//! Every stream is a task of its own, made by our [`Executor`], and there stand two limits that h2
//! has not (a third are [`super::frames`]):
//!
//! - A client that asks and then takes nothing. A response passes in pieces of [`PIECE_BYTES`], and a
//!   client has `stall` to take one: if it does not, its stream is reset. The time runs per piece, so
//!   small `WINDOW_UPDATE`s do not wind it up again.
//! - Rapid resets. A stream that was accepted and then reset before its response costs a backend's
//!   work. After more than `resets` of those within [`RESETS_WINDOW`] the connection ends.
//!
//! Whatever of this ends a connection or a stream is counted with its cause ([`Cause`]).
//!
//! The end: when the worker drains, and after `idle` without a stream, the client gets a GOAWAY and open
//! streams go on; a client that has none open is given [`GOAWAY_PATIENCE`] to close. A ping every
//! [`PING_EVERY`] finds those that are gone.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use steerage_common::cause::Cause;

use super::access::Recorded;
use super::body::Broken;
use super::connection::Client;
use super::exchange::respond;
use super::house::Door;
use super::lent::Line;
use crate::config::model::Http2;
use crate::net::{self, Deadline, clock};

/// The time in which [`Http2::resets`] are counted.
const RESETS_WINDOW: Duration = Duration::from_secs(10);

/// What a stream hands to h2 at a time, and what h2 may hold for it besides.
const PIECE_BYTES: usize = 16 * 1024;

/// How long a client may take to close after a GOAWAY, with no stream open.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(5);

/// How often a ping asks whether the client is there.
const PING_EVERY: Duration = Duration::from_secs(60);

/// How long the answer may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a client whose preface was seen, until one side ends the connection; gives why it was cut off.
pub(super) async fn serve(client: &Rc<Client>, line: &Rc<Line>) -> Option<Cause> {
    let (proxy, front) = client.door().inside();
    let limits = proxy.fronts[front].http2;
    drop(proxy);
    let resets = limits.resets as usize;
    client.may_idle(limits.idle);
    let streams = Rc::new(Streams::new(client.door().clone(), limits));
    let service = service_fn(|request| answer(client, &streams, request));
    let connection = http2::Builder::new(Executor(streams.clone()))
        .timer(net::Timer)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list)
        .max_pending_accept_reset_streams(resets)
        .max_local_error_reset_streams(resets)
        .max_send_buf_size(PIECE_BYTES)
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(line.lend()), service);
    let mut connection = pin!(connection);
    let mut is_told = false;
    poll_fn(|cx| {
        if client.door().is_over() {
            return Poll::Ready(Some(Cause::Drained));
        }
        let is_idle = !is_told && (client.poll_idle(cx).is_ready() || client.is_to_make_room());
        if is_idle || (client.door().is_draining() && !is_told) {
            is_told = true;
            connection.as_mut().graceful_shutdown();
            client.may_idle(GOAWAY_PATIENCE);
        }
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            let error = outcome.err();
            if let Some(error) = &error {
                tracing::debug!(%error, "client connection broke");
            }
            if client.has_open_requests() && client.has_ended() {
                return Poll::Ready(Some(Cause::HungUp));
            }
            return Poll::Ready(error.and_then(|error| cut_of(&error, line)));
        }
        let is_reset_flood = streams.is_flood.get().then_some(Cause::ResetFlood);
        let flood = is_reset_flood.or_else(|| line.flood(client.sent()));
        if flood.is_some() {
            return Poll::Ready(flood);
        }
        let cause = if client.door().is_draining() { Cause::Drained } else { Cause::Idle };
        if is_told { client.poll_idle(cx).map(|()| Some(cause)) } else { Poll::Pending }
    })
    .await
}

/// The cause of a connection's end, if it is a mistake of the client's that h2 found.
fn cut_of(error: &hyper::Error, line: &Line) -> Option<Cause> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            // Which of its limits it was h2 tells the client alone.
            let is_flood = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            let flood = is_flood.then(|| line.worst_flood()).flatten();
            return error.is_library().then(|| flood.unwrap_or(Cause::Http2Protocol));
        }
        source = cause.source();
    }
    None
}

/// One request, its response cut into pieces.
fn answer(
    client: &Rc<Client>,
    streams: &Rc<Streams>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Pieces>, Infallible>> + use<> {
    let stall = Rc::new(Stall { deadline: Deadline::unset(), is_over: Cell::new(false) });
    // hyper makes the stream's task right after this call.
    streams.latest.replace(Some(stall.clone()));
    let (client, streams) = (client.clone(), streams.clone());
    let limit = streams.limits.stall;
    async move {
        let mut waiting = Waiting { client: client.clone(), streams, is_answered: false };
        let response = respond(client, request).await?;
        waiting.is_answered = true;
        Ok(response.map(|body| Pieces { body, rest: Bytes::new(), stall, limit }))
    }
}

/// A request without a response so far. Dropped before it has one, the client has reset it.
struct Waiting {
    client: Rc<Client>,
    streams: Rc<Streams>,
    is_answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_answered {
            self.client.request_ended();
            self.streams.note_cancelled();
        }
    }
}

/// What the streams of one connection share.
#[derive(Debug)]
struct Streams {
    door: Rc<Door>,
    limits: Http2,
    /// The time limit of the request that was taken last, until its task is made.
    latest: RefCell<Option<Rc<Stall>>>,
    /// Streams reset before their response since `window_began_ms`.
    cancelled: Cell<u32>,
    window_began_ms: Cell<u64>,
    is_flood: Cell<bool>,
}

impl Streams {
    fn new(door: Rc<Door>, limits: Http2) -> Self {
        Self {
            door,
            limits,
            latest: RefCell::default(),
            cancelled: Cell::new(0),
            window_began_ms: Cell::new(clock::now_ms()),
            is_flood: Cell::new(false),
        }
    }

    /// Notes that a client did not wait for its response.
    fn note_cancelled(&self) {
        let now = clock::now_ms();
        if now.saturating_sub(self.window_began_ms.get()) >= RESETS_WINDOW.as_millis() as u64 {
            self.window_began_ms.set(now);
            self.cancelled.set(0);
        }
        self.cancelled.set(self.cancelled.get() + 1);
        if self.cancelled.get() > self.limits.resets {
            self.is_flood.set(true);
        }
    }
}

/// Makes the tasks of streams.
#[derive(Clone, Debug)]
struct Executor(Rc<Streams>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        let Some(stall) = self.0.latest.take() else {
            net::spawn(stream);
            return;
        };
        net::spawn(Limited { stream, stall, door: self.0.door.clone() });
    }
}

pin_project! {
    /// A stream's task, within the time limit of its response. Dropped, the stream is reset.
    ///
    /// Polled where it is: a stream's state is large, and need not be moved once more.
    struct Limited<F> {
        #[pin]
        stream: F,
        stall: Rc<Stall>,
        door: Rc<Door>,
    }
}

impl<F: Future<Output = ()>> Future for Limited<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(this.stall.deadline.poll_reached(cx));
        this.stall.is_over.set(true);
        this.door.count_stream_end(Cause::ResponseStall);
        Poll::Ready(())
    }
}

/// The time that a client may take for a piece of a response.
#[derive(Debug)]
struct Stall {
    deadline: Deadline,
    is_over: Cell<bool>,
}

/// A response body in pieces that are handed out one by one.
struct Pieces {
    body: Recorded,
    rest: Bytes,
    /// Set while a piece waits for the client.
    stall: Rc<Stall>,
    /// How long it may.
    limit: Duration,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if self.stall.is_over.get() {
            self.body.ends(Cause::ResponseStall);
        }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // Asking for more, the client has taken what it was given.
        self.stall.deadline.unset_again();
        if self.rest.is_empty() {
            let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let Some(Ok(frame)) = polled else { return Poll::Ready(polled) };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        self.stall.deadline.set(self.limit);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}
