//! One request and its response.
//!
//! Attempts: a connection that can't be made is tried at another backend, up to the service's
//! `retry.attempts` times; a request that hyper gives back unsent (the pooled connection was closed in
//! that moment) goes to the same backend over a fresh connection, or counts as a failed connection if
//! it was fresh already. What has been sent is not sent again.
//!
//! Whose fault: failures of a fresh connection, timeouts of the backend and broken responses are told
//! to the breaker. A pooled connection that died, a client that stalled or left, and this host's own
//! shortages are not.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use steerage_common::abi::FailureClass;
use steerage_common::error::ErrorClass;
use steerage_common::replay::Rule;

use super::body::{Body, RequestBody, ResponseBody, Stage, Upload};
use super::connection::Client;
use super::pool::Connection;
use super::reply::{self, of_failure};
use super::route::Destination;
use super::{Proxy, Target, forward};
use crate::config::model::RouteTimeouts;
use crate::net::{self, Deadline, clock};
use crate::region::{self, add};

/// Answers a request, by a backend or by itself.
///
/// # Errors
/// None; the client's leaving ends the exchange by dropping it.
pub(super) async fn respond(
    proxy: Rc<Proxy>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    client.request_began();
    let answer = match prepare(&proxy, &client, request) {
        Ok((destination, request)) => forward(&proxy, &client, destination, request).await,
        Err(class) => Err(class),
    };
    Ok(answer.unwrap_or_else(|class| {
        proxy.count_error(class);
        client.request_ended();
        reply::response(class)
    }))
}

/// Decides where a request goes and makes it the one that the backend gets.
fn prepare(
    proxy: &Proxy,
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> Result<(Destination, Request<RequestBody>), ErrorClass> {
    if request.method() == Method::CONNECT {
        return Err(ErrorClass::ConnectRefused);
    }
    let (mut head, body) = request.into_parts();
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => {}
        (None, _) if head.version == Version::HTTP_10 => {}
        _ => return Err(ErrorClass::BadHost),
    }
    if let Some(authority) = head.uri.authority() {
        // The absolute form: its authority is the host, whatever the header says (RFC 9112, 3.2.2).
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorClass::BadHost)?;
        head.headers.insert(HOST, host);
        let path = head.uri.path_and_query().cloned();
        head.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    let path = head.uri.path();
    if !path.starts_with('/') && path != "*" {
        return Err(ErrorClass::BadTarget);
    }
    let host = head.headers.get(HOST).map_or(Ok(""), HeaderValue::to_str);
    let host = host.map_err(|_| ErrorClass::BadHost)?;
    let routes = &proxy.fronts[client.front()].routes;
    let destination = routes.find(host, path).ok_or(ErrorClass::NoRoute)?;

    forward::request(&mut head.headers, client.sender());
    // HTTP/1.0 may have none, HTTP/1.1 must (RFC 9112, 3.2): an empty one says "no authority".
    head.headers.entry(HOST).or_insert(HeaderValue::from_static(""));
    head.version = Version::HTTP_11;
    Ok((destination, Request::from_parts(head, RequestBody::new(body, client))))
}

async fn forward(
    proxy: &Rc<Proxy>,
    client: &Rc<Client>,
    destination: Destination,
    mut request: Request<RequestBody>,
) -> Result<Response<Body>, ErrorClass> {
    let target = &proxy.targets[destination.service];
    let upload = request.body().upload();
    let mut tried = Vec::new();
    let mut last = ErrorClass::NoBackend;
    // No loop without a bound: the first attempt and the retries.
    for _ in 0..=target.retry_attempts {
        let Some(pick) = target.service.pick(&tried) else { return Err(last) };
        let upload = upload.clone();
        let attempt = Attempt::new(proxy, client, destination.service, pick.backend, upload);
        if !tried.is_empty() {
            let last = target.service.backends()[tried[tried.len() - 1]].tenant.slot();
            let cell = proxy.region.cell(proxy.worker, last);
            add(&cell.replays[Rule::Connect as usize], 1);
        }
        match attempt.send(destination.timeouts, request).await {
            Ok((response, connection)) => {
                return Ok(attempt.answered(response, connection, pick.is_trial));
            }
            Err(Failure::Unsent(again, reason)) => {
                request = *again;
                last = reason;
                tried.push(pick.backend);
            }
            Err(Failure::Final(reason)) => return Err(reason),
        }
    }
    Err(last)
}

/// How an attempt failed.
enum Failure {
    /// Nothing of the request has been sent.
    Unsent(Box<Request<RequestBody>>, ErrorClass),
    /// There is no second try.
    Final(ErrorClass),
}

/// One request at one backend: in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Attempt {
    proxy: Rc<Proxy>,
    client: Rc<Client>,
    service: usize,
    backend: usize,
    /// The body that must have passed whole before the connection can be used again.
    upload: Option<Rc<Upload>>,
    /// Whether the breaker has heard of the outcome.
    is_judged: bool,
    /// Whether the response has begun: the request ends with this attempt.
    is_answered: bool,
}

impl Attempt {
    fn new(
        proxy: &Rc<Proxy>,
        client: &Rc<Client>,
        service: usize,
        backend: usize,
        upload: Option<Rc<Upload>>,
    ) -> Self {
        let attempt = Self {
            proxy: proxy.clone(),
            client: client.clone(),
            service,
            backend,
            upload,
            is_judged: false,
            is_answered: false,
        };
        let active = &attempt.cell().active;
        active.store(active.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        add(&proxy.line().active_requests, 1);
        attempt
    }

    fn target(&self) -> &Target {
        &self.proxy.targets[self.service]
    }

    fn cell(&self) -> &region::Cell {
        let slot = self.target().service.backends()[self.backend].tenant.slot();
        self.proxy.region.cell(self.proxy.worker, slot)
    }

    fn failed(&self, class: FailureClass) {
        add(&self.cell().failures[class as usize], 1);
        self.target().service.failed(self.backend, class);
    }

    /// Sends the request and waits for the response's head.
    async fn send(
        &self,
        timeouts: RouteTimeouts,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        loop {
            let lent = self.target().pools[self.backend].lend();
            let mut connection = match lent {
                Some(connection) => connection,
                // Boxed: rare, and large beside the rest of the request's state.
                None => match Box::pin(self.connect(timeouts.connect)).await {
                    Ok(connection) => connection,
                    Err(reason) => return Err(Failure::Unsent(Box::new(request), reason)),
                },
            };
            let began_us = clock::now_us();
            let sent = connection.sender.try_send_request(request);
            let answer = within_first_byte(timeouts.first_byte, self.upload.as_deref(), sent).await;
            let mut error = match answer {
                Ok(Ok(response)) => {
                    add(&self.cell().first_byte_us, clock::now_us().saturating_sub(began_us));
                    return Ok((response, connection));
                }
                Ok(Err(error)) => error,
                Err(Stalled::Client) => return Err(Failure::Final(ErrorClass::BodyTimeout)),
                Err(Stalled::Backend) => {
                    self.failed(FailureClass::FirstByteTimeout);
                    return Err(Failure::Final(of_failure(FailureClass::FirstByteTimeout)));
                }
            };
            let class = class_of(error.error());
            match error.take_message() {
                // The backend closed it in this moment. The pool has one less: this ends.
                Some(again) if connection.is_reused() => request = again,
                Some(again) => {
                    self.failed(class);
                    return Err(Failure::Unsent(Box::new(again), of_failure(class)));
                }
                None => {
                    if !connection.is_reused() && !self.is_broken_by_client() {
                        self.failed(class);
                    }
                    return Err(Failure::Final(of_failure(class)));
                }
            }
        }
    }

    /// A fresh connection to the backend.
    async fn connect(&self, timeout: Duration) -> Result<Connection, ErrorClass> {
        let target = self.target();
        let address = target.service.backends()[self.backend].address;
        let stream = match net::within(timeout, net::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if net::is_local_shortage(&error) => {
                tracing::warn!(backend = %address, %error, "no connection can be opened");
                return Err(ErrorClass::Exhausted);
            }
            Ok(Err(error)) => {
                tracing::debug!(backend = %address, %error, "connecting failed");
                self.failed(FailureClass::Connect);
                return Err(of_failure(FailureClass::Connect));
            }
            Err(net::Elapsed) => {
                self.failed(FailureClass::ConnectTimeout);
                return Err(of_failure(FailureClass::ConnectTimeout));
            }
        };
        let opened = target.pools[self.backend].open(stream).await;
        opened.map_err(|_| of_failure(FailureClass::Connect))
    }

    /// Makes the backend's response the client's.
    fn answered(
        mut self,
        response: Response<Incoming>,
        connection: Connection,
        is_trial: bool,
    ) -> Response<Body> {
        let (mut head, incoming) = response.into_parts();
        let status = head.status;
        if let Some(count) = self.cell().responses.get(usize::from(status.as_u16() / 100 - 1)) {
            add(count, 1);
        }
        if is_gateway_failure(status) {
            self.failed(FailureClass::GatewayStatus);
            self.is_judged = true;
        } else if is_trial {
            // A trial must not take as long as its body does.
            self.target().service.succeeded(self.backend);
        }
        self.is_answered = true;
        forward::response(&mut head.headers);
        head.version = Version::HTTP_11;
        // Of a former hop: hyper's notes on the connection to the backend.
        head.extensions.clear();
        Response::from_parts(head, Body::Backend(ResponseBody::new(incoming, self, connection)))
    }

    /// A piece of the response body came.
    pub(super) fn received(&self, bytes: usize) {
        add(&self.cell().response_body_bytes, bytes as u64);
    }

    /// The response is whole.
    pub(super) fn finished(self, connection: Connection) {
        if !self.is_judged {
            self.target().service.succeeded(self.backend);
        }
        if self.upload.as_ref().is_none_or(|upload| upload.stage() == Stage::Done) {
            self.target().pools[self.backend].take_back(connection);
        }
    }

    /// The response ended before it was whole.
    pub(super) fn broke(self, class: FailureClass) {
        if !self.is_judged && !self.is_broken_by_client() {
            self.failed(class);
        }
    }

    fn is_broken_by_client(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.stage() == Stage::Broken)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            add(&self.cell().request_body_bytes, upload.take_bytes());
        }
        if self.is_answered {
            self.client.request_ended();
        }
        let active = &self.cell().active;
        active.store(active.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        let all = &self.proxy.line().active_requests;
        all.store(all.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}

/// Who did not do its part in time.
enum Stalled {
    Client,
    Backend,
}

/// The response's head, if it comes in time. The time runs while nothing moves: a request body under
/// way stops it.
async fn within_first_byte<F: Future>(
    timeout: Duration,
    upload: Option<&Upload>,
    response: F,
) -> Result<F::Output, Stalled> {
    let deadline = Deadline::after(timeout);
    let mut response = pin!(response);
    poll_fn(|cx| {
        if let Poll::Ready(output) = response.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        while deadline.poll_reached(cx).is_ready() {
            let Some(upload) = upload else { return Poll::Ready(Err(Stalled::Backend)) };
            let until = upload.progress_ms().saturating_add(timeout.as_millis() as u64);
            if until > clock::now_ms() {
                deadline.set_at_ms(until);
            } else if upload.stage() == Stage::Client {
                return Poll::Ready(Err(Stalled::Client));
            } else {
                return Poll::Ready(Err(Stalled::Backend));
            }
        }
        Poll::Pending
    })
    .await
}

/// Statuses by which a backend says that what is behind it failed.
fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// What hyper's error on a connection to a backend means.
fn class_of(error: &hyper::Error) -> FailureClass {
    if error.is_parse() { FailureClass::Protocol } else { FailureClass::Reset }
}
