//! Which system calls a worker was refused.
//!
//! A filter that makes a call fail leaves no trace in most kernels: `SECCOMP_RET_ERRNO` is audited only
//! where somebody set `kernel.seccomp.actions_logged` so, and a container sees nothing of that. So the
//! filter traps (seccomp(2), `SECCOMP_RET_TRAP`): the call is not made, the thread gets SIGSYS with the
//! call's number, and our handler writes a line and has the call fail with EPERM, as if the filter had
//! said so. Each call is told of once for each process: what is refused again and again is a line, too.
//!
//! A signal that is blocked cannot be handled, and one that is forced then ends the process: the calls that
//! the C library makes with all signals blocked, those for processes and threads, fail without a word.
//!
//! The handler does what a signal handler may do: arithmetic on its own stack, atomics, `write`.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// System calls that are told apart: more than any kind of processor has.
const CALLS_MAX: usize = 1024;

/// Those that were told of.
static TOLD: [AtomicU64; CALLS_MAX / 64] = [const { AtomicU64::new(0) }; CALLS_MAX / 64];

/// Tells of refused calls from now on.
///
/// # Errors
/// If the kernel does not take the handler.
pub(super) fn tell() -> io::Result<()> {
    // SAFETY: zeros are a valid `sigaction`; `refuse` has the signature that SA_SIGINFO asks for and does
    // only what a handler may do.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refuse as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel says of a SIGSYS; `libc` has no names for these fields.
#[repr(C)]
struct Refusal {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    address: usize,
    call: i32,
    arch: u32,
}

extern "C" fn refuse(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives both to a handler with SA_SIGINFO: a `siginfo_t`, whose fields for this
    // signal are those of `Refusal` (siginfo.h), and the `ucontext_t` that the thread goes on with.
    let (refusal, context) =
        unsafe { (&*info.cast::<Refusal>(), &mut *context.cast::<libc::ucontext_t>()) };
    set_result(context, -libc::EPERM);
    let call = usize::try_from(refusal.call).unwrap_or(0) % CALLS_MAX;
    let is_new = TOLD[call / 64].fetch_or(1 << (call % 64), Ordering::Relaxed) >> (call % 64) & 1;
    if is_new == 0 {
        let line = line(refusal.call);
        // SAFETY: the bytes are those of `line`, which outlives the call. errno is as it was: the call that
        // is refused sets it when the handler has returned.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
}

/// What the refused call returns.
#[cfg(target_arch = "x86_64")]
fn set_result(context: &mut libc::ucontext_t, result: i32) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result.into();
}

/// What the refused call returns.
#[cfg(target_arch = "aarch64")]
fn set_result(context: &mut libc::ucontext_t, result: i32) {
    context.uc_mcontext.regs[0] = i64::from(result).cast_unsigned();
}

/// A line on the stack.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

fn line(call: i32) -> Line {
    let mut line = Line { bytes: [0; 256], len: 0 };
    let name = usize::try_from(call).ok().and_then(syscalls::Sysno::new);
    let _ = writeln!(
        line,
        "steerage worker {}: the system call {call} ({}) is not on the workers' list and was refused; \
         please report it; global.worker_seccomp = false does without the list",
        std::process::id(),
        name.map_or("unknown", |name| name.name()),
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_call_and_fits() {
        let text = |call| {
            let line = line(call);
            assert!(line.len < line.bytes.len());
            String::from_utf8(line.bytes[..line.len].to_vec()).unwrap()
        };
        let told = text(libc::SYS_ptrace as i32);
        assert!(told.contains("(ptrace) is not on the workers' list") && told.ends_with('\n'));
        assert!(text(100_000).contains("100000 (unknown)"));
    }
}
