//! What the programs log, on its way to the daemon's log.
//!
//! The buffer belongs to one load of the programs: unlike the other maps it is not pinned, so a daemon
//! never reads records whose format strings another version wrote.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::Error;

/// The buffer's name.
pub(super) const MAP: &str = "AYA_LOGS";

/// The reading end. Readable when there are records.
pub struct Logger(EbpfLogger<&'static dyn ::log::Log>);

impl std::fmt::Debug for Logger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logger").finish_non_exhaustive()
    }
}

impl Logger {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        EbpfLogger::init(ebpf).map(Self).map_err(|_| Error::Missing("log buffer"))
    }

    /// Hands all records to the `log` facade.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for Logger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Logger {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
