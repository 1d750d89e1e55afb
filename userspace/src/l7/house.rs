//! What outlives a configuration: the doors where clients come in, and what becomes of them.
//!
//! A worker has one [`House`]. The configuration in force is one [`Proxy`], which nothing changes; a new
//! one is made beside it and put in its place by one store. What both have in common they share: rules
//! of listeners and services that are the same, connections to backends that stay, requests that wait.
//!
//! A connection knows its [`Door`] and asks it at each request which rules hold: so the next request of
//! every connection is under the new configuration, and the one under way stays under its own, which
//! lives for as long as anybody is at it. What is settled when a connection begins stays for its life:
//! `timeouts`, `limits` and `http2` of its listener, and whether its peer is trusted.
//!
//! A door whose listener is gone drains, as all of them do when the worker ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use http::StatusCode;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::handshake::Handshake;

use super::{Front, Proxy, Target};
use crate::access::Log;
use crate::net;
use crate::region::{Region, WorkerLine, add};
use crate::service::Placed;
use crate::tls::Shelf;
use crate::tls::upstream::Keyring;

/// All that a worker's clients meet.
#[derive(Debug)]
pub struct House {
    proxy: RefCell<Rc<Proxy>>,
    /// By the listener's name.
    doors: RefCell<HashMap<String, Rc<Door>>>,
    latest: Rc<Latest>,
    log: Rc<Log>,
}

/// The configuration in force, for those that keep another one.
#[derive(Debug, Default)]
pub(super) struct Latest {
    proxy: RefCell<Weak<Proxy>>,
    /// By the listener's name.
    doors: RefCell<HashMap<String, Weak<Door>>>,
    is_over: Cell<bool>,
    /// How many connections that wait for their next request are to end, and until when.
    wanted: Cell<(u32, u64)>,
}

impl Latest {
    pub(super) fn proxy(&self) -> Option<Rc<Proxy>> {
        self.proxy.borrow().upgrade()
    }

    /// Whether the time to drain is over: what is left is cut off.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

/// A listener, as its connections know it.
#[derive(Debug)]
pub struct Door {
    /// The rules that hold for the next request, and which of them are this listener's.
    inside: RefCell<(Rc<Proxy>, usize)>,
    is_draining: Cell<bool>,
}

impl Door {
    /// The rules that hold now, and the index of the listener in them.
    #[inline]
    pub(crate) fn inside(&self) -> (Rc<Proxy>, usize) {
        self.inside.borrow().clone()
    }

    /// The listener's rules that hold now.
    pub(crate) fn front(&self) -> Rc<Front> {
        let (proxy, front) = &*self.inside.borrow();
        proxy.front(*front).clone()
    }

    /// The door of another listener.
    pub(crate) fn other(&self, name: &str) -> Option<Rc<Self>> {
        self.inside.borrow().0.latest.doors.borrow().get(name)?.upgrade()
    }

    /// Whether connections end with the request that they are at.
    #[inline]
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Whether they end now.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.is_draining() && self.inside.borrow().0.latest.is_over()
    }

    /// Whether a connection that waits for its next request is to end, so that another one can be
    /// accepted. Each yes is for one connection.
    pub(super) fn wants_room(&self) -> bool {
        let inside = self.inside.borrow();
        let (count, until_ms) = inside.0.latest.wanted.get();
        let is_wanted = count > 0 && net::clock::now_ms() <= until_ms;
        if is_wanted {
            inside.0.latest.wanted.set((count - 1, until_ms));
        }
        is_wanted
    }

    /// Notes how a handshake ended, and with it the connection if that came to nothing.
    pub(super) fn count_handshake(&self, end: Handshake) {
        let (proxy, front) = &*self.inside.borrow();
        proxy.count_handshake(*front, end);
        if let Some(cause) = end.cause() {
            self.count_end(cause);
        }
    }

    /// Notes that a client's connection ended.
    pub(crate) fn count_end(&self, cause: Cause) {
        let (proxy, front) = &*self.inside.borrow();
        proxy.count_end(*front, cause);
    }

    /// Notes that a stream or a tunnel of a client's connection, which goes on, was cut off.
    pub(super) fn count_stream_end(&self, cause: Cause) {
        let (proxy, front) = &*self.inside.borrow();
        proxy.count_stream_end(*front, cause);
    }

    /// Why what is under way at a backend must end now, if it must: the time to drain is over, or an
    /// operator has taken the backend out together with what it has begun.
    pub(crate) fn cut(&self, target: &Target, backend: usize) -> Option<Cause> {
        if self.is_over() {
            return Some(Cause::Drained);
        }
        target.service.is_put_out(backend).then_some(Cause::BackendOut)
    }

    /// Notes that a client was told, or shown, an error.
    pub(crate) fn count_error(&self, class: ErrorClass) {
        let (proxy, front) = &*self.inside.borrow();
        proxy.count_error(proxy.front(*front), class);
    }

    /// Notes that a client got a response before, or instead of, what a request of its would get.
    pub(super) fn count_refusal(&self, class: ErrorClass) {
        self.count_error(class);
        if let Ok(status) = StatusCode::from_u16(class.status()) {
            self.front().tally.responded(None, status);
        }
    }
}

impl House {
    /// The house of a worker, by its line and the number of workers.
    #[must_use]
    pub fn new(
        placed: Placed,
        certificates: Shelf,
        keyring: &Keyring,
        worker: (usize, usize),
        region: Rc<Region>,
        log: Log,
    ) -> Self {
        let (latest, log) = (Rc::new(Latest::default()), Rc::new(log));
        let first = Proxy::nothing(&placed.model, worker, region, latest.clone(), log.clone());
        let proxy = Rc::new(first.succeed(placed, certificates, keyring));
        let inside = RefCell::new(proxy.clone());
        let house = Self { proxy: inside, doors: RefCell::default(), latest, log };
        house.open(&proxy);
        house
    }

    /// Puts another configuration in force. Doors of listeners that it has not begin to drain.
    pub fn take(&self, placed: Placed, certificates: Shelf, keyring: &Keyring) {
        let former = self.proxy();
        let proxy = Rc::new(former.succeed(placed, certificates, keyring));
        self.proxy.replace(proxy.clone());
        let has_closed = self.open(&proxy);
        former.retire(&proxy);
        if has_closed {
            net::wake_all();
        }
    }

    /// Makes the doors those of this configuration; gives whether others begin to drain.
    fn open(&self, proxy: &Rc<Proxy>) -> bool {
        self.latest.proxy.replace(Rc::downgrade(proxy));
        let mut doors = self.doors.borrow_mut();
        let mut former = std::mem::take(&mut *doors);
        for (front, listener) in proxy.model().listeners.iter().enumerate() {
            let inside = (proxy.clone(), front);
            let door = match former.remove(&listener.name) {
                Some(door) => {
                    door.inside.replace(inside);
                    door
                }
                None => {
                    Rc::new(Door { inside: RefCell::new(inside), is_draining: Cell::new(false) })
                }
            };
            doors.insert(listener.name.clone(), door);
        }
        let known = doors.iter().map(|(name, door)| (name.clone(), Rc::downgrade(door)));
        self.latest.doors.replace(known.collect());
        for door in former.values() {
            door.is_draining.set(true);
        }
        !former.is_empty()
    }

    /// The door of a listener of the configuration in force.
    #[must_use]
    pub fn door(&self, listener: usize) -> Option<Rc<Door>> {
        let proxy = self.proxy();
        let listener = proxy.model().listeners.get(listener)?;
        self.doors.borrow().get(&listener.name).cloned()
    }

    /// Lets every connection end with the request that it is at, idle ones at once.
    pub fn drain(&self) {
        for door in self.doors.borrow().values() {
            door.is_draining.set(true);
        }
        net::wake_all();
    }

    /// Ends so many connections that wait for their next request, of those that have waited a while:
    /// others wait to be accepted, and there may be no more.
    pub fn make_room(&self, count: u32) {
        if count == 0 {
            return;
        }
        let until_ms = net::clock::now_ms() + net::TICK.as_millis() as u64;
        self.latest.wanted.set((count, until_ms));
        net::wake_all();
    }

    /// Cuts off what has not ended; to be called after [`House::drain`].
    pub fn cut_off(&self) {
        self.latest.is_over.set(true);
        net::wake_all();
    }

    /// Work that time brings, to be called every [`net::TICK`].
    pub fn tick(&self) {
        self.proxy().tick();
        self.log.flush();
        self.count_lines();
    }

    /// Sees to it that the last lines reach the supervisor; to be called when nothing is served any more.
    pub fn finish(&self) {
        self.log.finish();
        self.count_lines();
    }

    fn count_lines(&self) {
        let counts = self.log.take_counts();
        self.with_line(|line| {
            add(&line.log_lines, counts.sent);
            add(&line.log_dropped, counts.dropped);
        });
    }

    /// The configuration in force.
    #[must_use]
    pub fn proxy(&self) -> Rc<Proxy> {
        self.proxy.borrow().clone()
    }

    /// Shows this worker's line in the region to `look`.
    pub fn with_line<T>(&self, look: impl FnOnce(&WorkerLine) -> T) -> T {
        look(self.proxy.borrow().line())
    }
}
