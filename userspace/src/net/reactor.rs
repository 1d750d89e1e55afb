//! The io_uring engine: this thread's ring, who waits for what, and the loop's one system call.
//!
//! tokio's executor runs the tasks, without its drivers. When no task is runnable it calls [`park`],
//! which hands the turn's sends and all gathered operations to the kernel, waits in the same call
//! until something has happened, and wakes whom it concerns, and the root task besides, so that tokio
//! does not wait itself. So wake-ups from other threads would be seen only when something else
//! happens, at the next [`super::TICK`] at the latest: a worker has no other threads.
//!
//! Each socket is a [`Source`]. A connection that waits for bytes has one operation under way: a
//! receive into a buffer of the ring (a request's head comes without a further system call), or, while
//! it carries more than such a buffer at a time, a wait for readability after which the reader's own
//! buffer is filled by plain reads. A reader that does not read has none, and so holds its peer back.

mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::task::Waker;
use std::time::Duration;

pub(super) use sockets::{Acceptor, Connection, Watch};

use super::{Slab, clock, turn};
use crate::sys::ring::{Buffer, Completion, Operation, Outcome, Outgoing, Ring};

/// Connections that may be accepted before somebody takes them; the rest waits in the kernel's queue.
const ACCEPTED_MAX: usize = 16;

thread_local! {
    static REACTOR: RefCell<Option<Reactor>> = const { RefCell::new(None) };
    static IS_RUNNABLE: Cell<bool> = const { Cell::new(false) };
    static ROOT: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// What this thread waits for.
struct Reactor {
    ring: Ring,
    sources: Slab<Source>,
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
    /// The earliest time that the kernel was given, in microseconds.
    alarm_us: u64,
    /// Completions that will come soon and that nobody waits for.
    idle_completions: usize,
    /// To be woken after the reactor is done.
    woken: Vec<Waker>,
}

/// A socket.
#[derive(Debug, Default)]
struct Source {
    /// The operation under way that ends a wait to read or accept.
    reading: Option<Operation>,
    is_writing: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    arrived: Option<Arrived>,
    /// Whether a plain read may give something.
    is_readable: bool,
    /// Whether a plain write may go.
    is_writable: bool,
    /// Bytes read since the last wait.
    read: usize,
    /// Whether the first receive is still to come, which mostly finds bytes.
    is_fresh: bool,
    is_closed: bool,
    accepted: VecDeque<TcpStream>,
}

/// What an operation received.
#[derive(Debug)]
enum Arrived {
    Bytes(Buffer, usize),
    End,
    Failed(io::Error),
}

/// Makes this thread's ring.
///
/// # Errors
/// If the kernel is too old or forbids it.
pub(super) fn start() -> io::Result<()> {
    let reactor = Reactor {
        ring: Ring::new()?,
        sources: Slab::new(),
        timers: BTreeMap::new(),
        next_timer: 0,
        alarm_us: u64::MAX,
        idle_completions: 0,
        woken: Vec::new(),
    };
    REACTOR.set(Some(reactor));
    Ok(())
}

/// Ends this thread's ring and all that it does.
pub(super) fn stop() {
    // Closes what has been dropped since.
    enter(&mut [], false);
    // Dropped outside of their cells: what they hold may look into them.
    drop(ROOT.take());
    drop(REACTOR.take());
}

/// Whether this thread's engine is a ring.
#[inline]
pub(super) fn is_running() -> bool {
    REACTOR.with_borrow(Option::is_some)
}

fn with<T>(f: impl FnOnce(&mut Reactor) -> T) -> Option<T> {
    REACTOR.try_with(|reactor| reactor.borrow_mut().as_mut().map(f)).ok().flatten()
}

/// Tells of the task whose waking keeps tokio from waiting; to be called with each of its polls.
pub(super) fn set_root(waker: &Waker) {
    ROOT.with_borrow_mut(|root| match root {
        Some(root) if root.will_wake(waker) => {}
        _ => *root = Some(waker.clone()),
    });
}

/// Notes that tokio's queue is probably not empty.
#[inline]
pub(super) fn note_runnable() {
    IS_RUNNABLE.set(true);
}

/// Waits until a task is runnable; called when none is.
pub(super) fn park() {
    IS_RUNNABLE.set(false);
    while !IS_RUNNABLE.get() {
        turn::end_and(true);
    }
    // If what was woken is a task that has ended, tokio's queue is empty: it must not wait for more.
    ROOT.with_borrow(|root| root.as_ref().map(Waker::wake_by_ref));
}

/// Hands the sends and all gathered operations to the kernel; if it `waits`, until something happens.
pub(super) fn enter(sends: &mut [Outgoing], waits: bool) {
    let woken = with(|reactor| {
        reactor.set_alarm();
        let idle = std::mem::take(&mut reactor.idle_completions);
        let wanted = if waits && !IS_RUNNABLE.get() { 1 + idle } else { 0 };
        reactor.enter(sends, wanted);
        std::mem::take(&mut reactor.woken)
    });
    let Some(mut woken) = woken else { return };
    for waker in woken.drain(..) {
        note_runnable();
        waker.wake();
    }
    with(|reactor| reactor.woken = woken);
}

impl Reactor {
    fn enter(&mut self, sends: &mut [Outgoing], wanted: usize) {
        let Self { ring, sources, timers, alarm_us, woken, .. } = self;
        let mut is_due = false;
        if wanted != 0 {
            turn::tell(0);
        }
        ring.enter(sends, wanted, |ring, completion| {
            if matches!(completion.outcome, Outcome::Timer) {
                is_due = true;
            } else {
                settle(ring, sources, completion, woken);
            }
        });
        if wanted != 0 {
            turn::tell(clock::refresh());
        }
        if is_due {
            *alarm_us = u64::MAX;
            let now = clock::now_us();
            while let Some(timer) = timers.first_entry()
                && timer.key().0 <= now
            {
                woken.push(timer.remove());
            }
        }
    }

    /// Ends a source's operations. It goes once they have, and gives back what it held.
    fn leave(&mut self, key: usize) -> Option<Source> {
        let source = self.sources.get_mut(key)?;
        let mut left = std::mem::take(source);
        source.is_closed = true;
        source.reading = left.reading;
        source.is_writing = left.is_writing;
        if let Some(operation) = left.reading {
            self.ring.cancel(operation, key);
            self.idle_completions += 1;
        }
        if left.is_writing {
            self.ring.cancel(Operation::Writable, key);
            self.idle_completions += 1;
        }
        if left.reading.is_none() && !left.is_writing {
            self.sources.remove(key);
        }
        if let Some(Arrived::Bytes(buffer, _)) = left.arrived.take() {
            self.ring.give_back(buffer);
        }
        Some(left)
    }

    /// Makes the kernel tell the time of the first timer.
    fn set_alarm(&mut self) {
        if let Some((&(at_us, _), _)) = self.timers.first_key_value()
            && at_us < self.alarm_us
        {
            self.alarm_us = at_us;
            self.ring.timer(Duration::from_micros(at_us), 0);
        }
    }
}

fn settle(
    ring: &mut Ring,
    sources: &mut Slab<Source>,
    completion: Completion,
    woken: &mut Vec<Waker>,
) {
    let key = completion.key;
    let Some(source) = sources.get_mut(key) else { return };
    match completion.outcome {
        Outcome::Accepted { connection, goes_on } => {
            if !goes_on {
                source.reading = None;
            }
            match connection {
                Ok(connection) => source.accepted.push_back(connection),
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(error) => source.arrived = Some(Arrived::Failed(error)),
            }
            if goes_on && source.accepted.len() == ACCEPTED_MAX {
                ring.cancel(Operation::Accept, key);
            }
            woken.extend(source.reader.take());
        }
        Outcome::Received(received) => {
            source.reading = None;
            if source.is_closed {
                if let Ok(Some(buffer)) = received {
                    ring.give_back(buffer);
                }
            } else {
                match received {
                    Ok(Some(buffer)) => source.arrived = Some(Arrived::Bytes(buffer, 0)),
                    Ok(None) => source.arrived = Some(Arrived::End),
                    // No buffer was free.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        source.is_readable = true;
                    }
                    Err(error) => source.arrived = Some(Arrived::Failed(error)),
                }
                woken.extend(source.reader.take());
            }
        }
        Outcome::Readable => {
            source.reading = None;
            source.is_readable = true;
            woken.extend(source.reader.take());
        }
        Outcome::Writable => {
            source.is_writing = false;
            source.is_writable = true;
            woken.extend(source.writer.take());
        }
        Outcome::Timer => {}
    }
    if source.is_closed && source.reading.is_none() && !source.is_writing {
        sources.remove(key);
    }
}

/// A timer's place in the order: its time and a number of its own.
pub(super) type TimerKey = (u64, u64);

/// Sets a timer for a time of the monotonic clock.
pub(super) fn set_timer(at_us: u64, waker: Waker) -> Option<TimerKey> {
    with(|reactor| {
        let key = (at_us, reactor.next_timer);
        reactor.next_timer += 1;
        reactor.timers.insert(key, waker);
        key
    })
}

/// Has another task woken; tells whether the timer is still to come.
pub(super) fn reset_timer(key: TimerKey, waker: &Waker) -> bool {
    with(|reactor| reactor.timers.get_mut(&key).map(|entry| entry.clone_from(waker)).is_some())
        .unwrap_or(false)
}

/// Forgets a timer.
pub(super) fn remove_timer(key: TimerKey) {
    let waker = with(|reactor| reactor.timers.remove(&key));
    drop(waker);
}

/// A socket's place in the reactor.
#[derive(Debug)]
struct Place(usize);

impl Place {
    fn new(source: Source) -> io::Result<Self> {
        with(|reactor| Self(reactor.sources.insert(source)))
            .ok_or_else(|| io::Error::other("the thread's ring has ended"))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Ring, &mut Source) -> T) -> io::Result<T> {
        with(|reactor| {
            let source = reactor.sources.get_mut(self.0)?;
            Some(f(&mut reactor.ring, source))
        })
        .flatten()
        .ok_or_else(|| io::Error::other("the thread's ring has ended"))
    }

    /// Ends the operation that a reader waits for.
    fn stop_reading(&self) {
        let _ = with(|reactor| {
            let reading = reactor.sources.get_mut(self.0)?.reading?;
            reactor.ring.cancel(reading, self.0);
            reactor.idle_completions += 1;
            Some(())
        });
    }

    /// Ends all operations and gives the place up; closes `fd` after them, if it is not closed yet.
    fn leave(&self, fd: Option<OwnedFd>) {
        let left = with(|reactor| {
            let left = reactor.leave(self.0);
            if let Some(fd) = fd {
                reactor.ring.close(fd);
            }
            left
        });
        // Outside of the cell: it may hold anything.
        drop(left);
    }
}
