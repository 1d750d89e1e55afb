//! One attempt: the request at one backend, once.
//!
//! A failed attempt says how far it came, by what the connection's stream saw and what the kernel
//! knows; what follows from it is decided elsewhere. Before anything is concluded, what was written and
//! has not left is withdrawn: the kernel sends nothing of it any more, so that the evidence stays true.
//!
//! Whose fault: a connection that can't be made, the loss of a fresh one, timeouts of the backend and
//! broken responses are told to the breaker. A kept connection that died before a response, a client
//! that stalled or left, and this host's own shortages are not.

mod connect;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::latency::Timer;
use steerage_common::replay::{End, Refusal, Stage as Reached};

use super::access::Record;
use super::body::{Body, ResponseBody};
use super::connection::Client;
use super::expect::{self, Gate};
use super::hold::Hold;
use super::pool::Meter;
use super::reply::of_failure;
use super::route::Destination;
use super::tunnel::{Far, Tunnel};
use super::upgrade::Wish;
use super::upload::{RequestBody, Stage, Upload};
use super::via::{Mark, Via};
use super::{Tally, Target, forward, version};
use crate::l4::copy::Account;
use crate::net::{Deadline, clock};
use crate::region::{self, add};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How an attempt failed.
pub(super) enum Failure {
    /// Another one may follow.
    Open(Failed),
    /// None does, whatever the rules: the fault is not the backend's, or its time is up.
    Final(ErrorClass),
}

/// What is known of a failed attempt.
pub(super) struct Failed {
    pub(super) stage: Reached,
    pub(super) is_reused: bool,
    /// What the client is told if none follows.
    pub(super) class: ErrorClass,
}

impl Failed {
    /// What the client is told, if this is why none follows.
    pub(super) fn class_after(&self, refusal: Refusal) -> ErrorClass {
        match (refusal, self.stage) {
            // It is known that nothing was received: only the body is gone.
            (Refusal::BodyGone, Reached::Lost(End::Fin { acked: Some(0) })) => ErrorClass::Reset,
            _ => self.class,
        }
    }
}

/// What all attempts at a request have in common.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// When the request came, by [`clock::now_us`].
    pub(super) came_us: u64,
    /// When the response must have begun, by [`clock::now_ms`].
    pub(super) deadline_ms: u64,
    /// Where its listener's and its route's figures are.
    pub(super) tally: Rc<Tally>,
}

/// One request at one backend: in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Attempt {
    target: Rc<Target>,
    client: Rc<Client>,
    destination: Destination,
    backend: usize,
    /// The body that must have passed whole before the connection can be used again.
    upload: Option<Rc<Upload>>,
    frame: Frame,
    /// Whether the breaker has heard of the outcome.
    is_judged: bool,
    /// Whether the response has begun: the request ends with this attempt.
    is_answered: bool,
    /// Whether a tunnel opened with the response: what follows is no request.
    is_tunnel: bool,
    /// What the access log is told.
    record: Option<Rc<Record>>,
    _hold: Hold,
}

impl Attempt {
    /// `None` if the backend has as many requests as it may.
    pub(super) fn begin(
        target: Rc<Target>,
        client: Rc<Client>,
        destination: Destination,
        backend: usize,
        upload: Option<Rc<Upload>>,
        frame: Frame,
        record: Option<Rc<Record>>,
    ) -> Option<Self> {
        let hold = Hold::begin(&target, backend)?;
        if let Some(record) = &record {
            record.attempt(&target, backend);
        }
        Some(Self {
            target,
            client,
            destination,
            backend,
            upload,
            frame,
            is_judged: false,
            is_answered: false,
            is_tunnel: false,
            record,
            _hold: hold,
        })
    }

    fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn cell(&self) -> &region::Cell {
        self.target().service.cell(self.backend)
    }

    /// Notes how long something took that began at `since_us`.
    fn note_time(&self, timer: Timer, since_us: u64) {
        let us = clock::now_us().saturating_sub(since_us);
        self.target().service.note_time(self.backend, timer, us);
    }

    fn failed(&self, class: FailureClass) {
        add(&self.cell().failures[class as usize], 1);
        self.target().service.failed(self.backend, class);
    }

    /// Sends the request and waits for the response's head.
    pub(super) async fn send(
        &self,
        head: &Parts,
        wish: Option<&Wish>,
        is_fresh: bool,
    ) -> Result<(Response<Incoming>, Via), Failure> {
        let target = self.target();
        let mut via = self.via(wish.is_some(), is_fresh).await?;
        let wish = via.ask_for(wish).map_err(Failure::Final)?;
        let mark = via.mark();
        let is_lane = matches!(via, Via::Lane(_));
        let expects = expect::is_asked(&head.headers) && !is_lane;
        let gate = expects.then(Gate::new);
        let opener = gate.as_ref().map(Gate::opener);
        let body = RequestBody::new(self.upload.as_ref(), gate);
        let mut request = Request::from_parts(head.clone(), body);
        if let Some(opener) = opener {
            opener(&mut request);
        }
        let address = target.service.backends()[self.backend].address;
        if self.destination.names_backend
            && let Ok(host) = HeaderValue::from_str(&address.to_string())
        {
            request.headers_mut().insert(HOST, host);
        }
        if is_lane {
            let scheme = if target.dialers.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            version::to_http2(&mut request, scheme, address);
            wish.inspect(|wish| wish.extend(&mut request));
        }
        if let Some(record) = &self.record {
            let is_lent = via.is_reused() && matches!(via, Via::Connection(_));
            record.connected(via.is_reused(), is_lent);
        }
        let began_us = clock::now_us();
        match self.within_first_byte(via.send(request)).await {
            Ok(Ok(response)) => {
                let latency_us = clock::now_us().saturating_sub(began_us);
                self.target().service.note_time(self.backend, Timer::FirstByte, latency_us);
                if let Some(record) = &self.record {
                    record.responded();
                }
                let is_error = response.status().is_server_error();
                self.target().service.responded(self.backend, latency_us, is_error);
                Ok((response, via))
            }
            Ok(Err(error)) => Err(self.lost(&mut via, mark, error)),
            Err(Stalled::Client) => Err(Failure::Final(ErrorClass::BodyTimeout)),
            Err(Stalled::Backend(class)) => {
                via.ends(match class {
                    FailureClass::FirstByteTimeout => Cause::FirstByteTimeout,
                    _ => Cause::BackendStall,
                });
                self.failed(class);
                Err(Failure::Final(of_failure(class)))
            }
        }
    }

    /// What the end of the connection means.
    fn lost(
        &self,
        via: &mut Via,
        mark: Mark,
        error: TrySendError<Request<RequestBody>>,
    ) -> Failure {
        tracing::debug!(error = %error.error(), "connection to backend lost");
        let lost = via.lost(mark, error, &self.target().pools[self.backend]);
        tracing::debug!(stage = ?lost.stage, lost.is_reused, "evidence");
        match self.upload.as_ref().map(|upload| upload.stage()) {
            Some(Stage::TooLong) => return Failure::Final(ErrorClass::BodyTooLarge),
            Some(Stage::TooSlow) => return Failure::Final(ErrorClass::BodyTimeout),
            Some(Stage::Broken) => return Failure::Final(ErrorClass::Reset),
            _ => {}
        }
        if lost.is_fault {
            self.failed(lost.class);
        }
        let class = match lost.stage {
            Reached::Refused | Reached::GoneAway => ErrorClass::StreamRefused,
            Reached::Lost(_) if lost.is_reused => ErrorClass::StaleUnproven,
            _ => match &lost.tls {
                Some(failure) => self.distrust(failure),
                None => of_failure(lost.class),
            },
        };
        Failure::Open(Failed { stage: lost.stage, is_reused: lost.is_reused, class })
    }

    /// Makes the backend's response the client's.
    pub(super) fn answered(
        mut self,
        response: Response<Incoming>,
        mut via: Via,
        is_trial: bool,
    ) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        let status = head.status;
        if let Some(count) = self.cell().responses.get(usize::from(status.as_u16() / 100 - 1)) {
            add(count, 1);
        }
        let target = self.target();
        if is_gateway_failure(status) || (target.server_errors && status.is_server_error()) {
            self.failed(FailureClass::GatewayStatus);
            self.is_judged = true;
        } else if is_trial {
            // A trial must not take as long as its body does.
            target.service.succeeded(self.backend);
        }
        self.is_answered = true;
        let past_hyper = via.body_left();
        if past_hyper != 0 {
            // hyper was told of none.
            head.headers.insert(CONTENT_LENGTH, past_hyper.into());
        }
        let has_body = past_hyper != 0 || !incoming.is_end_stream();
        if forward::is_last(head.version, &head.headers, has_body) {
            via.is_announced_to_close();
        }
        self.learn(&head.headers);
        forward::response(&mut head.headers);
        if self.upload.as_ref().is_some_and(|upload| upload.is_untouched()) {
            // The client waits to send a body that nobody will read: that ends the connection.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if !self.is_uploaded() {
            via.leave();
        }
        head.version = Version::HTTP_11;
        // Of a former hop: hyper's notes on the connection to the backend.
        head.extensions.clear();
        Response::from_parts(head, Body::Backend(ResponseBody::new(incoming, self, via)))
    }

    /// Makes the backend's response that opens a tunnel the client's, and the tunnel that follows it.
    pub(super) fn opened(
        mut self,
        response: Response<Incoming>,
        backend: Far,
        wish: Wish,
    ) -> Response<Body> {
        let (mut head, _) = response.into_parts();
        if let Some(count) = self.cell().responses.get(usize::from(head.status.as_u16() / 100 - 1))
        {
            add(count, 1);
        }
        self.target().service.succeeded(self.backend);
        self.is_answered = true;
        self.is_tunnel = true;
        if let Some(record) = &self.record {
            record.opens();
        }
        forward::response(&mut head.headers);
        head.status = wish.grant(head.status, &mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let (client, timeouts) = (self.client.clone(), self.destination.timeouts.clone());
        let tunnel = Box::new(Tunnel::new(self, backend, timeouts));
        client.open(tunnel, wish.into_stream());
        Response::from_parts(head, Body::Own(None))
    }

    /// What to make of a response that is none to this request.
    pub(super) fn misanswered(&self) -> ErrorClass {
        self.failed(FailureClass::Protocol);
        of_failure(FailureClass::Protocol)
    }

    /// What the backend says of its connections.
    fn learn(&self, headers: &HeaderMap) {
        if let Some(value) = headers.get(KEEP_ALIVE) {
            self.target().pools[self.backend].announced(value.as_bytes());
        }
    }

    /// Where the backend's connections are counted.
    pub(super) fn meter(&self) -> Rc<Meter> {
        self.target().pools[self.backend].meter()
    }

    /// How long nothing may come of a response that has begun.
    pub(super) fn stall(&self) -> Duration {
        self.destination.timeouts.stall
    }

    /// A piece of the response body came.
    pub(super) fn received(&self, bytes: usize) {
        add(&self.cell().response_body_bytes, bytes as u64);
        self.frame.tally.passed(Some(self.destination.route), 0, bytes as u64);
    }

    /// The response is whole.
    pub(super) fn finished(self, via: Via) {
        if !self.is_judged {
            self.target().service.succeeded(self.backend);
        }
        if self.is_uploaded() {
            via.give_back(&self.target().pools[self.backend]);
        }
    }

    /// The response ended before it was whole.
    pub(super) fn broke(self, class: FailureClass) {
        if let Some(record) = &self.record {
            record.ends(match self.upload.as_ref().map(|upload| upload.stage()) {
                Some(Stage::TooSlow) => Cause::BodyTimeout,
                Some(Stage::TooLong) => Cause::HttpProtocol,
                Some(Stage::Broken) => self.client.cut(),
                _ if class == FailureClass::Stall => Cause::BackendStall,
                _ => Cause::BackendBroke,
            });
        }
        if self.upload.as_ref().is_some_and(|upload| upload.stage() == Stage::TooSlow) {
            self.client.door().count_stream_end(Cause::BodyTimeout);
        }
        if !self.is_judged && !self.is_broken_by_client() {
            self.failed(class);
        }
    }

    /// Whether the whole request has been passed on.
    fn is_uploaded(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.stage() == Stage::Done)
    }

    fn is_broken_by_client(&self) -> bool {
        let stage = self.upload.as_ref().map(|upload| upload.stage());
        matches!(stage, Some(Stage::Broken | Stage::TooLong | Stage::TooSlow))
    }

    /// The response's head, if it comes in time.
    async fn within_first_byte<F: Future>(&self, response: F) -> Result<F::Output, Stalled> {
        let stall_ms = self.destination.timeouts.stall.as_millis() as u64;
        // Who is waited for changes without notice while a body is under way.
        let look = |until: u64| match &self.upload {
            Some(_) => until.min(clock::now_ms().saturating_add(stall_ms)),
            None => until,
        };
        let deadline = Deadline::at_ms(look(self.patience().0));
        let mut response = pin!(response);
        poll_fn(|cx| {
            if let Poll::Ready(output) = response.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            while deadline.poll_reached(cx).is_ready() {
                let (until, stalled) = self.patience();
                if until <= clock::now_ms() {
                    return Poll::Ready(Err(stalled));
                }
                deadline.set_at_ms(look(until));
            }
            Poll::Pending
        })
        .await
    }

    /// How long is to be waited, by [`clock::now_ms`], and who has stalled then. While a request body is
    /// under way it is what is waited for; and a backend that takes it need not answer yet.
    fn patience(&self) -> (u64, Stalled) {
        let timeouts = &self.destination.timeouts;
        let first_byte = Stalled::Backend(FailureClass::FirstByteTimeout);
        let Some(upload) = &self.upload else { return (self.frame.deadline_ms, first_byte) };
        let until = |limit: Duration| upload.progress_ms().saturating_add(limit.as_millis() as u64);
        let whole = until(timeouts.first_byte).max(self.frame.deadline_ms);
        match upload.stage() {
            Stage::Client => (whole, Stalled::Client),
            Stage::Backend if !upload.is_untouched() => {
                (until(timeouts.stall), Stalled::Backend(FailureClass::Stall))
            }
            _ => (whole, first_byte),
        }
    }
}

impl Account for Attempt {
    fn passed(&self, up: u64, down: u64) {
        add(&self.cell().request_body_bytes, up);
        add(&self.cell().response_body_bytes, down);
        self.frame.tally.passed(Some(self.destination.route), up, down);
        if let Some(record) = &self.record {
            record.passed(up, down);
        }
    }

    fn ended(&self, cause: Cause) {
        if let Some(record) = &self.record {
            record.ends(cause);
        }
    }

    fn cut(&self) -> Option<Cause> {
        self.client.door().cut(self.target(), self.backend)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let uploaded = self.upload.as_ref().map_or(0, |upload| upload.take_bytes());
        if let Some(record) = &self.record {
            record.attempted(uploaded);
        }
        if let Some(upload) = &self.upload {
            add(&self.cell().request_body_bytes, uploaded);
            self.frame.tally.passed(Some(self.destination.route), uploaded, 0);
            if self.is_answered && upload.is_unread() {
                self.client.leave_unread();
            }
        }
        if self.is_answered {
            self.client.request_ended();
            if !self.is_tunnel {
                let us = clock::now_us().saturating_sub(self.frame.came_us);
                self.target().service.note_time(self.backend, Timer::Total, us);
                self.frame.tally.took(self.destination.route, us);
            }
        }
    }
}

/// Who did not do its part in time.
enum Stalled {
    Client,
    Backend(FailureClass),
}

/// Statuses by which a backend says that what is behind it failed.
fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}
