//! Pipes that bytes go through on their way from one socket to another, without being copied (splice(2)).
//!
//! A pipe is lent for as long as it holds bytes: connections that are quiet have none. Those that come back
//! empty are kept for the next ([`SPARE_MAX`]). What a pipe holds at most is its room, so what a slow
//! reader makes this host keep is bounded by that and by the sockets' buffers.
//!
//! The kernel grants each user so many pages in pipes (`fs.pipe-user-pages-soft`, 64 MiB as a rule). While
//! it does a pipe has [`ROOM_BYTES`], afterwards what it has by itself (64 KiB); what is smaller than that
//! is not worth its system calls.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

/// The room that is asked for.
const ROOM_BYTES: usize = 1 << 20;

/// The least room that is of use.
const ROOM_BYTES_MIN: usize = 64 * 1024;

/// Pipes that are kept, by a worker.
const SPARE_MAX: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// Both ends.
#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
    room: usize,
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    /// `None` once they were given back.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe; `None` if this host has none to give that is of use.
    #[must_use]
    pub fn take() -> Option<Self> {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let ends = spare.or_else(|| Ends::new().ok().flatten())?;
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn ends(&self) -> io::Result<&Ends> {
        self.ends.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Moves what a socket has into the empty pipe, as far as there is room; 0 at the socket's end.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "a full pipe can't be told from an empty socket");
        let ends = self.ends()?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.held = splice(from, None, &ends.writer, None, ends.room, flags)?;
        Ok(self.held)
    }

    /// Puts bytes into the empty pipe that have been read already; gives how many.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held = rustix::io::write(&self.ends()?.writer, bytes)?;
        Ok(self.held)
    }

    /// Moves what is in the pipe to a socket; gives how many bytes it took.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = splice(&self.ends()?.reader, None, to, None, self.held, flags)?;
        self.held -= moved;
        Ok(moved)
    }
}

impl Ends {
    fn new() -> io::Result<Option<Self>> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let room = match fcntl_setpipe_size(&writer, ROOM_BYTES) {
            Ok(room) => room,
            Err(_) => fcntl_getpipe_size(&writer)?,
        };
        Ok((room >= ROOM_BYTES_MIN).then_some(Self { reader, writer, room }))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        // The list is gone if the thread ends.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_go_through_and_an_empty_pipe_is_used_again() {
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        let mut pipe = Pipe::take().unwrap();
        let nothing = pipe.fill(&from).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"through").unwrap();
        assert_eq!((pipe.fill(&from).unwrap(), pipe.is_empty()), (7, false));
        assert_eq!((pipe.drain(&to).unwrap(), pipe.is_empty()), (7, true));
        assert_eq!((pipe.put(b" and more").unwrap(), pipe.drain(&to).unwrap()), (9, 9));
        drop(sender);
        assert_eq!(pipe.fill(&from).unwrap(), 0);
        drop((pipe, to));
        let mut text = String::new();
        receiver.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through and more");
        assert_eq!(SPARE.with_borrow(Vec::len), 1);
        let mut full = Pipe::take().unwrap();
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        full.put(b"left").unwrap();
        drop(full);
        assert_eq!(SPARE.with_borrow(Vec::len), 0, "what holds bytes is nobody else's");
    }
}
