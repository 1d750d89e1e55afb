//! io_uring, as far as the worker needs it, behind safe calls.
//!
//! - Operations are gathered in the submission queue and handed to the kernel by [`Ring::enter`], which
//!   also does the kernel's half of what has happened meanwhile (`DEFER_TASKRUN`): nothing completes
//!   outside of it.
//! - What is received comes in the ring's own buffers ([`Buffer`]), so that a connection that waits for
//!   bytes holds no memory. The kernel picks a buffer when bytes are there.
//! - Bytes to be sent are borrowed for one call only: the sockets don't block, so that the kernel
//!   finishes a send in the call that submits it.
//! - An operation is named by its kind and the caller's key. There is one of each kind under a key at a
//!   time, and exactly one completion ends it.
//!
//! Needs Linux 6.1; [`Ring::new`] fails where that, or the right to use io_uring, is missing.

mod buffers;

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use buffers::Buffers;
pub use buffers::{BUFFER_BYTES, Buffer};

/// Operations that may be gathered before they are submitted.
const SUBMISSIONS: u32 = 512;

/// Completions that the ring has room for; the kernel keeps more by itself.
const COMPLETIONS: u32 = 2048;

/// The largest key: the bits above name the operation.
const KEY_BITS: u32 = 48;

/// `IORING_RECVSEND_POLL_FIRST`: don't try, wait.
const POLL_FIRST: u16 = 1;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Accepts connections until it is cancelled.
    Accept,
    /// Receives once, into one of the ring's buffers.
    Receive,
    /// Waits until there is something to read, or an end.
    Readable,
    /// Waits until there is room to write, or an error.
    Writable,
    /// Waits for a time.
    Timer,
    /// One of [`Ring::enter`]'s sends; its key is the index.
    Send,
    /// What is of interest only if it fails, and then in vain.
    Unnamed,
}

/// What has happened.
#[derive(Debug)]
pub enum Outcome {
    /// A connection came; if not `goes_on`, it is the last one.
    Accepted {
        /// The connection.
        connection: io::Result<TcpStream>,
        /// Whether more will come.
        goes_on: bool,
    },
    /// Bytes came, or the end (`None`).
    Received(io::Result<Option<Buffer>>),
    /// There may be something to read.
    Readable,
    /// There may be room to write.
    Writable,
    /// A time has come.
    Timer,
}

/// The outcome of one operation.
#[derive(Debug)]
pub struct Completion {
    /// The key that the operation was given.
    pub key: usize,
    /// What has happened.
    pub outcome: Outcome,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Outgoing {
    fd: RawFd,
    /// The bytes.
    pub bytes: Vec<u8>,
    from: usize,
    /// Whether the socket is to be closed after the last byte.
    pub closes: bool,
    /// How many bytes the kernel took; `None` if there were none to send. If it took all, the socket
    /// is closed if it was to be.
    pub result: Option<io::Result<usize>>,
}

impl Outgoing {
    /// Bytes, from `from` on, for a socket, which is open and does not block.
    #[must_use]
    pub fn new(fd: RawFd, bytes: Vec<u8>, from: usize, closes: bool) -> Self {
        Self { fd, bytes, from, closes, result: None }
    }
}

/// A ring of this thread.
pub struct Ring {
    // Dropped before the buffers: the kernel writes to them until then.
    ring: IoUring,
    buffers: Buffers,
}

impl Ring {
    /// Makes a ring.
    ///
    /// # Errors
    /// If the kernel is too old or forbids it.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .build(SUBMISSIONS)?;
        let submitter = ring.submitter();
        let buffers = Buffers::new(&submitter)?;
        submitter.register_restrictions(&mut restrictions())?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, buffers })
    }

    /// Accepts connections, non-blocking, until cancelled.
    pub fn accept(&mut self, fd: BorrowedFd<'_>, key: usize) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let entry = opcode::AcceptMulti::new(types::Fd(fd.as_raw_fd())).flags(flags).build();
        self.push(entry, name(Operation::Accept, key));
    }

    /// Receives; `expects_nothing` saves the kernel the look whether bytes are there already.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, key: usize, expects_nothing: bool) {
        let entry = opcode::Recv::new(types::Fd(fd.as_raw_fd()), std::ptr::null_mut(), 0)
            .buf_group(buffers::GROUP)
            .ioprio(if expects_nothing { POLL_FIRST } else { 0 })
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(entry, name(Operation::Receive, key));
    }

    /// Waits for something to read.
    pub fn readable(&mut self, fd: BorrowedFd<'_>, key: usize) {
        self.poll(fd, libc::POLLIN | libc::POLLRDHUP, name(Operation::Readable, key));
    }

    /// Waits for room to write.
    pub fn writable(&mut self, fd: BorrowedFd<'_>, key: usize) {
        self.poll(fd, libc::POLLOUT, name(Operation::Writable, key));
    }

    fn poll(&mut self, fd: BorrowedFd<'_>, events: i16, name: u64) {
        #[allow(clippy::cast_sign_loss, reason = "a set of bits")]
        let events = u32::from(events as u16);
        self.push(opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).build(), name);
    }

    /// Waits until the monotonic clock shows `at`.
    pub fn timer(&mut self, at: Duration, key: usize) {
        let at = types::Timespec::from(at);
        let entry = opcode::Timeout::new(&raw const at).flags(types::TimeoutFlags::ABS).build();
        self.make_room();
        self.push(entry, name(Operation::Timer, key));
        // The kernel reads the time when the operation is submitted: while it is still here.
        self.submit();
    }

    /// Ends an operation early. Its completion comes with the next [`Ring::enter`] in any case.
    pub fn cancel(&mut self, operation: Operation, key: usize) {
        let entry = opcode::AsyncCancel::new(name(operation, key)).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), name(Operation::Unnamed, 0));
    }

    /// Closes a descriptor after the operations that were given before.
    pub fn close(&mut self, fd: OwnedFd) {
        self.push(closing(fd.into_raw_fd()), name(Operation::Unnamed, 0));
    }

    /// Submits what is gathered and the sends, waits until `wanted` operations have completed, and
    /// tells which.
    ///
    /// Aborts the process if the kernel does not take the operations: nothing could go on.
    pub fn enter(
        &mut self,
        sends: &mut [Outgoing],
        wanted: usize,
        mut tell: impl FnMut(&mut Self, Completion),
    ) {
        for (index, send) in sends.iter_mut().enumerate() {
            self.push_send(send, index);
        }
        self.enter_kernel(wanted);
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let data = entry.user_data();
            let key = (data & ((1 << KEY_BITS) - 1)) as usize;
            if data >> KEY_BITS == Operation::Send as u64 {
                if let Some(send) = sends.get_mut(key) {
                    send.result = Some(result(entry.result()).map(|sent| sent as usize));
                }
            } else if let Some(outcome) = self.outcome(data >> KEY_BITS, &entry) {
                tell(self, Completion { key, outcome });
            }
        }
    }

    /// Room for the two entries of a send, so that nothing is submitted between them.
    fn push_send(&mut self, send: &mut Outgoing, index: usize) {
        let bytes = &send.bytes[send.from..];
        if bytes.is_empty() {
            return;
        }
        send.result = Some(Ok(bytes.len()));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // All or a completion: without one, everything went.
        let entry = opcode::Send::new(types::Fd(send.fd), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT)
            .build();
        self.make_room();
        if send.closes {
            // A send that fails, or sends less, cancels what is linked to it.
            let flags = Flags::SKIP_SUCCESS | Flags::IO_LINK;
            self.push(entry.flags(flags), name(Operation::Send, index));
            self.push(closing(send.fd), name(Operation::Unnamed, 0));
        } else {
            self.push(entry.flags(Flags::SKIP_SUCCESS), name(Operation::Send, index));
        }
    }

    fn outcome(&mut self, operation: u64, entry: &cqueue::Entry) -> Option<Outcome> {
        let code = entry.result();
        Some(match operation {
            _ if operation == Operation::Accept as u64 => Outcome::Accepted {
                // SAFETY: the kernel made the descriptor for this completion, and tells it once.
                connection: result(code).map(|fd| unsafe { TcpStream::from_raw_fd(fd) }),
                goes_on: cqueue::more(entry.flags()),
            },
            _ if operation == Operation::Receive as u64 => {
                let buffer = cqueue::buffer_select(entry.flags());
                let buffer = buffer.map(|id| Buffer { id, length: code.max(0) as usize });
                match (result(code), buffer) {
                    (Ok(1..), Some(buffer)) => Outcome::Received(Ok(Some(buffer))),
                    (received, buffer) => {
                        // It holds nothing.
                        buffer.into_iter().for_each(|buffer| self.buffers.give(buffer.id));
                        Outcome::Received(received.map(|_| None))
                    }
                }
            }
            _ if operation == Operation::Readable as u64 => Outcome::Readable,
            _ if operation == Operation::Writable as u64 => Outcome::Writable,
            _ if operation == Operation::Timer as u64 => Outcome::Timer,
            _ => return None,
        })
    }

    /// The bytes of a buffer.
    #[must_use]
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        self.buffers.bytes(buffer)
    }

    /// Gives a buffer back to the kernel.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.buffers.give(buffer.id);
    }

    fn make_room(&mut self) {
        let queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < 2 {
            self.submit();
        }
    }

    fn push(&mut self, entry: squeue::Entry, name: u64) {
        let entry = entry.user_data(name);
        // SAFETY: what an entry points to lives until it is executed: the ring's buffers as long as
        // the ring, sent bytes and times until they are submitted by the function that pushes them.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Submits what is gathered.
    fn submit(&mut self) {
        self.enter_kernel(0);
    }

    /// Submits everything, waits for `wanted` completions, and lets the kernel do its deferred work.
    /// The queue is empty then: whatever the entries borrow may go.
    fn enter_kernel(&mut self, wanted: usize) {
        /// `IORING_ENTER_GETEVENTS`.
        const GET_EVENTS: u32 = 1;
        /// How often the kernel may be out of memory, or of room for completions.
        const ATTEMPTS: u32 = 10_000;
        for _ in 0..ATTEMPTS {
            let count = self.ring.submission().len() as u32;
            let submitter = self.ring.submitter();
            // SAFETY: no argument is passed.
            let entered = unsafe {
                submitter.enter::<libc::sigset_t>(count, wanted as u32, GET_EVENTS, None)
            };
            if self.ring.submission().is_empty() {
                return;
            }
            if let Err(error) = entered {
                let code = error.raw_os_error();
                let is_passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY].map(Some).contains(&code);
                if !is_passing {
                    tracing::error!(%error, "io_uring_enter");
                    break;
                }
            }
        }
        // No unwinding: entries still point to what it would free.
        std::process::abort();
    }
}

/// All that the ring takes: the operations that are pushed here. What a process may do by system calls
/// (seccomp) says nothing of what it may do by a ring.
fn restrictions() -> [Restriction; 8] {
    let flags = Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS | Flags::IO_LINK;
    [
        Restriction::sqe_op(opcode::AcceptMulti::CODE),
        Restriction::sqe_op(opcode::Recv::CODE),
        Restriction::sqe_op(opcode::Send::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_op(opcode::Timeout::CODE),
        Restriction::sqe_op(opcode::AsyncCancel::CODE),
        Restriction::sqe_op(opcode::Close::CODE),
        Restriction::sqe_flags_allowed(flags.bits()),
    ]
}

fn closing(fd: RawFd) -> squeue::Entry {
    opcode::Close::new(types::Fd(fd)).build().flags(Flags::SKIP_SUCCESS)
}

fn name(operation: Operation, key: usize) -> u64 {
    (operation as u64) << KEY_BITS | key as u64
}

fn result(code: i32) -> io::Result<i32> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_takes_no_operation_that_a_worker_has_not() {
        let Ok(mut ring) = Ring::new() else {
            eprintln!("no io_uring here, so none is tested");
            return;
        };
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
        ring.push(socket, name(Operation::Unnamed, 0));
        ring.enter_kernel(1);
        let outcome = ring.ring.completion().next().map(|entry| entry.result());
        assert_eq!(outcome, Some(-libc::EACCES));
    }
}
