//! The connection that carries an attempt: one that is kept, a place on one that many share, or a fresh one,
//! with TLS if the backend speaks it.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use rustls::HandshakeKind;
use steerage_common::abi::{FailureClass, Handshake};
use steerage_common::error::ErrorClass;
use steerage_common::latency::Timer;
use steerage_common::replay::Stage as Reached;
use tokio::io::AsyncWriteExt as _;

use super::{Attempt, Failed, Failure};
use crate::config::model::UpstreamProtocol;
use crate::l7::complaint::Kind;
use crate::l7::multiplex::{Crash, Multiplex, Turn};
use crate::l7::pool::Owner;
use crate::l7::reply::{of_failure, of_handshake};
use crate::l7::via::Via;
use crate::net::{self, Deadline, Elapsed, Stream, clock};
use crate::region::add;
use crate::tls::upstream::{self, Agreed};

/// Between two tries to open a connection for which this host has no descriptor or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may have been idle for a body that can't be sent twice. Backends close what has
/// been idle for some time; what was used just now is closed by accident only. Under load the connection
/// used last is younger than this, so uploads seldom need a fresh one.
const LONG_BODY_IDLE_MAX: Duration = Duration::from_millis(20);
/// A stream to a backend, or what can be had in its place.
enum Opened<T> {
    Stream(Stream),
    Instead(T),
}

impl Attempt {
    /// What carries the request. Which version of HTTP that is may be up to the backend, and another
    /// one than last time.
    pub(super) async fn via(&self, wants_tunnel: bool, is_fresh: bool) -> Result<Via, Failure> {
        let target = self.target();
        let multiplex = target.multiplexes.as_ref().map(|multiplexes| &*multiplexes[self.backend]);
        let is_up_to_it = target.protocol == UpstreamProtocol::Auto;
        // Ends: each look follows a connection that was made and tells the other version.
        loop {
            let found = match multiplex {
                Some(multiplex) if !(is_up_to_it && (wants_tunnel || multiplex.is_declined())) => {
                    // A lane is of a connection that works, as far as that is known.
                    self.lane(multiplex).await?
                }
                _ => self.connection(multiplex, wants_tunnel, is_fresh).await?,
            };
            if let Some(via) = found {
                return Ok(via);
            }
        }
    }

    /// A connection for the request alone; `None` if the backend now takes many on each.
    async fn connection(
        &self,
        multiplex: Option<&Multiplex>,
        wants_tunnel: bool,
        is_fresh: bool,
    ) -> Result<Option<Via>, Failure> {
        let pool = &self.target().pools[self.backend];
        let is_long = self.upload.as_ref().is_some_and(|upload| upload.is_long());
        let owner = self.owner();
        let lend = || match (is_fresh, is_long) {
            (true, _) => None,
            (false, true) => pool.lend_used_within(owner, LONG_BODY_IDLE_MAX),
            (false, false) => pool.lend(owner),
        };
        if let Some(connection) = lend() {
            return Ok(Some(Via::Connection(connection)));
        }
        // Boxed: rare, and large beside the rest of the request's state.
        let stream = match Box::pin(self.connect(wants_tunnel, lend)).await? {
            Opened::Instead(connection) => return Ok(Some(Via::Connection(connection))),
            Opened::Stream(stream) => stream,
        };
        if let Some(multiplex) = multiplex
            && Agreed::of(&stream) == Some(Agreed::Http2)
        {
            self.note(multiplex, Agreed::Http2);
            self.multiplexed(multiplex, stream).await?;
            return Ok(None);
        }
        self.single(stream).await.map(Some)
    }

    /// A place on a connection that many requests share; `None` if the backend wants one for each.
    async fn lane(&self, multiplex: &Multiplex) -> Result<Option<Via>, Failure> {
        let mut line: Option<Deadline> = None;
        // Ends: each look follows a connection that was made, and has room for some, or a time in line.
        loop {
            match multiplex.turn(line.is_some()).await {
                Turn::Wait => {
                    let queue_timeout = self.target().queue_timeout;
                    let deadline = line.get_or_insert_with(|| Deadline::after(queue_timeout));
                    let called = deadline.cut(multiplex.line()).await;
                    called.map_err(|Elapsed| Failure::Final(ErrorClass::QueueTimeout))?;
                }
                Turn::Go(lane) => return Ok(Some(Via::Lane(lane))),
                Turn::Look if multiplex.is_declined() => return Ok(None),
                Turn::Look => {}
                Turn::Crashed(Crash::Ours) => return Err(Failure::Final(ErrorClass::Exhausted)),
                Turn::Crashed(Crash::Backend(class)) => return Err(unconnected(class)),
                Turn::Fly(pilot) => match self.fly(multiplex).await {
                    Ok(None) => {}
                    Ok(Some(stream)) => {
                        // The others see to their own.
                        drop(pilot);
                        return self.single(stream).await.map(Some);
                    }
                    Err(failure) => {
                        pilot.crash(match &failure {
                            Failure::Final(_) => Crash::Ours,
                            Failure::Open(failed) => Crash::Backend(failed.class),
                        });
                        return Err(failure);
                    }
                },
            }
        }
    }

    /// Makes a connection for many requests; gives its stream if the backend wants one for each.
    async fn fly(&self, multiplex: &Multiplex) -> Result<Option<Stream>, Failure> {
        let stream = match Box::pin(self.connect(false, || None::<Infallible>)).await? {
            Opened::Stream(stream) => stream,
            Opened::Instead(never) => match never {},
        };
        match Agreed::of(&stream) {
            Some(Agreed::Http1) => {
                self.note(multiplex, Agreed::Http1);
                return Ok(Some(stream));
            }
            Some(Agreed::Http2) => self.note(multiplex, Agreed::Http2),
            None => {}
        }
        self.multiplexed(multiplex, stream).await.map(|()| None)
    }

    fn note(&self, multiplex: &Multiplex, agreed: Agreed) {
        multiplex.note(agreed);
        self.target().service.note_multiplexed(self.backend, multiplex.is_spoken());
    }

    /// Makes a connection of many requests of a stream.
    async fn multiplexed(&self, multiplex: &Multiplex, stream: Stream) -> Result<(), Failure> {
        let opened = net::within(self.destination.timeouts.connect, multiplex.open(stream)).await;
        let opened = opened.unwrap_or(Err(FailureClass::ConnectTimeout));
        opened.map_err(|class| self.unconnected(class))
    }

    /// Whose connections may carry the request.
    fn owner(&self) -> Owner {
        self.target().proxy_protocol.map_or(Owner::NOBODY, |_| self.client.owner())
    }

    /// Makes a connection of one request at a time of a stream.
    async fn single(&self, stream: Stream) -> Result<Via, Failure> {
        let owner = self.owner();
        let opened = self.target().pools[self.backend].open(stream, owner).await;
        opened.map(Via::Connection).map_err(|_| self.unconnected(FailureClass::Connect))
    }

    fn unconnected(&self, class: FailureClass) -> Failure {
        self.failed(class);
        unconnected(of_failure(class))
    }

    /// A fresh stream to the backend, with TLS if that is spoken. What this host lacks for it is waited for,
    /// or until there is something instead.
    async fn connect<T>(
        &self,
        wants_tunnel: bool,
        instead: impl Fn() -> Option<T>,
    ) -> Result<Opened<T>, Failure> {
        let address = self.target().service.backends()[self.backend].address;
        let dialer = self.target().dialers.as_ref().map(|dialers| &dialers[self.backend]);
        let limit = Deadline::after(self.destination.timeouts.connect);
        let is_short = Cell::new(false);
        let began_us = clock::now_us();
        let connect = async {
            loop {
                match net::connect(address).await {
                    Err(error) if net::is_passing_shortage(&error) => {
                        if !is_short.replace(true) {
                            tracing::warn!(backend = %address, %error, "no connection can be opened yet");
                        }
                        net::sleep(SHORTAGE_PAUSE).await;
                        if let Some(other) = instead() {
                            return Ok(Opened::Instead(other));
                        }
                    }
                    outcome => return outcome.map(Opened::Stream),
                }
            }
        };
        let mut stream = match limit.cut(connect).await {
            Ok(Ok(Opened::Stream(stream))) => stream,
            Ok(Ok(instead)) => return Ok(instead),
            Ok(Err(error)) if net::is_local_shortage(&error) => {
                tracing::warn!(backend = %address, %error, "no connection can be opened");
                return Err(Failure::Final(ErrorClass::Exhausted));
            }
            Ok(Err(error)) => {
                tracing::debug!(backend = %address, %error, "connecting failed");
                return Err(self.unconnected(FailureClass::Connect));
            }
            Err(Elapsed) if is_short.get() => return Err(Failure::Final(ErrorClass::Exhausted)),
            Err(Elapsed) => return Err(self.unconnected(FailureClass::ConnectTimeout)),
        };
        if let Some(version) = self.target().proxy_protocol {
            // Deferred: it leaves with what follows. An error comes again.
            let _ = stream.write_all(&self.client.header(version)).await;
        }
        let Some(dialer) = dialer else {
            self.note_time(Timer::Connect, began_us);
            return Ok(Opened::Stream(stream));
        };
        let shaken = limit.cut(dialer.handshake(stream, wants_tunnel)).await;
        let kind = match &shaken {
            Ok(Ok(stream)) => {
                let resumed = Some(HandshakeKind::Resumed);
                let kind = stream.session().and_then(|session| session.handshake_kind());
                if kind == resumed { Handshake::Resumed } else { Handshake::Full }
            }
            _ => Handshake::Failed,
        };
        add(&self.cell().handshakes[kind as usize], 1);
        match shaken {
            Ok(Ok(stream)) => {
                self.note_time(Timer::Connect, began_us);
                Ok(Opened::Stream(stream))
            }
            Ok(Err(failure)) => {
                self.failed(FailureClass::Tls);
                Err(unconnected(self.distrust(&failure)))
            }
            Err(Elapsed) => Err(self.unconnected(FailureClass::ConnectTimeout)),
        }
    }

    /// Tells the operator what TLS has against the backend; gives what the client is told.
    #[cold]
    pub(super) fn distrust(&self, failure: &upstream::Failure) -> ErrorClass {
        let class = of_handshake(failure);
        let service = self.target().service.name().to_owned();
        let backend = Some(self.target().service.backends()[self.backend].address);
        let kind = Kind { service, backend, class, fault: Some(failure.to_string()) };
        let (proxy, front) = self.client.door().inside();
        let client = self.client.sender().address.to_str().unwrap_or_default();
        proxy.complaints.note(kind, &proxy.front(front).name, client, clock::now_ms());
        class
    }
}

/// There was no connection.
fn unconnected(class: ErrorClass) -> Failure {
    Failure::Open(Failed { stage: Reached::Unconnected, is_reused: false, class })
}
