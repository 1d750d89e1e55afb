//! What a worker may do to its host: as little as it needs.
//!
//! Three steps, from the outside in. [`confine`] is done between fork and exec: another user, no
//! capability in any set, nothing regained by exec. [`seal`] is done by the worker for itself after exec:
//! no debugger, no core file (it would hold clients' bytes). [`forbid`] comes when the event loop stands: a
//! list of system calls, with what they may be told; all others fail with EPERM, and the worker says
//! which ([`super::refused`]: most kernels keep no record). They fail rather than end the worker: a call
//! that a new C library makes and the list does not have is then a line in the log and not an outage.
//!
//! io_uring does not ask seccomp. So a ring takes only the operations that the worker has
//! ([`super::ring`]), and no other ring can be made.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Gid, Pid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::{
    SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Account, keep_over_exec, refused};

/// Makes the command run without privilege, on one CPU, deaf to the terminal's interrupt, with the
/// given descriptors left open.
pub fn confine(
    command: &mut Command,
    account: Option<Account>,
    cpu: Option<usize>,
    keep: &[BorrowedFd<'_>],
) {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        for fd in &keep {
            // SAFETY: the parent holds these descriptors open until it has spawned the child.
            keep_over_exec(unsafe { BorrowedFd::borrow_raw(*fd) })?;
        }
        // Ctrl-C in a terminal reaches the whole process group; only the supervisor acts on it.
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        // The supervisor's, to open a log anew: whoever tells all processes of the name ends no worker.
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGUSR1, SigHandler::SigIgn) }?;
        if let Some(cpu) = cpu {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
        }
        drop_privileges(account)
    };
    // SAFETY: between fork and exec only system calls are made, on values that were computed before:
    // no allocation and no lock.
    unsafe { command.pre_exec(prepare) };
}

fn drop_privileges(account: Option<Account>) -> io::Result<()> {
    // Only root has the sets to take from.
    if let Some(account) = account {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            // The kernel knows fewer than there are bits.
            if rustix::thread::capability_is_in_bounding_set(capability).is_ok() {
                rustix::thread::remove_capability_from_bounding_set(capability)?;
            }
        }
        nix::unistd::setgroups(&[])?;
        let (user, group) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

/// Keeps debuggers of the same user out of this process, and its memory out of files.
///
/// # Errors
/// If the kernel refuses.
pub fn seal() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// What becomes of a call that is not on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It fails with EPERM and is told of on standard error, the first time.
    Fails,
    /// It ends the process, so that a test sees that the list is not whole.
    Kills,
}

/// Lets the calling thread make no other system calls than a worker needs, from now on.
///
/// # Errors
/// If the kernel has no seccomp, or this kind of processor is unknown to the filter's compiler.
pub fn forbid(otherwise: Otherwise) -> io::Result<()> {
    let denied = match otherwise {
        Otherwise::Fails => {
            refused::tell()?;
            SeccompAction::Trap
        }
        Otherwise::Kills => SeccompAction::KillProcess,
    };
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let mut rules = rules().map_err(io::Error::other)?;
    if otherwise == Otherwise::Fails {
        rules.extend(DEAF.iter().chain(DEAF_HERE).map(|number| (*number, Vec::new())));
    }
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch);
    let program: seccompiler::BpfProgram =
        filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    if otherwise == Otherwise::Fails {
        install(&deaf_calls(arch).map_err(io::Error::other)?)?;
    }
    install(&program)
}

/// Makes processes and threads fail without a word. The C library blocks all signals while it makes one,
/// and a trap that nobody can take ends the process.
fn deaf_calls(arch: TargetArch) -> Result<seccompiler::BpfProgram, seccompiler::BackendError> {
    let calls = DEAF.iter().chain(DEAF_HERE).map(|number| (*number, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(calls, SeccompAction::Allow, denied, arch)?.try_into()
}

fn install(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const seccompiler::sock_filter,
    }
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program { len, filter: program.as_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel reads the program, which lives through the call and is as `struct sock_fprog`.
    let outcome = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that may be told anything.
const FREE: &[libc::c_long] = &[
    // Connections. They are made by `socket`, which is limited below.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_splice,
    libc::SYS_pipe2,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_ppoll,
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_io_uring_enter,
    // Memory. `mmap` and `mprotect` are limited below.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Time, locks, signals, the end.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
];

/// The same by the names that only this kind of processor has.
#[cfg(target_arch = "x86_64")]
const FREE_HERE: &[libc::c_long] =
    &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_readlink, libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const FREE_HERE: &[libc::c_long] = &[];

/// Calls that make processes and threads: see [`deaf_calls`].
const DEAF: &[libc::c_long] =
    &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_execve, libc::SYS_execveat];
#[cfg(target_arch = "x86_64")]
const DEAF_HERE: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const DEAF_HERE: &[libc::c_long] = &[];

/// `PR_SET_VMA`: allocators name their memory with it.
const PR_SET_VMA: u64 = 0x5356_4d41;

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules =
        FREE.iter().chain(FREE_HERE).map(|number| (*number, Vec::new())).collect();
    let is = |argument, value| SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value);
    let masked = |argument, mask, value| {
        SeccompCondition::new(argument, Dword, SeccompCmpOp::MaskedEq(mask), value)
    };
    let rule = SeccompRule::new;
    // Streams over TCP: no raw, packet, netlink or local sockets.
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [0, libc::IPPROTO_TCP] {
            let kind = masked(1, 0xf, libc::SOCK_STREAM as u64)?;
            sockets.push(rule(vec![is(0, family as u64)?, kind, is(2, protocol as u64)?])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    // No memory becomes code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(vec![masked(2, libc::PROT_EXEC as u64, 0)?])?]);
    }
    // Files are read, and none is made.
    let writes = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
    let reads = masked(2, writes, libc::O_RDONLY as u64)?;
    rules.insert(libc::SYS_openat, vec![rule(vec![reads])?]);
    rules.insert(libc::SYS_ioctl, vec![rule(vec![is(1, libc::FIONBIO)?])?]);
    // Only itself: abort.
    rules.insert(libc::SYS_tgkill, vec![rule(vec![is(0, std::process::id().into())?])?]);
    rules.insert(libc::SYS_prctl, vec![rule(vec![is(0, PR_SET_VMA)?])?]);
    Ok(rules)
}
