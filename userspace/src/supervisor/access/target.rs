//! Where lines are written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::access::MONTHS;
use crate::config::model::Destination;
use crate::sys;

/// Who may read the file: its owner and its group.
const FILE_MODE: u32 = 0o640;

/// `local0.info` (RFC 3164, 4.1.1).
const PRIORITY: u8 = 16 * 8 + 6;

/// How long a log daemon may take for one line.
const SEND_PATIENCE: Duration = Duration::from_secs(1);

/// A destination that is open.
#[derive(Debug)]
pub(super) enum Target {
    /// A file, a FIFO, or standard output.
    File {
        file: File,
        /// `None` of standard output.
        path: Option<PathBuf>,
        /// Whether the last write broke off within a line.
        is_torn: bool,
    },
    Syslog(Daemon),
    Journal(Daemon),
}

/// A log daemon, by its socket.
#[derive(Debug)]
pub(super) struct Daemon {
    path: PathBuf,
    socket: UnixDatagram,
}

/// A batch that was not written whole.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// How many lines.
    pub(super) lost: u64,
}

impl Target {
    /// `None` for no log.
    pub(super) fn open(destination: &Destination) -> io::Result<Option<Self>> {
        Ok(Some(match destination {
            Destination::Off => return Ok(None),
            Destination::Output => {
                let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                Self::File { file, path: None, is_torn: false }
            }
            Destination::File(path) => {
                Self::File { file: append(path)?, path: Some(path.clone()), is_torn: false }
            }
            Destination::Syslog(path) => Self::Syslog(Daemon::connect(path)?),
            Destination::Journal(path) => Self::Journal(Daemon::connect(path)?),
        }))
    }

    /// Opens a file anew: what is there by its name now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { file, path: Some(path), is_torn } = self {
            *file = append(path)?;
            *is_torn = false;
        }
        Ok(())
    }

    /// Writes a batch of lines.
    pub(super) fn write(&mut self, batch: &[u8]) -> Result<(), Failed> {
        match self {
            Self::File { file, is_torn, .. } => write_file(file, is_torn, batch),
            Self::Syslog(daemon) => {
                let head = syslog_head(SystemTime::now());
                daemon.write(batch, |line| [head.as_bytes(), line].concat())
            }
            Self::Journal(daemon) => daemon.write(batch, journal_entry),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    // A FIFO that nobody reads is an error at once, and not a daemon that hangs.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = OpenOptions::new();
    let file =
        options.append(true).create(true).mode(FILE_MODE).custom_flags(nonblocking).open(path)?;
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(file)
}

fn write_file(file: &mut File, is_torn: &mut bool, batch: &[u8]) -> Result<(), Failed> {
    let mut rest = batch;
    if std::mem::take(is_torn) {
        // What was begun ends as a line of its own.
        if let Err(error) = file.write_all(b"\n") {
            *is_torn = true;
            return Err(Failed { error, lost: lines(batch) });
        }
    }
    while !rest.is_empty() {
        let error = match file.write(rest) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                rest = &rest[written..];
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        let written = &batch[..batch.len() - rest.len()];
        *is_torn = written.last().is_some_and(|last| *last != b'\n');
        return Err(Failed { error, lost: lines(rest) });
    }
    Ok(())
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

impl Daemon {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_PATIENCE))?;
        socket.connect(path)?;
        Ok(Self { path: path.to_owned(), socket })
    }

    /// Sends each line as `datagram` makes it. A daemon that was started anew is found again.
    fn write(&mut self, batch: &[u8], datagram: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), Failed> {
        let mut failed: Option<Failed> = None;
        let all = batch.strip_suffix(b"\n").unwrap_or(batch);
        for line in all.split(|byte| *byte == b'\n') {
            // Whoever does not take one line does not take the next.
            let sent = match &failed {
                Some(before) if is_for_all(&before.error) => Err(None),
                _ => self.send(&datagram(line)).map_err(Some),
            };
            if let Err(error) = sent {
                let lost = failed.as_ref().map_or(0, |failed| failed.lost) + 1;
                let before = failed.take().map(|failed| failed.error);
                let error = before.or(error).unwrap_or(io::ErrorKind::Other.into());
                failed = Some(Failed { error, lost });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.send(datagram) {
            Err(error) if is_gone(&error) => {
                *self = Self::connect(&self.path)?;
                self.socket.send(datagram).map(drop)
            }
            sent => sent.map(drop),
        }
    }
}

/// Whether the daemon that was there is no more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | NotConnected)
}

/// Whether it concerns more than a line that is too long.
fn is_for_all(error: &io::Error) -> bool {
    error.raw_os_error() != Some(libc::EMSGSIZE)
}

/// What comes before a line: priority, local time, tag.
fn syslog_head(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = sys::local_time(seconds);
    let month = MONTHS[time.month % MONTHS.len()];
    format!(
        "<{PRIORITY}>{month} {:2} {:02}:{:02}:{:02} steerage[{}]: ",
        time.day,
        time.hour,
        time.minute,
        time.second,
        std::process::id()
    )
}

/// An entry in the journal's protocol; a line has no line ends within.
fn journal_entry(line: &[u8]) -> Vec<u8> {
    let mut entry =
        b"PRIORITY=6\nSYSLOG_FACILITY=16\nSYSLOG_IDENTIFIER=steerage\nMESSAGE=".to_vec();
    entry.extend_from_slice(line);
    entry.push(b'\n');
    entry
}
