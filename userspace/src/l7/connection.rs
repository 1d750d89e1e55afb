//! A client's connection: its version of HTTP, its requests, its time limits, its end.
//!
//! It goes back and forth between two states. Without a request it has nothing but a stream ([`Line`])
//! and a timer. Once a head is whole hyper serves it, and goes on to until nothing has been asked for
//! [`WARM`]: busy connections do not change their state, and idle ones hold no buffers. What is HTTP/2's
//! own stands in [`super::http2`].
//!
//! | limit | runs | then |
//! |---|---|---|
//! | `timeouts.idle` | without a request, or a byte of one | the connection ends |
//! | `timeouts.header_read` | from a head's first byte to its last, whatever comes between | 408 |
//! | `timeouts.stall` | while a response waits and the client takes none of it | the connection ends |
//! | `timeouts.body_grace` | while a body is waited for, and then again: [`Pace`] | 408 |
//!
//! What breaks HTTP's rules is refused by the [`Gate`]: the requests before it are answered first, then
//! the client is told, and the connection ends.
//!
//! The end: a connection on which bytes are left unread (an answer came before the end of the body) is
//! closed in two steps, because closing a socket with unread bytes resets it, and the reset can destroy
//! the answer before the client has read it (RFC 9112, 9.6).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::access::{Unheard, now_us, tls};
use super::exchange::respond;
use super::forward::Sender;
use super::gate::Gate;
use super::guard::Place;
use super::handshake::handshake;
use super::lent::{Beginning, Line};
use super::pace::{Least, Pace};
use super::pool::Owner;
use super::tunnel::Tunnel;
use super::{Door, Front, Proxy, REQUEST_BUFFER_BYTES_MAX, http2};
use crate::access::Tls;
use crate::config::model::ListenerTimeouts;
use crate::l4::copy::Side;
use crate::l4::{Caller, proxy_protocol};
use crate::net::{self, Deadline, Progress, Stream, clock, within};
use crate::tls::Session;

/// How long hyper keeps a connection without a request.
const WARM: Duration = Duration::from_secs(1);

/// How often the pace of a body is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client that is told of an error may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(5);

/// What hyper takes of header lines without an allocation.
const FIELDS_INLINE: u16 = 100;

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Client {
    door: Rc<Door>,
    ip: IpAddr,
    caller: Caller,
    owner: Owner,
    /// What its TLS agreed on.
    tls: Option<Box<Tls>>,
    sender: Sender,
    timeouts: ListenerTimeouts,
    /// Header lines that hyper may take.
    fields: u16,
    gate: Rc<Gate>,
    deadline: Deadline,
    /// What the deadline is set to when no request is open any more.
    idle: Cell<Duration>,
    /// Whether it watches over open requests too.
    is_watching: Cell<bool>,
    pace: Cell<Pace>,
    body_rate: u32,
    open_requests: Cell<u32>,
    /// Whether the response of the latest request has begun.
    is_answering: Cell<bool>,
    /// When the last request ended, or the connection began.
    ended_ms: Cell<u64>,
    progress: Progress,
    left_unread: Cell<bool>,
    /// What the handshake told; `None` without TLS.
    session: Option<Box<Session>>,
    /// Why it ends, and what an open request is answered with instead of a response; set while requests
    /// may still be open.
    cut: Cell<Option<(Cause, Option<ErrorClass>)>>,
    /// Follows the response that is being sent.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

impl Client {
    fn new(
        door: Rc<Door>,
        proxy: &Proxy,
        front: &Front,
        caller: Caller,
        stream: &Stream,
        session: Option<Box<Session>>,
        gate: Rc<Gate>,
    ) -> Self {
        // A dual-stack socket shows IPv4 clients as mapped addresses.
        let ip = caller.address.ip().to_canonical();
        let address = HeaderValue::from_str(&ip.to_string());
        let timeouts = front.timeouts;
        Self {
            door,
            ip,
            caller,
            owner: Owner::next(),
            tls: tls(stream),
            sender: Sender {
                address: address.unwrap_or(HeaderValue::from_static("unknown")),
                is_trusted: proxy.trusts(ip),
                scheme: HeaderValue::from_static(match session {
                    Some(_) => "https",
                    None => "http",
                }),
            },
            timeouts,
            fields: front.limits.fields,
            gate,
            deadline: Deadline::unset(),
            idle: Cell::new(WARM),
            is_watching: Cell::new(true),
            pace: Cell::new(Pace::new(0, 0)),
            body_rate: front.body_rate,
            open_requests: Cell::new(0),
            is_answering: Cell::new(false),
            ended_ms: Cell::new(clock::now_ms()),
            progress: stream.progress(),
            left_unread: Cell::new(false),
            session,
            cut: Cell::new(None),
            tunnel: RefCell::default(),
        }
    }

    /// Where it came in.
    pub(super) fn door(&self) -> &Rc<Door> {
        &self.door
    }

    /// The client's address.
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Whose connections to backends are that tell of this client.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// What tells a backend of this client.
    pub(super) fn header(&self, version: proxy_protocol::Version) -> Vec<u8> {
        self.caller.header(&self.progress, version)
    }

    /// Its port.
    pub(super) fn port(&self) -> u16 {
        self.caller.address.port()
    }

    /// What its TLS agreed on.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Why a request that is not finished has ended.
    pub(super) fn cut(&self) -> Cause {
        let cause = self.cut.get().map(|(cause, _)| cause).or(self.progress.end());
        match cause {
            Some(Cause::Eof | Cause::CloseNotify | Cause::EofWithoutCloseNotify) => Cause::HungUp,
            Some(cause) => cause,
            // One stream of many.
            None => Cause::Reset,
        }
    }

    /// What an open request was answered with, past hyper.
    pub(super) fn told(&self) -> Option<ErrorClass> {
        self.cut.get().and_then(|(_, told)| told)
    }

    /// Notes why the connection ends, before what is open on it is dropped.
    fn note_end(&self, end: &End) {
        if matches!(end, End::Cold | End::Tunnel(_)) {
            return;
        }
        let told = match end {
            End::Told(class) if self.has_open_requests() => Some(*class),
            _ => None,
        };
        self.cut.set(Some((self.cause(end), told)));
    }

    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What the handshake told; `None` without TLS.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    pub(super) fn request_began(&self) {
        self.gate.request_began();
        self.is_answering.set(false);
        self.open_requests.set(self.open_requests.get() + 1);
        if !self.is_watching.get() {
            self.deadline.unset_again();
        } else if self.gate.place() == Place::Body {
            self.pace.set(Pace::new(clock::now_ms(), self.progress.received()));
            self.deadline.set(self.look());
        } else {
            self.deadline.set(self.timeouts.stall);
        }
    }

    /// Notes that a response has begun.
    pub(super) fn request_answered(&self) {
        self.is_answering.set(true);
    }

    pub(super) fn request_ended(&self) {
        let left = self.open_requests.get().saturating_sub(1);
        self.open_requests.set(left);
        if left == 0 {
            self.gate.request_ended();
            self.ended_ms.set(clock::now_ms());
            self.deadline.set(self.idle.get());
        }
    }

    /// Allows another time without a request, from now on, and any time with one.
    pub(super) fn may_idle(&self, idle: Duration) {
        self.idle.set(idle);
        self.is_watching.set(false);
        if self.open_requests.get() == 0 {
            self.deadline.set(idle);
        }
    }

    /// Opens a tunnel after the response: over the whole connection, or over a stream of it.
    pub(super) fn open(&self, tunnel: Box<Tunnel>, stream: Option<OnUpgrade>) {
        let Some(stream) = stream else {
            self.tunnel.replace(Some(tunnel));
            return;
        };
        let door = self.door.clone();
        net::spawn(async move {
            if let Ok(upgraded) = stream.await {
                let side = Side::Stream(TokioIo::new(upgraded));
                if let Some(cut) = tunnel.run(side, Bytes::new()).await {
                    door.count_stream_end(cut);
                }
            }
        });
    }

    /// Notes that the client may have sent more than was read.
    pub(super) fn leave_unread(&self) {
        self.left_unread.set(true);
    }

    pub(super) fn has_open_requests(&self) -> bool {
        self.open_requests.get() != 0
    }

    /// Whether the client sends nothing more.
    pub(super) fn has_ended(&self) -> bool {
        self.progress.is_ended()
    }

    /// Bytes that the client was sent.
    pub(super) fn sent(&self) -> u64 {
        self.progress.written()
    }

    /// Ready when the client was without a request for too long.
    pub(super) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        self.deadline.poll_reached(cx)
    }

    /// Whether the client has been without a request for a while, and is to make room for another one.
    pub(super) fn is_to_make_room(&self) -> bool {
        self.open_requests.get() == 0
            && self.ended_ms.get() + WARM.as_millis() as u64 <= clock::now_ms()
            && self.door.wants_room()
    }

    /// Ready when hyper has nothing to do for the client, or the client takes nothing.
    /// `was_waiting` is whether hyper waited for the client before it was polled just now: this very
    /// moment may be one in which a piece has come.
    fn poll_warm(&self, cx: &Context<'_>, line: &Line, was_waiting: bool) -> Poll<End> {
        while self.deadline.poll_reached(cx).is_ready() {
            let is_open = self.open_requests.get() != 0;
            if line.is_flushed() && !is_open {
                let is_between = matches!(self.gate.place(), Place::Between | Place::Head);
                return Poll::Ready(if is_between { End::Cold } else { End::Closed });
            }
            let now = clock::now_ms();
            let until = self.progress.sent_ms() + self.timeouts.stall.as_millis() as u64;
            if !line.is_flushed() && until <= now {
                return Poll::Ready(End::Ended(Cause::ResponseStall));
            }
            let next = match (is_open, self.gate.place()) {
                (true, Place::Body) if self.is_too_slow(now, was_waiting || line.is_waiting()) => {
                    return Poll::Ready(match self.is_answering.get() {
                        true => End::Ended(Cause::BodyTimeout),
                        false => End::Told(ErrorClass::BodyTimeout),
                    });
                }
                (true, Place::Body) => self.look(),
                (true, _) => self.timeouts.stall,
                (false, _) => WARM,
            };
            let next = now + next.as_millis() as u64;
            self.deadline.set_at_ms(if line.is_flushed() { next } else { next.min(until) });
        }
        Poll::Pending
    }

    /// How long until a body's pace is looked at.
    fn look(&self) -> Duration {
        self.timeouts.body_grace.min(LOOK)
    }

    /// How slow a body may come.
    pub(super) fn least(&self) -> Least {
        Least { rate: self.body_rate, window_ms: self.timeouts.body_grace.as_millis() as u64 }
    }

    /// Whether the body that the client is waited for comes too slowly.
    fn is_too_slow(&self, now_ms: u64, is_waited_for: bool) -> bool {
        let (mut pace, received) = (self.pace.get(), self.progress.received());
        let is_too_slow = pace.is_too_slow(now_ms, received, is_waited_for, self.least());
        self.pace.set(pace);
        is_too_slow
    }

    /// Why the connection ends.
    fn cause(&self, end: &End) -> Cause {
        match end {
            End::Ended(cause) => *cause,
            End::Told(ErrorClass::HeaderTimeout) => Cause::HeaderTimeout,
            End::Told(ErrorClass::BodyTimeout) => Cause::BodyTimeout,
            End::Told(_) => Cause::HttpProtocol,
            _ => self.progress.end().unwrap_or(match self.door.is_draining() {
                true => Cause::Drained,
                false => Cause::Done,
            }),
        }
    }

    /// What becomes of a connection on which nothing more is read, if it is time.
    fn refused(&self, line: &Line) -> Option<End> {
        let refusal = self.gate.refusal()?;
        let is_turn = line.is_flushed() && !self.gate.has_more();
        match self.open_requests.get() {
            // Its own response has gone out: another one is not due.
            0 if refusal.is_in_body => {
                self.leave_unread();
                Some(End::Ended(Cause::HttpProtocol))
            }
            0 if is_turn => Some(End::Told(refusal.class)),
            // The response depends on a body that never ends.
            1 if refusal.is_in_body && self.is_answering.get() => {
                Some(End::Ended(Cause::HttpProtocol))
            }
            1 if refusal.is_in_body && is_turn => Some(End::Told(refusal.class)),
            _ => None,
        }
    }
}

/// How a connection ended.
enum End {
    /// By HTTP's rules, or by the client.
    Closed,
    /// By a mistake of the client, which is to be told.
    Told(ErrorClass),
    /// By a cause that the client can't be told any more.
    Ended(Cause),
    /// By a response that opened a tunnel.
    Tunnel(Box<Tunnel>),
    /// Not at all: hyper is not needed until the next request comes.
    Cold,
}

/// Serves a client until one side ends the connection.
pub async fn serve(door: Rc<Door>, stream: Stream, mut caller: Caller) {
    let (mut proxy, mut front_index) = door.inside();
    let front = &proxy.fronts[front_index];
    let address = caller.address.ip().to_canonical();
    let Ok(_member) = front.crowd.admit(address) else {
        proxy.note_offence(front_index, address);
        door.count_end(Cause::TooMany);
        let class = ErrorClass::TooManyConnections;
        if front.tls.is_none() {
            proxy.log_refusal(front_index, caller.address, None, (class, Cause::TooMany));
            return tell(&door, stream, class).await;
        }
        // It could not read an answer.
        let (began_us, error) = (now_us(), Some(class.name()));
        let unheard = Unheard { began_us, protocol: Some("tls"), error, sni: None };
        return proxy.log_unheard(front_index, caller.address, &unheard, Cause::TooMany);
    };
    let (stream, session) = match front.tls {
        None => (stream, None),
        Some(_) => {
            // Whoever takes long to begin holds no former configuration.
            drop(proxy);
            // Boxed: large beside what an idle connection needs.
            let shaken = Box::pin(handshake(&door, stream, caller.address)).await;
            let Some((stream, session)) = shaken else { return };
            (proxy, front_index) = door.inside();
            (stream, Some(session))
        }
    };
    if let Some(connection) = stream.server_session().filter(|_| proxy.tells_of_tls()) {
        let identity = session.as_ref().and_then(|session| session.identity.as_ref());
        let subject = identity.and_then(|identity| identity.subject.to_str().ok());
        caller.note_tls(connection, subject);
    }
    let front = &proxy.fronts[front_index];
    let gate = Rc::new(Gate::new(front.limits));
    let client = Client::new(door.clone(), &proxy, front, caller, &stream, session, gate.clone());
    let client = Rc::new(client);
    // A connection may outlive many configurations.
    drop(proxy);
    let line = Line::new(stream, gate);
    let end = loop {
        // Boxed: large beside what an idle connection needs.
        let end = match wait(&client, &line).await {
            Ok(Beginning::Http1) => Box::pin(serve_http1(&client, &line)).await,
            Ok(Beginning::Http2) => {
                let cut = Box::pin(http2::serve(&client, &line)).await;
                // A stream that is not read to its end is none of the connection's.
                client.left_unread.set(false);
                let end = cut.map_or(End::Closed, End::Ended);
                // The streams' tasks are yet to learn of it.
                client.note_end(&end);
                end
            }
            Ok(Beginning::Refused(class)) => End::Told(class),
            Ok(Beginning::End) => End::Closed,
            Err(end) => end,
        };
        if !matches!(end, End::Cold) {
            break end;
        }
    };
    // hyper has given its half back.
    let Ok(line) = Rc::try_unwrap(line) else { return };
    let (mut stream, early) = line.into_parts();
    let end = match end {
        End::Tunnel(tunnel) => {
            let cut = Box::pin(tunnel.run(Side::Connection(stream), early)).await;
            let cause = cut.or(client.progress.end()).unwrap_or(Cause::Abandoned);
            return door.count_end(cause);
        }
        end => end,
    };
    let cause = client.cause(&end);
    door.count_end(cause);
    if cause.is_flood() {
        let (proxy, front) = door.inside();
        proxy.note_offence(front, address);
    }
    if let End::Told(class) = end {
        if !client.has_open_requests() {
            let (proxy, front) = door.inside();
            proxy.log_refusal(front, client.caller.address, client.tls(), (class, cause));
        }
        return tell(&door, stream, class).await;
    }
    if client.left_unread.get() {
        let _ = within(LINGER, linger(&mut stream)).await;
    }
    // Dropping it sends what is deferred and closes.
}

/// Ends a connection with an error of the client's.
async fn tell(door: &Door, stream: Stream, class: ErrorClass) {
    door.count_refusal(class);
    let reply = door.front().replies.bytes(class);
    part(stream, &reply).await;
}

/// Ends a connection with some last bytes, which the client gets to read although it may still send.
pub(crate) async fn part(mut stream: Stream, last: &[u8]) {
    if let Ok(Ok(())) = within(LINGER, stream.write_all(last)).await {
        let _ = within(LINGER, linger(&mut stream)).await;
    }
}

/// Waits for something that hyper is needed for.
async fn wait(client: &Client, line: &Line) -> Result<Beginning, End> {
    let from = |since_ms: u64, limit: Duration| since_ms + limit.as_millis() as u64;
    let mut has_head = false;
    let mut is_told = false;
    client.deadline.set_at_ms(from(client.ended_ms.get(), client.timeouts.idle));
    poll_fn(|cx| {
        match line.poll_beginning(cx) {
            Poll::Ready(Ok(beginning)) => return Poll::Ready(Ok(beginning)),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "client connection broke");
                return Poll::Ready(Err(End::Closed));
            }
            Poll::Pending => {}
        }
        if !has_head && line.has_begun() {
            has_head = true;
            client.deadline.set(client.timeouts.header_read);
        }
        if client.door.is_draining() && !is_told && !has_head {
            is_told = true;
            // A request may be on its way: its response says that it is the last.
            client.deadline.set(WARM);
        }
        if !has_head && client.is_to_make_room() {
            return Poll::Ready(Err(End::Ended(Cause::MadeRoom)));
        }
        client.deadline.poll_reached(cx).map(|()| {
            Err(match has_head {
                true => End::Told(ErrorClass::HeaderTimeout),
                false if is_told => End::Ended(Cause::Drained),
                false => End::Ended(Cause::Idle),
            })
        })
    })
    .await
}

async fn serve_http1(client: &Rc<Client>, line: &Rc<Line>) -> End {
    let service = service_fn(|request| respond(client.clone(), request));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(REQUEST_BUFFER_BYTES_MAX);
    if client.fields > FIELDS_INLINE {
        builder.max_headers(client.fields.into());
    }
    // Told to end before it has seen a request, hyper would not answer the one that is there.
    let mut is_told = client.door.is_draining();
    builder.keep_alive(!is_told);
    let mut connection = builder.serve_connection(TokioIo::new(line.lend()), service);
    client.deadline.set(WARM);
    let end = poll_fn(|cx| {
        if client.door.is_over() && client.open_requests.get() != 0 {
            return Poll::Ready(End::Ended(Cause::Drained));
        }
        let was_waiting = line.is_waiting();
        let mut pinned = Pin::new(&mut connection);
        // Without a request hyper would close at once, and with it the one that has begun to come.
        if client.door.is_draining() && !is_told && client.open_requests.get() != 0 {
            is_told = true;
            pinned.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(outcome) = pinned.poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "client connection broke");
                // A tunnel that was to follow does not.
                client.tunnel.take();
                if error.is_parse() {
                    // What the guard let pass; hyper has told the client.
                    client.door.count_refusal(ErrorClass::MalformedHead);
                    client.leave_unread();
                    return Poll::Ready(End::Ended(Cause::HttpProtocol));
                }
                if client.progress.is_ended() {
                    return Poll::Ready(End::Ended(Cause::HungUp));
                }
            }
            if client.gate.refusal().is_some() {
                client.leave_unread();
            }
            return Poll::Ready(End::Closed);
        }
        match client.refused(line) {
            Some(end) => Poll::Ready(end),
            None => client.poll_warm(cx, line, was_waiting),
        }
    })
    .await;
    let end = match client.tunnel.take() {
        Some(tunnel) if matches!(end, End::Closed) => End::Tunnel(tunnel),
        _ => end,
    };
    client.note_end(&end);
    if matches!(end, End::Cold | End::Tunnel(_)) {
        line.give_back(&connection.into_parts().read_buf);
    }
    end
}

/// Ends our half and reads away what the client still sends.
pub(super) async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = vec![0; 16 * 1024];
    while stream.read(&mut sink).await? != 0 {}
    Ok(())
}
