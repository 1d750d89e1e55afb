//! A worker's end of the way to the supervisor.
//!
//! Lines are gathered in batches of whole lines. A batch is sent when it is full, and every [tick](Log::flush)
//! what there is; the send never waits. While the supervisor takes none, [`HELD_BYTES_MAX`] wait here;
//! further lines are dropped and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::line::{self, Facts};
use super::moment::Clock;
use super::{BATCH_BYTES, HELD_BYTES_MAX};
use crate::config::model::Format;
use crate::sys;

/// Of what others sent, so many bytes of a field are logged.
const FIELD_BYTES_MAX: usize = 8 * 1024;

/// So many if the line is longer than a batch otherwise.
const FIELD_BYTES_LEAST: usize = 64;

/// How long a worker that ends waits for the supervisor to take what is left.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// Buffers that are kept for the next batches.
const SPARE_MAX: usize = 2;

/// Where a worker's lines go.
#[derive(Debug)]
pub struct Log {
    socket: OwnedFd,
    state: RefCell<State>,
    /// The epoch's distance from the beginning of the monotonic clock, in microseconds; read anew every tick.
    epoch_us: Cell<u64>,
}

/// What became of lines since this was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The supervisor has them.
    pub sent: u64,
    /// Nobody has.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    /// Full ones, the oldest first.
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    spare: Vec<Vec<u8>>,
    counts: Counts,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

impl Log {
    /// A log whose batches go out on `socket`, which keeps them apart (`SOCK_SEQPACKET`).
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, state: RefCell::default(), epoch_us: Cell::new(epoch_us()) }
    }

    /// A time of the monotonic clock, in microseconds, since the epoch.
    #[must_use]
    pub fn since_epoch(&self, monotonic_us: u64) -> Duration {
        Duration::from_micros(self.epoch_us.get() + monotonic_us)
    }

    /// Writes a line.
    pub fn write(&self, facts: &Facts<'_>, format: &Format) {
        let mut state = self.state.borrow_mut();
        let State { batch, clock, waiting_bytes, counts, .. } = &mut *state;
        if *waiting_bytes + batch.bytes.len() >= HELD_BYTES_MAX {
            counts.dropped += 1;
            return;
        }
        let start = batch.bytes.len();
        line::write(facts, format, FIELD_BYTES_MAX, clock, &mut batch.bytes);
        if batch.bytes.len() - start >= BATCH_BYTES {
            batch.bytes.truncate(start);
            line::write(facts, format, FIELD_BYTES_LEAST, clock, &mut batch.bytes);
        }
        batch.bytes.push(b'\n');
        batch.lines += 1;
        if batch.bytes.len() > BATCH_BYTES && start != 0 {
            let mut next = state.spare.pop().unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES));
            next.extend_from_slice(&state.batch.bytes[start..]);
            state.batch.bytes.truncate(start);
            state.batch.lines -= 1;
            state.close(Batch { bytes: next, lines: 1 });
            state.send(&self.socket);
        }
    }

    /// Sends what there is, if there is room for it.
    pub fn flush(&self) {
        self.epoch_us.set(epoch_us());
        let mut state = self.state.borrow_mut();
        if state.batch.lines != 0 {
            let next = state.spare.pop().unwrap_or_default();
            state.close(Batch { bytes: next, lines: 0 });
        }
        state.send(&self.socket);
    }

    /// Sends what there is, and waits a moment for room.
    pub fn finish(&self) {
        self.flush();
        let until = Instant::now() + END_PATIENCE;
        let mut state = self.state.borrow_mut();
        while !state.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            if !matches!(poll(&mut fds, Some(&left)), Ok(1)) {
                return;
            }
            state.send(&self.socket);
        }
    }

    /// What became of lines since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.state.borrow_mut().counts)
    }
}

fn epoch_us() -> u64 {
    crate::clock::since_epoch().saturating_sub(sys::monotonic()).as_micros() as u64
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish();
    }
}

impl State {
    /// Has the batch wait to be sent, and begins another one.
    fn close(&mut self, next: Batch) {
        let full = std::mem::replace(&mut self.batch, next);
        self.waiting_bytes += full.bytes.len();
        self.waiting.push_back(full);
    }

    fn send(&mut self, socket: &OwnedFd) {
        while let Some(batch) = self.waiting.front() {
            match send(socket, &batch.bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok(_) => self.counts.sent += batch.lines,
                // The supervisor is gone, and comes back to another worker.
                Err(_) => self.counts.dropped += batch.lines,
            }
            let Some(Batch { mut bytes, .. }) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= bytes.len();
            if self.spare.len() < SPARE_MAX {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    use super::*;

    fn pair() -> (Log, OwnedFd) {
        let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        (Log::new(ours), theirs)
    }

    fn received(socket: &OwnedFd) -> Option<String> {
        let mut bytes = vec![0; 2 * BATCH_BYTES];
        let (_, length) = recv(socket, &mut bytes, RecvFlags::DONTWAIT).ok()?;
        bytes.truncate(length);
        Some(String::from_utf8(bytes).unwrap()).filter(|text| !text.is_empty())
    }

    fn numbered(log: &Log, numbers: std::ops::Range<u64>) {
        let format = Format::parse("$request_bytes $target").unwrap();
        for number in numbers {
            let target = Some("/".repeat(90).into());
            log.write(&Facts { request_bytes: number, target, ..Facts::default() }, &format);
        }
    }

    fn numbers(texts: &[String]) -> Vec<u64> {
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (log, theirs) = pair();
        numbered(&log, 0..1000);
        log.flush();
        let texts: Vec<String> = std::iter::from_fn(|| received(&theirs)).collect();
        assert!(texts.len() > 2 && texts.iter().all(|text| text.ends_with('\n')));
        assert!(texts.iter().all(|text| text.len() <= BATCH_BYTES));
        assert_eq!(numbers(&texts), (0..1000).collect::<Vec<_>>());
        assert_eq!(log.take_counts(), Counts { sent: 1000, dropped: 0 });
        assert_eq!(log.take_counts(), Counts::default());
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        const LINES: u64 = 50_000;
        let (log, theirs) = pair();
        numbered(&log, 0..LINES);
        let before = log.take_counts();
        assert!(before.dropped > 0, "{before:?}");
        let mut texts: Vec<String> = std::iter::from_fn(|| received(&theirs)).collect();
        // There is room again.
        while let Some(text) = {
            log.flush();
            received(&theirs)
        } {
            texts.push(text);
        }
        numbered(&log, LINES..LINES + 1);
        log.flush();
        texts.extend(received(&theirs));
        let after = log.take_counts();
        let numbers = numbers(&texts);
        assert_eq!(numbers.len() as u64, before.sent + after.sent);
        assert_eq!(before.sent + after.sent + before.dropped + after.dropped, LINES + 1);
        assert!(numbers.is_sorted() && numbers.last() == Some(&LINES));
    }

    #[test]
    fn without_a_supervisor_all_is_dropped() {
        let (log, theirs) = pair();
        drop(theirs);
        numbered(&log, 0..3);
        log.flush();
        assert_eq!(log.take_counts(), Counts { sent: 0, dropped: 3 });
    }

    #[test]
    fn a_line_that_is_too_long_is_shortened() {
        let (log, theirs) = pair();
        let long = vec![b'\n'; FIELD_BYTES_MAX];
        let facts = Facts {
            host: Some(&long),
            user_agent: Some(&long),
            referer: Some(&long),
            ..Facts::default()
        };
        numbered(&log, 0..1);
        log.write(&facts, &Format::Json);
        log.flush();
        let text = received(&theirs).unwrap();
        let json: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(json["host"].as_str().unwrap().len(), FIELD_BYTES_LEAST);
    }
}
