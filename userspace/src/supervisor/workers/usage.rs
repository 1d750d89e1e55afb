//! What a process has of the machine.

use std::time::Duration;

use super::wear;

/// What a process has of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Memory in RAM, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in user space and in the kernel.
    pub cpu: Duration,
}

/// What a process has; `None` if it is no more.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let memory_bytes = wear::memory(pid)?;
    // The name may have anything in it; what follows its last bracket is numbers (proc_pid_stat(5)).
    let mut fields = stat.rsplit(") ").next()?.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let used = ticks()? + ticks()?;
    let cpu = Duration::from_secs(used) / u32::try_from(crate::sys::ticks_per_second()).ok()?;
    Some(Usage { memory_bytes, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time() {
        let before = usage(std::process::id()).unwrap();
        let mut spins = 0_u64;
        while usage(std::process::id()).unwrap().cpu == before.cpu {
            spins += 1;
        }
        assert!(spins < u64::MAX && before.memory_bytes > 1 << 20);
        assert!(usage(u32::MAX).is_none());
    }
}
