//! The end of the loop turn: when deferred bytes go out.
//!
//! Streams with bytes to send stand in a list of the thread. It is worked off when no task is
//! runnable any more ([`end`], called by the event loop before it waits), and at once in two cases,
//! so that a run queue that never empties cannot hold bytes back: when the list is full, and when
//! the streams of this thread have been used [`OPERATIONS_MAX`] times since the list's first entry.
//! (Whatever keeps the queue busy in a proxy reads or writes a stream.)

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::tcp::Inner;
use super::{clock, reactor};
use crate::sys::ring::Outgoing;

/// Streams that may wait before all are sent.
const PENDING_MAX: usize = 64;

/// Reads and writes of any stream, ready or not, before those that wait are sent.
const OPERATIONS_MAX: u32 = 512;

/// Send buffers that are kept for the next streams; an idle stream holds none.
const SPARE_BUFFERS_MAX: usize = 2 * PENDING_MAX;

/// Size of a fresh send buffer: a head and a small body.
const BUFFER_BYTES: usize = 2048;

/// Who is told when turns begin and end.
type Watch = Box<dyn Fn(u64)>;

thread_local! {
    static PENDING: RefCell<Vec<Rc<RefCell<Inner>>>> = const { RefCell::new(Vec::new()) };
    static SENDS: RefCell<Vec<Outgoing>> = const { RefCell::new(Vec::new()) };
    static OPERATIONS: Cell<u32> = const { Cell::new(0) };
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Sends what is deferred.
pub fn end() {
    end_and(false);
}

/// Sends what is deferred; on the ring, waits for events in the same system call if it shall.
pub(super) fn end_and(waits: bool) {
    OPERATIONS.set(0);
    let mut pending = PENDING.take();
    if reactor::is_running() {
        send_on_ring(&mut pending, waits);
    } else {
        for inner in pending.drain(..) {
            Inner::send_deferred(&inner);
        }
    }
    // Gives the allocation back; sending defers nothing, but an abandoned stream's task may have.
    PENDING.with_borrow_mut(|list| {
        if list.is_empty() {
            *list = pending;
        }
    });
}

fn send_on_ring(pending: &mut Vec<Rc<RefCell<Inner>>>, waits: bool) {
    let mut sends = SENDS.take();
    sends.extend(pending.iter().map(Inner::lend));
    // Waiting may take long.
    let at_ms = clock::now_ms();
    reactor::enter(&mut sends, waits);
    for (inner, outgoing) in pending.drain(..).zip(sends.drain(..)) {
        Inner::settle(&inner, outgoing, at_ms);
    }
    SENDS.set(sends);
}

/// Calls `tell` with the time in microseconds of the monotonic clock at which a turn begins, and with
/// 0 when the thread waits for the next.
pub fn watch(tell: impl Fn(u64) + 'static) {
    WATCH.set(Some(Box::new(tell)));
}

/// Tells nobody any more.
pub(super) fn unwatch() {
    drop(WATCH.take());
}

/// Notes that a turn begins at this time, or that the thread waits (0).
#[inline]
pub(super) fn tell(began_us: u64) {
    WATCH.with_borrow(|watch| {
        if let Some(tell) = watch {
            tell(began_us);
        }
    });
}

/// Counts one use of a stream. No stream may be borrowed.
#[inline]
pub(super) fn count_operation() {
    let operations = OPERATIONS.get();
    if operations != 0 {
        OPERATIONS.set(operations + 1);
        if operations >= OPERATIONS_MAX {
            end();
        }
    }
}

/// Puts a stream on the list; its bytes go out by themselves. No stream may be borrowed.
#[inline]
pub(super) fn defer(inner: &Rc<RefCell<Inner>>) {
    let full = PENDING.with_borrow_mut(|pending| {
        pending.push(inner.clone());
        pending.len() >= PENDING_MAX
    });
    if full {
        end();
    } else if OPERATIONS.get() == 0 {
        OPERATIONS.set(1);
    }
}

/// An empty send buffer.
#[inline]
pub(super) fn take_buffer() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// Takes a send buffer back.
#[inline]
pub(super) fn give_buffer(mut buffer: Vec<u8>) {
    buffer.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    });
}

/// How many streams wait for the end of the turn.
#[cfg(test)]
pub(super) fn pending() -> usize {
    PENDING.with_borrow(Vec::len)
}
