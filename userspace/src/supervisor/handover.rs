//! What a running daemon hands to the one that follows it, over a local socket between the two.
//!
//! ```text
//! former                                next
//!   HANDOVER + state, open files   ──►    checks the layout, opens the pinned tables
//!   SOCKETS  + listening sockets   ──►    (as often as it takes)
//!   END                            ──►    starts its workers on the same sockets
//!                                  ◄──    READY, or FAILED and why
//!   GO                             ──►    answers operators, puts its epoch in force
//!   (its workers finish what they are at, and it ends)
//! ```
//!
//! A listening socket is one queue, whoever holds it: connections that wait in it, or are half open, are
//! accepted by either's workers. So is the admin socket, and the lock that the PID file stands for. If
//! the former one is gone before it says `GO`, the next one goes on as after a crash.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Error;
use super::figures::Reloads;
use crate::net::pass;
use crate::region::Fds;

const HANDOVER: u8 = b'H';
const SOCKETS: u8 = b'S';
const END: u8 = b'E';
/// From the next one: its workers serve.
pub const READY: u8 = b'R';
/// From the next one: it can't; the rest is a text that says why.
pub const FAILED: u8 = b'F';
/// From the former one: it does nothing any more that the next one does.
pub const GO: u8 = b'G';

/// Bytes of a reason.
const REASON_BYTES_MAX: u64 = 16 * 1024;

/// What the former daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its version.
    pub version: String,
    /// The layout of its tables.
    pub schema_version: u32,
    /// `global.instance`.
    pub instance: String,
    /// Its process.
    pub pid: u32,
    /// Its PID file.
    pub pid_file: PathBuf,
    /// Its admin socket.
    pub admin: PathBuf,
    /// Its metrics address.
    pub metrics: Option<SocketAddr>,
    /// Lines for workers in its region.
    pub worker_lines: usize,
    /// Whether the whole region is plain memory.
    pub is_memory: bool,
    /// The places of its workers' sockets in the kernel's table.
    pub seats: Vec<usize>,
    /// What came of its reloads.
    pub reloads: Reloads,
    /// Its listening sockets.
    pub sockets: Vec<PassedSocket>,
}

/// A listening socket that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedSocket {
    /// Its listener.
    pub listener: String,
    /// The address that the listener's configuration names.
    pub asked: SocketAddr,
    /// Which of the listener's addresses it is.
    pub nth: usize,
    /// The worker that accepts from it.
    pub worker: usize,
}

/// What is open and handed over.
#[derive(Debug)]
pub struct Open<'a> {
    /// The locked PID file.
    pub pid_file: BorrowedFd<'a>,
    /// The admin socket.
    pub admin: BorrowedFd<'a>,
    /// The metrics listener.
    pub metrics: Option<BorrowedFd<'a>>,
    /// The region: what of it is not pinned is handed over.
    pub region: &'a Fds,
    /// Parallel to [`State::sockets`].
    pub sockets: Vec<BorrowedFd<'a>>,
}

/// Hands everything over.
///
/// # Errors
/// If the other side is gone.
pub fn send(channel: &UnixStream, state: &State, open: &Open<'_>) -> io::Result<()> {
    let memory = crate::sys::sealed_memory("steerage-handover", &serde_json::to_vec(state)?)?;
    let mut fds = vec![memory.as_fd(), open.pid_file, open.admin];
    fds.extend(open.metrics);
    match state.is_memory {
        true => fds.extend(open.region.all()),
        false => fds.push(open.region.figures.as_fd()),
    }
    pass::send(channel.as_fd(), HANDOVER, &fds)?;
    for some in open.sockets.chunks(pass::FDS_MAX) {
        pass::send(channel.as_fd(), SOCKETS, some)?;
    }
    pass::send(channel.as_fd(), END, &[])
}

/// What of a region is plain memory.
#[derive(Debug)]
pub enum Memory {
    /// All of it.
    Whole(Fds),
    /// [`Fds::figures`].
    Figures(OwnedFd),
}

/// What the next daemon gets.
#[derive(Debug)]
pub struct Inheritance {
    /// What the former one says of itself.
    pub state: State,
    /// The locked PID file.
    pub pid_file: File,
    /// The admin socket, until it is taken.
    pub admin: Option<UnixListener>,
    /// The metrics listener.
    pub metrics: Option<TcpListener>,
    /// What of its region is not pinned, until it is taken.
    pub memory: Option<Memory>,
    /// Parallel to [`State::sockets`], until they are taken.
    pub sockets: Vec<TcpListener>,
    /// The way to the former one.
    pub channel: UnixStream,
}

impl Inheritance {
    /// Takes everything over.
    ///
    /// # Errors
    /// If the other side is no daemon that hands over, or its tables have another layout than
    /// `schema_version`.
    pub fn receive(channel: UnixStream, schema_version: u32) -> Result<Self, Error> {
        let broken = |source| Error::Handover { source };
        let mut fds = expect(&channel, HANDOVER).map_err(broken)?.into_iter();
        let mut next = || fds.next().ok_or_else(|| broken(invalid("a descriptor is missing")));
        let memory = File::from(next()?);
        let state = read_state(&memory).map_err(broken)?;
        if state.schema_version != schema_version {
            return Err(Error::OtherLayout {
                version: state.version,
                found: state.schema_version,
                expected: schema_version,
            });
        }
        let pid_file = File::from(next()?);
        let admin = Some(UnixListener::from(next()?));
        let metrics = match state.metrics {
            Some(_) => Some(TcpListener::from(next()?)),
            None => None,
        };
        let memory = match state.is_memory {
            true => {
                let all: Vec<OwnedFd> = fds.collect();
                let all = all.try_into().map_err(|_| broken(invalid("the region is not whole")))?;
                Memory::Whole(Fds::from_all(all))
            }
            false => Memory::Figures(next()?),
        };
        let mut sockets = Vec::with_capacity(state.sockets.len());
        while sockets.len() < state.sockets.len() {
            let some = expect(&channel, SOCKETS).map_err(broken)?;
            if some.is_empty() {
                return Err(broken(invalid("a listening socket is missing")));
            }
            sockets.extend(some.into_iter().map(TcpListener::from));
        }
        expect(&channel, END).map_err(broken)?;
        Ok(Self { state, pid_file, admin, metrics, memory: Some(memory), sockets, channel })
    }
}

/// Tells the former daemon that this one can't follow it. Whoever is gone needs not know.
pub fn refuse(channel: &UnixStream, why: &str) {
    let mut channel = channel;
    let _ = channel.write_all(&[FAILED]).and_then(|()| channel.write_all(why.as_bytes()));
}

/// What the next daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Its workers serve.
    Ready,
    /// It can't.
    Failed(String),
    /// It takes too long.
    Silent,
    /// It is gone without a word.
    Gone,
}

/// Waits for the next daemon's word, for as long as the channel's time says.
pub fn hear(channel: &UnixStream) -> Word {
    let mut channel = channel;
    let mut byte = [0];
    match channel.read(&mut byte) {
        Ok(1) if byte[0] == READY => Word::Ready,
        Ok(1) if byte[0] == FAILED => {
            let mut why = Vec::new();
            let _ = channel.take(REASON_BYTES_MAX).read_to_end(&mut why);
            Word::Failed(String::from_utf8_lossy(&why).into_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Word::Silent,
        _ => Word::Gone,
    }
}

fn expect(channel: &UnixStream, wanted: u8) -> io::Result<Vec<OwnedFd>> {
    match pass::receive(channel.as_fd())? {
        Some((byte, fds)) if byte == wanted => Ok(fds),
        Some(_) => Err(invalid("something else was said")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read_state(memory: &File) -> io::Result<State> {
    let mut json = vec![0; memory.metadata()?.len() as usize];
    memory.read_exact_at(&mut json, 0)?;
    Ok(serde_json::from_slice(&json)?)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sockets: usize, is_memory: bool) -> State {
        let asked = "127.0.0.1:0".parse().unwrap();
        let passed = |nth| PassedSocket { listener: "web".into(), asked, nth, worker: 0 };
        State {
            version: "0.1.0".into(),
            schema_version: 5,
            instance: "default".into(),
            pid: 7,
            pid_file: "/run/x.pid".into(),
            admin: "/run/x.sock".into(),
            metrics: Some(asked),
            worker_lines: 2,
            is_memory,
            seats: vec![3],
            reloads: Reloads::default(),
            sockets: (0..sockets).map(passed).collect(),
        }
    }

    /// Hands over what a daemon with so many sockets has; gives the other end's view.
    fn handed(sockets: usize, in_memory: bool, schema: u32) -> Result<Inheritance, Error> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let region = Fds::in_memory(2).unwrap();
        let state = state(sockets, in_memory);
        let file = tempfile();
        let open = Open {
            pid_file: file.as_fd(),
            admin: ours.as_fd(),
            metrics: Some(listener.as_fd()),
            region: &region,
            sockets: vec![listener.as_fd(); sockets],
        };
        std::thread::scope(|scope| {
            // Who finds something wrong does not listen to the end.
            scope.spawn(|| send(&ours, &state, &open));
            Inheritance::receive(theirs, schema)
        })
    }

    fn tempfile() -> OwnedFd {
        crate::sys::sealed_memory("test", b"1").unwrap()
    }

    #[test]
    fn everything_arrives_however_many_sockets_there_are() {
        for (sockets, in_memory) in [(0, false), (1, true), (2 * pass::FDS_MAX + 1, true)] {
            let heir = handed(sockets, in_memory, 5).unwrap();
            assert_eq!(heir.state, state(sockets, in_memory));
            assert_eq!(heir.sockets.len(), sockets);
            assert_eq!(matches!(heir.memory, Some(Memory::Whole(_))), in_memory);
            for socket in heir.sockets.iter().chain(&heir.metrics) {
                assert_ne!(socket.local_addr().unwrap().port(), 0);
            }
        }
    }

    #[test]
    fn another_layout_is_refused_with_both_numbers() {
        let error = handed(1, false, 6).unwrap_err().to_string();
        assert!(error.contains("layout 5") && error.contains("layout 6"), "{error}");
    }

    #[test]
    fn what_the_next_one_says_is_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(&[READY]).unwrap();
        assert_eq!(hear(&ours), Word::Ready);
        refuse(&theirs, "no such user");
        drop(theirs);
        assert_eq!(hear(&ours), Word::Failed("no such user".into()));
        assert_eq!(hear(&ours), Word::Gone);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        assert_eq!(hear(&ours), Word::Silent);
    }

    #[test]
    fn who_hands_over_nothing_is_told_so() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(Inheritance::receive(theirs, 5).unwrap_err().to_string().contains("hand"));
    }
}
