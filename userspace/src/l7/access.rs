//! A request's line in the access log.
//!
//! A [`Record`] is made when a request comes, if the log is on and the request is in the sample, and is held
//! by all that work for it: the exchange, its attempt, its tunnel, its response's body ([`Recorded`]).
//! Each notes what it knows. The last one to let go writes the line: so there is one for every request,
//! whatever becomes of it, and it says how the request ended: the first cause that was noted, or, if it was
//! dropped unfinished, why its connection ended ([`Client::cut`]), or else that the client reset it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::{Body as _, Frame, SizeHint};
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::replay;

use super::body::{Body, Broken};
use super::connection::Client;
use super::{Front, Proxy, Target};
use crate::access::{Facts, Log, Tls};
use crate::config::model::{AccessLog, Destination, Format};
use crate::net::Stream;
use crate::service::Random;
use crate::sys;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The status of a request whose client did not wait for one; nginx's.
const CLIENT_LEFT: u16 = 499;

/// What a configuration says of lines.
#[derive(Debug)]
pub(super) struct Rule {
    log: Rc<Log>,
    format: Format,
    /// Of 2³² requests, so many have a line.
    sample: u64,
}

impl Rule {
    /// `None` if there are no lines.
    pub(super) fn new(model: &AccessLog, log: &Rc<Log>) -> Option<Rc<Self>> {
        (model.path != Destination::Off).then(|| {
            let sample = (model.sample * f64::from(u32::MAX)).ceil() as u64 + 1;
            Rc::new(Self { log: log.clone(), format: model.format.clone(), sample })
        })
    }

    fn takes(&self, random: &Random) -> bool {
        self.sample > u64::from(u32::MAX) || random.next() >> 32 < self.sample
    }
}

/// What is known of one request.
#[derive(Debug)]
pub(super) struct Record {
    rule: Rc<Rule>,
    front: Rc<Front>,
    client: Rc<Client>,
    began_us: u64,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    course: RefCell<Course>,
}

/// What became of it.
#[derive(Debug, Default)]
struct Course {
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    status: Option<u16>,
    error: Option<ErrorClass>,
    cause: Option<Cause>,
    is_tunnel: bool,
    is_left: bool,
    /// Who was asked last, by the index in the service.
    backend: Option<(Rc<Target>, usize)>,
    attempts: u32,
    rule: Option<replay::Rule>,
    is_reused: Option<bool>,
    /// Since when it stands in line.
    stood_us: Option<u64>,
    queue_us: Option<u64>,
    /// Since when it waits for a connection.
    connecting_us: Option<u64>,
    connect_us: Option<u64>,
    /// When the backend was asked.
    asked_us: Option<u64>,
    first_byte_us: Option<u64>,
    request_bytes: u64,
    response_bytes: u64,
}

/// A connection that ended before what it is for was known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unheard<'a> {
    /// When it began, by [`now_us`].
    pub(crate) began_us: u64,
    /// What was to be spoken.
    pub(crate) protocol: Option<&'static str>,
    /// What was wrong with it.
    pub(crate) error: Option<&'static str>,
    /// The name that was asked for by TLS.
    pub(crate) sni: Option<&'a str>,
}

/// What became of a connection that was passed on as it is.
#[derive(Clone, Debug)]
pub(crate) struct Passed<'a> {
    /// When it began, by [`now_us`].
    pub(crate) began_us: u64,
    /// Where it went, or was to go: the index in the service.
    pub(crate) backend: Option<(&'a Target, usize)>,
    /// The name that decided, of TLS.
    pub(crate) sni: Option<&'a str>,
    pub(crate) attempts: u32,
    /// How long it took to reach the backend.
    pub(crate) connect_us: Option<u64>,
    pub(crate) up_bytes: u64,
    pub(crate) down_bytes: u64,
    /// Why it went nowhere.
    pub(crate) error: Option<ErrorClass>,
}

impl Passed<'_> {
    /// Nothing has become of it yet.
    pub(crate) fn nothing(began_us: u64) -> Self {
        Self {
            began_us,
            backend: None,
            sni: None,
            attempts: 0,
            connect_us: None,
            up_bytes: 0,
            down_bytes: 0,
            error: None,
        }
    }
}

/// The time itself, not that of the loop's turn.
pub(crate) fn now_us() -> u64 {
    sys::monotonic().as_micros() as u64
}

impl Proxy {
    /// The record of a request; `None` if it has no line.
    #[inline]
    pub(super) fn record<B>(
        &self,
        front: &Rc<Front>,
        client: &Rc<Client>,
        request: &Request<B>,
    ) -> Option<Rc<Record>> {
        let rule = self.access.as_ref()?;
        (front.is_logged && rule.takes(&self.random))
            .then(|| Rc::new(Record::new(rule, front, client, request)))
    }

    /// Writes the line of a connection that was refused before, or instead of, a request.
    pub(super) fn log_refusal(
        &self,
        front: usize,
        client: SocketAddr,
        tls: Option<&Tls>,
        (class, cause): (ErrorClass, Cause),
    ) {
        let status = Some(class.status());
        let facts = Facts { status, error: Some(class.name()), tls, ..Facts::default() };
        self.log_connection(front, client, now_us(), cause, facts);
    }

    /// Writes the line of a connection that never said, or was not let say, what it wants.
    pub(crate) fn log_unheard(
        &self,
        front: usize,
        client: SocketAddr,
        unheard: &Unheard<'_>,
        cause: Cause,
    ) {
        let facts = Facts {
            protocol: unheard.protocol,
            error: unheard.error,
            sni: unheard.sni,
            total_us: now_us().saturating_sub(unheard.began_us),
            ..Facts::default()
        };
        self.log_connection(front, client, unheard.began_us, cause, facts);
    }

    /// Writes the line of a connection that was passed on as it is, or was to be.
    pub(crate) fn log_passed(
        &self,
        front: usize,
        client: SocketAddr,
        passed: &Passed<'_>,
        cause: Cause,
    ) {
        let (target, backend) = passed.backend.unzip();
        let facts = Facts {
            protocol: Some("tcp"),
            request_bytes: passed.up_bytes,
            response_bytes: passed.down_bytes,
            connect_us: passed.connect_us,
            total_us: now_us().saturating_sub(passed.began_us),
            service: target.map(|target| target.service.name()),
            backend: target.zip(backend).map(|(target, at)| target.names[at].as_str()),
            attempts: passed.attempts,
            sni: passed.sni,
            error: passed.error.map(ErrorClass::name),
            ..Facts::default()
        };
        self.log_connection(front, client, passed.began_us, cause, facts);
    }

    fn log_connection(
        &self,
        front: usize,
        client: SocketAddr,
        at_us: u64,
        cause: Cause,
        facts: Facts<'_>,
    ) {
        let front = &self.fronts[front];
        let Some(rule) = self.access.as_ref().filter(|_| front.is_logged) else { return };
        if !rule.takes(&self.random) {
            return;
        }
        let facts = Facts {
            time: rule.log.since_epoch(at_us),
            listener: &front.name,
            client: &client.ip().to_canonical().to_string(),
            client_port: client.port(),
            cause: cause.name(),
            ..facts
        };
        rule.log.write(&facts, &rule.format);
    }
}

impl Record {
    fn new<B>(
        rule: &Rc<Rule>,
        front: &Rc<Front>,
        client: &Rc<Client>,
        request: &Request<B>,
    ) -> Self {
        let headers = request.headers();
        Self {
            rule: rule.clone(),
            front: front.clone(),
            client: client.clone(),
            began_us: now_us(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: headers.get(HOST).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
            referer: headers.get(REFERER).cloned(),
            course: RefCell::default(),
        }
    }

    /// These headers go to the backend.
    pub(super) fn prepared(&self, headers: &HeaderMap) {
        let mut course = self.course.borrow_mut();
        course.request_id = headers.get(X_REQUEST_ID).cloned();
        course.traceparent = headers.get(TRACEPARENT).cloned();
    }

    /// It takes a place in the line for a backend.
    pub(super) fn stands(&self) {
        self.course.borrow_mut().stood_us.get_or_insert_with(now_us);
    }

    /// A backend is asked.
    pub(super) fn attempt(&self, target: &Rc<Target>, backend: usize) {
        let mut course = self.course.borrow_mut();
        // Between a request's coming and its first attempt there is no time to speak of.
        let is_at_once = course.attempts == 0 && course.stood_us.is_none();
        let now_us = if is_at_once { self.began_us } else { now_us() };
        if let Some(stood_us) = course.stood_us.take() {
            *course.queue_us.get_or_insert(0) += now_us.saturating_sub(stood_us);
        }
        course.backend = Some((target.clone(), backend));
        course.attempts += 1;
        course.is_reused = None;
        course.connect_us = None;
        course.connecting_us = Some(now_us);
    }

    /// There is a connection, and the request goes out on it. One that `is_lent` was there at once.
    pub(super) fn connected(&self, is_reused: bool, is_lent: bool) {
        let mut course = self.course.borrow_mut();
        let since = course.connecting_us.take().unwrap_or(self.began_us);
        let now_us = if is_lent { since } else { now_us() };
        course.connect_us = (!is_reused).then(|| now_us.saturating_sub(since));
        course.is_reused = Some(is_reused);
        course.asked_us = Some(now_us);
    }

    /// The response has begun.
    pub(super) fn responded(&self) {
        let mut course = self.course.borrow_mut();
        course.first_byte_us = course.asked_us.map(|asked| now_us().saturating_sub(asked));
    }

    /// It is asked again, by this rule.
    pub(super) fn replayed(&self, rule: replay::Rule) {
        self.course.borrow_mut().rule = Some(rule);
    }

    /// An attempt has ended. So much came of the request's body while it lasted.
    pub(super) fn attempted(&self, request_bytes: u64) {
        let mut course = self.course.borrow_mut();
        course.request_bytes += request_bytes;
        if let Some(since) = course.connecting_us.take() {
            course.connect_us = Some(now_us().saturating_sub(since));
        }
    }

    /// A tunnel opens with the response.
    pub(super) fn opens(&self) {
        self.course.borrow_mut().is_tunnel = true;
    }

    /// Bytes passed through the tunnel.
    pub(super) fn passed(&self, up: u64, down: u64) {
        let mut course = self.course.borrow_mut();
        course.request_bytes += up;
        course.response_bytes += down;
    }

    /// Steerage answers itself.
    pub(super) fn failed(&self, class: ErrorClass) {
        self.course.borrow_mut().error = Some(class);
    }

    /// The client has broken off: no answer reaches it.
    pub(super) fn is_left(&self) {
        self.ends(self.client.cut());
        self.course.borrow_mut().is_left = true;
    }

    /// It ends by this; the first such stays.
    pub(super) fn ends(&self, cause: Cause) {
        self.course.borrow_mut().cause.get_or_insert(cause);
    }

    /// Watches over the response on its way out.
    pub(super) fn over(record: Option<Rc<Self>>, response: Response<Body>) -> Response<Recorded> {
        let mut record = record;
        if let Some(made) = &record {
            let mut course = made.course.borrow_mut();
            if !course.is_left {
                course.status = Some(response.status().as_u16());
            }
            let is_tunnel = course.is_tunnel;
            drop(course);
            if is_tunnel {
                record = None;
            }
        }
        response.map(|body| Recorded { body, record })
    }

    /// What the client asked for, as it wrote it.
    fn target(&self) -> Cow<'_, str> {
        let is_origin = self.uri.authority().is_none() || self.version == Version::HTTP_2;
        match (self.uri.path_and_query(), self.uri.authority()) {
            (Some(target), _) if is_origin && self.method != Method::CONNECT => {
                Cow::Borrowed(target.as_str())
            }
            (_, Some(authority)) if self.method == Method::CONNECT => {
                Cow::Borrowed(authority.as_str())
            }
            _ => Cow::Owned(self.uri.to_string()),
        }
    }

    fn host(&self) -> Option<&[u8]> {
        let named = self.host.as_ref().map(HeaderValue::as_bytes);
        named.or_else(|| self.uri.authority().map(|authority| authority.as_str().as_bytes()))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let course = self.course.borrow();
        let told = self.client.told().filter(|_| course.status.is_none());
        let status = course.status.or(told.map(ErrorClass::status)).unwrap_or(CLIENT_LEFT);
        let facts = Facts {
            time: self.rule.log.since_epoch(self.began_us),
            listener: &self.front.name,
            client: self.client.sender().address.to_str().unwrap_or_default(),
            client_port: self.client.port(),
            method: Some(self.method.as_str()),
            host: self.host(),
            target: Some(self.target()),
            protocol: Some(protocol(self.version)),
            status: Some(status),
            request_bytes: course.request_bytes,
            response_bytes: course.response_bytes,
            queue_us: course.queue_us.or(course.stood_us.map(|stood| now_us() - stood)),
            connect_us: course.connect_us,
            first_byte_us: course.first_byte_us,
            total_us: now_us().saturating_sub(self.began_us),
            service: course.backend.as_ref().map(|(target, _)| target.service.name()),
            backend: course.backend.as_ref().map(|(target, at)| target.names[*at].as_str()),
            attempts: course.attempts,
            replay: course.rule.map(replay::Rule::name),
            reused: course.is_reused,
            error: course.error.or(told).filter(|_| !course.is_left).map(ErrorClass::name),
            cause: course.cause.unwrap_or_else(|| self.client.cut()).name(),
            tls: self.client.tls(),
            sni: None,
            request_id: course.request_id.as_ref().map(HeaderValue::as_bytes),
            trace_id: course.traceparent.as_ref().and_then(trace_id),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
        };
        self.rule.log.write(&facts, &self.rule.format);
    }
}

/// Version, trace, parent, flags (W3C Trace Context, 3.2.2).
fn trace_id(traceparent: &HeaderValue) -> Option<&[u8]> {
    let is_hex = |id: &&[u8]| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit);
    traceparent.as_bytes().split(|byte| *byte == b'-').nth(1).filter(is_hex)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// What TLS agreed on with a client; `None` of a plain connection.
pub(super) fn tls(stream: &Stream) -> Option<Box<Tls>> {
    let session: &CommonState = stream.session()?;
    let sni = stream.server_session().and_then(|session| session.server_name());
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    Some(Box::new(Tls {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLS",
        },
        cipher: cipher.unwrap_or("unknown"),
        sni: sni.map(ToOwned::to_owned),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }))
}

/// A response's body, with the request's record.
#[derive(Debug)]
pub struct Recorded {
    body: Body,
    #[allow(private_interfaces, reason = "made here only")]
    record: Option<Rc<Record>>,
}

impl Recorded {
    /// The client is told no more of it, by this cause.
    pub(super) fn ends(&self, cause: Cause) {
        if let Some(record) = &self.record {
            record.ends(cause);
        }
    }

    /// It has gone out whole.
    fn is_done(&mut self) {
        if let Some(record) = self.record.take() {
            record.ends(Cause::Done);
        }
    }
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = Broken;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Some(record), Poll::Ready(ready)) = (&this.record, &polled) {
            match ready {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    record.passed(0, bytes);
                    if frame.is_trailers() || this.body.is_end_stream() {
                        this.is_done();
                    }
                }
                Some(Err(_)) => {}
                None => this.is_done(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // Of one that is empty nothing is asked for, nor of the answer to HEAD.
        let is_whole = self
            .record
            .as_ref()
            .is_some_and(|record| self.body.is_end_stream() || record.method == Method::HEAD);
        if is_whole {
            self.is_done();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_by_its_id() {
        let id = |text| trace_id(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let whole = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id(whole), Some(trace.as_bytes().to_vec()));
        for none in ["", "00", "00-x-y-01", "00-4bf92f3577b34da6a3ce929d0e0e473-0-1"] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[test]
    fn a_share_of_requests_is_sampled() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let log = Rc::new(Log::new(ours));
        let random = Random::new(1);
        let taken = |sample| {
            let path = Destination::Output;
            let rule = Rule::new(&AccessLog { path, sample, ..AccessLog::default() }, &log);
            let rule = rule.unwrap();
            (0..10_000).filter(|_| rule.takes(&random)).count()
        };
        assert_eq!(taken(1.0), 10_000);
        assert!((900..1100).contains(&taken(0.1)));
        assert!(Rule::new(&AccessLog::default(), &log).is_none());
    }
}
