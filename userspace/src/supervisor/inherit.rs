//! The worker's end of the hand-over: descriptors named on its command line.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;

use zeroize::Zeroizing;

use crate::region::{Fds, Region};
use crate::sys::inherit;
use crate::worker::Setup;

/// The numbers of the descriptors, as the supervisor wrote them.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// The setup's memory.
    pub setup: RawFd,
    /// The control socket.
    pub control: RawFd,
    /// The way of lines about requests.
    pub log: RawFd,
    /// The region's tables, in the order of [`Fds::all`].
    pub region: Vec<RawFd>,
    /// Listening sockets, in the order of the plan's.
    pub sockets: Vec<RawFd>,
}

/// Everything a worker is given.
#[derive(Debug)]
pub struct Inheritance {
    /// What it is told.
    pub setup: Setup,
    /// The shared region.
    pub region: Region,
    /// Its sockets, parallel to the plan's.
    pub sockets: Vec<TcpListener>,
    /// The way to the supervisor.
    pub control: UnixStream,
    /// The way of lines about requests to it.
    pub log: OwnedFd,
}

/// Takes the descriptors over.
///
/// # Errors
/// If one is not open or not what it should be: the process was not started by a supervisor.
pub fn take(numbers: &Numbers) -> io::Result<Inheritance> {
    let file = File::from(inherit(numbers.setup)?);
    // It holds keys.
    let mut json = Zeroizing::new(vec![0; file.metadata()?.len() as usize]);
    file.read_exact_at(&mut json, 0)?;
    let setup: Setup = serde_json::from_slice(&json)?;
    let fds: Vec<OwnedFd> =
        numbers.region.iter().map(|number| inherit(*number)).collect::<io::Result<_>>()?;
    let all = fds.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let region = Region::map(&Fds::from_all(all), setup.cell_workers)?;
    let control = UnixStream::from(inherit(numbers.control)?);
    let sockets = numbers.sockets.iter().map(|number| Ok(TcpListener::from(inherit(*number)?)));
    let sockets = sockets.collect::<io::Result<_>>()?;
    let log = inherit(numbers.log)?;
    Ok(Inheritance { setup, region, sockets, control, log })
}
