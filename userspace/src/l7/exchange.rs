//! One request and its response.
//!
//! A request is answered by what [`respond`] returns, and by nothing else: it takes the request and
//! gives one response, whose body ends where its framing says. There is no writer that two could hold,
//! so a second response, or bytes after the end of one, cannot be expressed.
//!
//! It may take several attempts ([`super::attempt`]). Whether a failed one is followed by another is
//! decided by [`steerage_common::replay::decide`] and nowhere else.
//!
//! A request keeps the configuration that it began under, with one exception: an attempt that begins after
//! another configuration has come picks among that one's backends ([`Exchange::follow`]), because
//! those of the former may be gone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderValue, SET_COOKIE};
use http::request;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use steerage_common::error::ErrorClass;
use steerage_common::latency::Timer;
use steerage_common::replay::{self, Evidence, Rule};

use super::access::{Record, Recorded};
use super::attempt::{Attempt, Failed, Failure, Frame};
use super::body::Body;
use super::budget::Share;
use super::complaint::Kind;
use super::connection::Client;
use super::headers::Echo;
use super::prepare::{Own, Prepared, prepare};
use super::queue::Place;
use super::route::Destination;
use super::upgrade::{self, Answer, Wish};
use super::upload::{Stage, Upload};
use super::{Front, Proxy, Target};
use crate::net::{self, clock};
use crate::region::add;
use crate::service::{Criteria, Pick, Random};

/// The longest wait before a retry at another backend.
const RETRY_JITTER: Duration = Duration::from_millis(25);

/// Answers a request, by a backend or by itself.
///
/// # Errors
/// None; the client's leaving ends the exchange by dropping it.
pub(super) async fn respond(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Recorded>, Infallible> {
    client.request_began();
    let (proxy, front) = client.door().inside();
    let front = &proxy.fronts[front];
    let record = proxy.record(front, &client, &request);
    let has_body = !request.body().is_end_stream();
    let version = request.version();
    let mut echo = Echo::default();
    let mut taken = None;
    let answer = match prepare(&proxy, front, &client, request) {
        Ok((prepared, marks)) => {
            let route = prepared.destination.route;
            taken = Some(route);
            echo = marks;
            if let Some(record) = &record {
                record.prepared(prepared.request.headers());
            }
            let answer = forward(&proxy, &client, prepared, (front, record.as_ref())).await;
            answer.map(|mut response| {
                front.routes.plan(route).response.apply(response.headers_mut());
                response
            })
        }
        Err(own) => {
            if has_body {
                client.leave_unread();
            }
            match own {
                Own::Error(class) => Err(class),
                Own::Routed(mut response, route) => {
                    client.request_ended();
                    front.routes.plan(route).response.apply(response.headers_mut());
                    front.tally.responded(Some(route), response.status());
                    return Ok(Record::over(record, *response));
                }
            }
        }
    };
    let mut response = answer.unwrap_or_else(|class| {
        proxy.count_error(front, class);
        if let Some(record) = &record {
            record.failed(class);
        }
        let mut response = front.replies.response(class);
        let ends =
            response.status() == StatusCode::BAD_REQUEST || class == ErrorClass::ConnectRefused;
        if ends && version != Version::HTTP_2 {
            // Where one request was wrong, the next may begin elsewhere than it seems to; and what
            // follows CONNECT may be no request at all.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            client.leave_unread();
        }
        client.request_ended();
        response
    });
    echo.apply(response.headers_mut());
    front.tally.responded(taken, response.status());
    client.request_answered();
    Ok(Record::over(record, response))
}

/// A request that may be sent several times.
struct Exchange<'a> {
    proxy: &'a Rc<Proxy>,
    client: &'a Rc<Client>,
    target: Rc<Target>,
    destination: Destination,
    head: request::Parts,
    upload: Option<Rc<Upload>>,
    /// The tunnel that the client asks for.
    wish: Option<Wish>,
    /// Whether executing it twice does no harm.
    is_idempotent: bool,
    frame: Frame,
    /// Since when it stands in line.
    stood_us: Option<u64>,
    attempts: u32,
    stale_replays: u32,
    /// Backends that failed.
    tried: Vec<usize>,
    /// For consistent hashing.
    hash: u64,
    /// The backend that the client's cookie names.
    sticky: Option<usize>,
    next: Next,
    /// Its place among those that wait for a backend.
    place: Option<Place>,
    /// A replay that was decided on, and counts once there is a backend for it.
    owed: Option<(usize, Rule)>,
    /// What the access log is told.
    record: Option<Rc<Record>>,
    /// The backend that was asked last.
    asked: Option<SocketAddr>,
}

/// How an attempt began.
enum Start {
    Begun(Attempt, Pick),
    /// Every backend that could be picked has as many requests as it may.
    Full,
    /// No backend can be picked.
    Nobody,
}

/// Where the next attempt goes.
enum Next {
    /// To whichever backend the service picks.
    Any,
    /// To the same backend, over a fresh connection.
    Again(usize),
    /// To another backend, or to the same if there is no other.
    Rather(usize),
}

async fn forward(
    proxy: &Rc<Proxy>,
    client: &Rc<Client>,
    prepared: Prepared,
    (front, record): (&Front, Option<&Rc<Record>>),
) -> Result<Response<Body>, ErrorClass> {
    let Prepared { destination, request, wish } = prepared;
    let (head, upload) = request.into_parts();
    let target = proxy.targets[destination.service].clone();
    let hash = target.affinity.hash(&head, client.ip());
    let sticky = target.affinity.sticky(&head, &target.service);
    let first_byte_ms = destination.timeouts.first_byte.as_millis() as u64;
    let came_us = clock::now_us();
    let mut exchange = Exchange {
        proxy,
        client,
        is_idempotent: is_idempotent(&head, destination.idempotency_key),
        destination,
        head,
        upload,
        wish,
        frame: Frame {
            came_us,
            deadline_ms: (came_us / 1000).saturating_add(first_byte_ms),
            tally: front.tally.clone(),
        },
        stood_us: None,
        attempts: 0,
        stale_replays: 0,
        tried: Vec::new(),
        hash,
        sticky,
        target,
        next: Next::Any,
        place: None,
        owed: None,
        record: record.cloned(),
        asked: None,
    };
    let answer = exchange.run().await;
    if let Err(class) = &answer {
        exchange.failed(front, *class);
    }
    answer
}

impl Exchange<'_> {
    /// Attempts, until one gives a response or the decision is that no other follows.
    async fn run(&mut self) -> Result<Response<Body>, ErrorClass> {
        let first = self.target.clone();
        let mut share = first.budget.enter();
        let mut last = ErrorClass::NoBackend;
        // Bounded: the decision allows `retry.attempts` and one replay of a stale connection, and the
        // line has its timeout.
        loop {
            let (attempt, pick) = self.begin(last).await?;
            let target = &self.target;
            if let Some((backend, rule)) = self.owed.take() {
                add(&target.service.cell(backend).replays[rule as usize], 1);
                if let Some(record) = &self.record {
                    record.replayed(rule);
                }
            }
            let is_fresh = matches!(self.next, Next::Again(_));
            self.attempts += 1;
            self.asked = Some(target.service.backends()[pick.backend].address);
            let failed = match attempt.send(&self.head, self.wish.as_ref(), is_fresh).await {
                Ok((mut response, via)) => {
                    let wish = self.wish.take();
                    let mut response = match (upgrade::answer(wish.as_ref(), &response), wish) {
                        (Answer::Plain, _) => attempt.answered(response, via, pick.is_trial),
                        (Answer::Open, Some(wish)) => match via.into_far(&mut response) {
                            Some(backend) => attempt.opened(response, backend, wish),
                            None => return Err(attempt.misanswered()),
                        },
                        _ => return Err(attempt.misanswered()),
                    };
                    self.tie(pick.backend, response.headers_mut());
                    return Ok(response);
                }
                Err(Failure::Final(class)) => return Err(class),
                Err(Failure::Open(failed)) => failed,
            };
            let evidence = self.evidence(&failed, &share);
            let cell = attempt.cell();
            let rule = match replay::decide(&evidence, &target.replay) {
                Ok(rule) => rule,
                Err(refusal) => {
                    add(&cell.refusals[refusal as usize], 1);
                    return Err(failed.class_after(refusal));
                }
            };
            self.owed = Some((pick.backend, rule));
            last = failed.class;
            self.stale_replays += u32::from(rule == Rule::StaleProven);
            if rule.takes_budget() {
                share.retry();
            }
            self.next = if rule.wants_another_backend() {
                self.tried.push(pick.backend);
                // A backend that is going away may be back behind the same address.
                match rule {
                    Rule::StreamRefused | Rule::GoneAway => Next::Rather(pick.backend),
                    _ => Next::Any,
                }
            } else {
                Next::Again(pick.backend)
            };
            if rule.is_delayed() {
                net::sleep(jitter(&self.proxy.random)).await;
            }
        }
    }

    /// Begins an attempt, when it is this request's turn and a backend has room. Gives `last` if there
    /// is no backend.
    async fn begin(&mut self, last: ErrorClass) -> Result<(Attempt, Pick), ErrorClass> {
        if !self.target.queue.is_empty() {
            self.stand();
        }
        loop {
            if let Some(place) = &self.place {
                place.called().await.map_err(|net::Elapsed| ErrorClass::QueueTimeout)?;
            }
            if self.target.is_retired.get() && !self.follow() {
                return Err(last);
            }
            match self.start() {
                Start::Begun(attempt, pick) => {
                    self.place = None;
                    if let Some(stood_us) = self.stood_us.take() {
                        let us = clock::now_us().saturating_sub(stood_us);
                        self.target.service.note_time(pick.backend, Timer::Queue, us);
                    }
                    return Ok((attempt, pick));
                }
                Start::Nobody => return Err(last),
                Start::Full => self.stand(),
            }
        }
    }

    /// There is no response: whoever has to know of it is told.
    #[cold]
    fn failed(&self, front: &Front, class: ErrorClass) {
        let stage = self.upload.as_ref().map(|upload| upload.stage());
        if self.upload.as_ref().is_some_and(|upload| upload.is_unread()) {
            self.client.leave_unread();
        }
        if stage == Some(Stage::Broken) {
            // Nobody waits for it, and no backend is to blame.
            if let Some(record) = &self.record {
                record.is_left();
            }
        } else if matches!(class.status(), 502..=504) {
            let service = self.target.service.name().to_owned();
            let kind = Kind { service, backend: self.asked, class, fault: None };
            let client = self.client.sender().address.to_str().unwrap_or_default();
            self.proxy.complaints.note(kind, &front.name, client, clock::now_ms());
        }
    }

    /// Takes a place among those that wait.
    #[cold]
    fn stand(&mut self) {
        self.stood_us.get_or_insert_with(clock::now_us);
        if let Some(record) = &self.record {
            record.stands();
        }
        let target = &self.target;
        self.place.get_or_insert_with(|| target.queue.stand(target.queue_timeout));
    }

    /// Goes on with the service as it is in the configuration in force. False if it is not.
    #[cold]
    fn follow(&mut self) -> bool {
        let former = self.target.clone();
        let Some(target) = self.proxy.in_force(former.service.name()) else { return false };
        let moved =
            |backend: usize| target.service.index_of(former.service.backends()[backend].tenant);
        self.tried = self.tried.iter().filter_map(|backend| moved(*backend)).collect();
        self.owed =
            self.owed.and_then(|(backend, rule)| moved(backend).map(|backend| (backend, rule)));
        self.next = match self.next {
            Next::Any => Next::Any,
            Next::Again(backend) => moved(backend).map_or(Next::Any, Next::Again),
            Next::Rather(backend) => moved(backend).map_or(Next::Any, Next::Rather),
        };
        self.sticky = target.affinity.sticky(&self.head, &target.service);
        self.target = target;
        true
    }

    fn start(&self) -> Start {
        let target = &self.target;
        let criteria = Criteria { tried: &self.tried, hash: self.hash, sticky: self.sticky };
        let pick = match self.next {
            Next::Again(backend) if target.service.accepts_new(backend) => {
                Some(Pick { backend, is_trial: false })
            }
            _ => target.service.pick(&criteria),
        };
        let pick = match (pick, &self.next) {
            (Some(pick), _) => pick,
            (None, _) if target.service.has_only_full(&criteria) => return Start::Full,
            (None, Next::Rather(backend)) if target.service.accepts_new(*backend) => {
                Pick { backend: *backend, is_trial: false }
            }
            (None, _) => return Start::Nobody,
        };
        let attempt = Attempt::begin(
            target.clone(),
            self.client.clone(),
            self.destination.clone(),
            pick.backend,
            self.upload.clone(),
            self.frame.clone(),
            self.record.clone(),
        );
        attempt.map_or(Start::Full, |attempt| Start::Begun(attempt, pick))
    }

    /// Ties the client to its backend by a cookie.
    fn tie(&self, backend: usize, headers: &mut HeaderMap) {
        let target = &self.target;
        let is_secure = self.client.sender().scheme == "https";
        let cookie = target.affinity.set_cookie(&target.service, backend, self.sticky, is_secure);
        if let Some(cookie) = cookie {
            headers.append(SET_COOKIE, cookie);
        }
    }

    fn evidence(&self, failed: &Failed, share: &Share<'_>) -> Evidence {
        let upload = self.upload.as_ref();
        Evidence {
            stage: failed.stage,
            is_reused: failed.is_reused,
            is_idempotent: self.is_idempotent,
            holds_body: upload.is_none_or(|upload| upload.is_held()),
            is_client_there: upload.is_none_or(|upload| upload.stage() != Stage::Broken),
            is_late: self.frame.deadline_ms <= clock::now_ms(),
            attempts: self.attempts,
            stale_replays: self.stale_replays,
            is_in_budget: share.may_retry(),
        }
    }
}

/// Methods that may be executed twice (RFC 9110, 9.2.2), and requests that say so themselves.
fn is_idempotent(head: &request::Parts, key_counts: bool) -> bool {
    // The standard's own list: of methods that it does not know nothing is known.
    head.method.is_idempotent() || (key_counts && head.headers.contains_key("idempotency-key"))
}

/// A moment to wait, so that many retries do not come at once.
fn jitter(random: &Random) -> Duration {
    Duration::from_micros(random.below(RETRY_JITTER.as_micros() as usize) as u64)
}
