//! System calls that no crate of ours wraps safely, and the few that `nix` does, in our terms.
#![allow(unsafe_code)]

pub mod confine;
mod refused;
pub mod ring;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, Uid, User};
use tokio::io::ReadBuf;

/// The monotonic clock.
#[must_use]
pub fn monotonic() -> Duration {
    // The clock exists on every Linux and the call has no other failure.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or(4096)
}

/// The kernel's ticks in a second, in which it tells of processor time.
#[must_use]
pub fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| ticks.try_into().ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The file that this process was started from, by its name: whatever has been put in its place since.
#[must_use]
pub fn binary() -> std::path::PathBuf {
    let path = std::env::current_exe().unwrap_or_default();
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => path.into(),
        None => path,
    }
}

/// Takes the socket that this process has as its standard input, and leaves nothing there.
///
/// # Errors
/// If it is none, or there is no descriptor left.
pub fn take_input() -> io::Result<std::os::unix::net::UnixStream> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::net::sockopt::socket_type(&input)?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(input.into())
}

/// Whom this process acts as.
#[must_use]
pub fn user() -> u32 {
    Uid::effective().as_raw()
}

/// A user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Looks a user up by name.
///
/// # Errors
/// If the user database could not be read.
pub fn account(name: &str) -> io::Result<Option<Account>> {
    let user = User::from_name(name)?;
    Ok(user.map(|user| Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

/// The CPUs that this process may run on.
///
/// # Errors
/// If the kernel refuses to tell.
pub fn cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Lets the calling thread run before every ordinary one of this host (`SCHED_RR`), or, where the
/// kernel keeps that from root as well, with the precedence of `nice -n -10`.
///
/// # Errors
/// If the kernel refuses both: to all but root.
pub fn prefer_thread() -> io::Result<()> {
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameter, which lives through the call. On Linux a process of 0
    // is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const lowest) } == 0 {
        return Ok(());
    }
    // SAFETY: the call takes numbers alone.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that the other end of a TCP connection has acknowledged (`tcpi_bytes_acked`, Linux 4.1),
/// without the one that stands for the SYN of a connection that this end opened.
///
/// # Errors
/// If the kernel does not tell.
pub fn bytes_acknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    /// Where `tcpi_bytes_acked` stands in `struct tcp_info` (include/uapi/linux/tcp.h), which libc's
    /// ends before.
    const BYTES_ACKED: usize = 120;
    tcp_info::<{ BYTES_ACKED + 8 }>(socket)?
        .last_chunk()
        .map(|bytes| u64::from_ne_bytes(*bytes).saturating_sub(1))
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Connections that wait in the queue of a listening socket (`tcpi_unacked`, inet_diag(7)).
///
/// # Errors
/// If the kernel does not tell.
pub fn queued(listener: BorrowedFd<'_>) -> io::Result<u32> {
    /// Where `tcpi_unacked` stands in `struct tcp_info`.
    const UNACKED: usize = 24;
    tcp_info::<{ UNACKED + 4 }>(listener)?
        .last_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Bytes of a TCP connection that the kernel has taken to send and the other end has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// How many bytes the other end has acknowledged before.
    pub acknowledged: u64,
}

/// What of a TCP connection is still on its way (`tcpi_unacked`, `tcpi_notsent_bytes`, Linux 4.6); `None`
/// if that is nothing.
///
/// # Errors
/// If the kernel does not tell.
pub fn in_flight(socket: BorrowedFd<'_>) -> io::Result<Option<InFlight>> {
    /// Where they stand in `struct tcp_info`.
    const UNACKED: usize = 24;
    const BYTES_ACKED: usize = 120;
    const NOT_SENT: usize = 144;
    let info = tcp_info::<{ NOT_SENT + 4 }>(socket)?;
    let at = |from: usize| info.get(from..).unwrap_or_default();
    let is_any = |from: usize| at(from).first_chunk() != Some(&[0; 4]);
    let acknowledged = at(BYTES_ACKED).first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok((is_any(UNACKED) || is_any(NOT_SENT)).then_some(InFlight { acknowledged }))
}

/// The first bytes of a socket's `struct tcp_info`.
fn tcp_info<const BYTES: usize>(socket: BorrowedFd<'_>) -> io::Result<[u8; BYTES]> {
    let mut info = [0_u8; BYTES];
    let mut length = BYTES as libc::socklen_t;
    // SAFETY: the kernel writes `length` bytes at most to the array, which lives through the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match outcome {
        0 if length as usize == BYTES => Ok(info),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the limit of open files as far as this process may.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Memory that is shared by passing its descriptor, zeroed.
///
/// # Errors
/// If there is no memory or no descriptor left.
pub fn shared_memory(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(CString::new(name)?.as_c_str(), MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&fd, bytes.try_into().map_err(io::Error::other)?)?;
    Ok(fd)
}

/// Memory that is shared by passing its descriptor, with these bytes, which nobody can change any more.
///
/// # Errors
/// If there is no memory or no descriptor left.
pub fn sealed_memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = std::fs::File::from(memfd_create(CString::new(name)?.as_c_str(), flags)?);
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)?;
    let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all | SealFlag::F_SEAL_SEAL))?;
    Ok(file.into())
}

/// Lets a child keep this descriptor over `exec`.
///
/// # Errors
/// If the descriptor is not open.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes a descriptor that the parent process left open for us.
///
/// # Errors
/// If no such descriptor is open.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks for flags; a number that is not a descriptor is answered with EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by the hand-over protocol (supervisor::spawn names each
    // number once) nobody else in this process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// Receives what a socket has, as far as the buffer has room; tells how many bytes.
///
/// # Errors
/// As `recv(2)`.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: nothing is taken out of the unfilled part.
    let room = unsafe { buffer.unfilled_mut() };
    // SAFETY: the kernel writes at most the room's length.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) };
    let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
    // SAFETY: so many bytes have been written.
    unsafe { buffer.assume_init(received) };
    buffer.advance(received);
    Ok(received)
}

/// Names this process in `ps` and `top`; at most 15 bytes count.
///
/// # Errors
/// If the name has a zero byte.
pub fn name_process(name: &str) -> io::Result<()> {
    nix::sys::prctl::set_name(CString::new(name)?.as_c_str())?;
    Ok(())
}

/// A time of day, where this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// From 0.
    pub month: usize,
    /// Of the month, from 1.
    pub day: u8,
    /// From 0.
    pub hour: u8,
    /// From 0.
    pub minute: u8,
    /// From 0.
    pub second: u8,
}

/// What clocks here showed so many seconds after the epoch.
#[must_use]
pub fn local_time(since_epoch: u64) -> LocalTime {
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    let seconds = since_epoch as libc::time_t;
    // SAFETY: the call reads the one and writes the other; a `tm` of zeros is valid if it fails.
    let parts = unsafe {
        libc::localtime_r(&raw const seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    LocalTime {
        month: parts.tm_mon as usize,
        day: parts.tm_mday as u8,
        hour: parts.tm_hour as u8,
        minute: parts.tm_min as u8,
        second: parts.tm_sec as u8,
    }
}

/// A random number, for jitter: not for secrets.
#[must_use]
pub fn random_u32() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds each state from the system's randomness and counts on from there.
    RandomState::new().hash_one(monotonic()) as u32
}
