//! The workers' lines in the shared region: who has which, and what a dead worker leaves in its.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use steerage_common::limits::{SLOTS, WORKERS};
use steerage_common::slot::Slot;

use crate::region::Region;

/// The lines that no worker of this daemon has.
#[derive(Debug)]
pub struct Lines {
    region: Arc<Region>,
    spare: Mutex<Vec<usize>>,
}

impl Lines {
    /// Gives `count` lines out, cleared: those that no living worker of an earlier daemon uses. If there are
    /// not so many, as when several daemons died in quick succession, the last ones are shared with
    /// workers that drain.
    #[must_use]
    pub fn share_out(region: Arc<Region>, count: usize) -> (Vec<usize>, Self) {
        let all = 0..region.cell_workers().min(WORKERS);
        let (used, free): (Vec<_>, Vec<_>) = all.partition(|line| is_used(&region, *line));
        let mut given: Vec<usize> = free.into_iter().chain(used).collect();
        let spare = given.split_off(count.min(given.len()));
        for line in &given {
            clear(&region, *line);
        }
        (given, Self { region, spare: Mutex::new(spare) })
    }

    /// A line for one more worker; `None` while all are in use.
    #[must_use]
    pub fn claim(&self) -> Option<usize> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let free = spare.iter().position(|line| !is_used(&self.region, *line))?;
        let line = spare.swap_remove(free);
        clear(&self.region, line);
        Some(line)
    }

    /// Clears what dead workers of former daemons left: nobody waited for their ends.
    pub fn sweep(&self) {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        for line in &*spare {
            let pid = self.region.worker(*line).pid.load(Ordering::Relaxed);
            if pid != 0 && !is_used(&self.region, *line) {
                clear(&self.region, *line);
            }
        }
    }

    /// Takes the line of a worker that is no more back.
    pub fn give_back(&self, line: usize) {
        clear(&self.region, line);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// The places of workers' sockets in the kernel's table: those of a former daemon's workers stay, as their
/// sockets do; further ones take places that nobody has.
#[must_use]
pub fn seats(lines: &[usize], former: &[usize]) -> Vec<usize> {
    let mut seats: Vec<usize> = former.iter().copied().take(lines.len()).collect();
    let mut others = lines.iter().copied().chain(0..WORKERS);
    while seats.len() < lines.len() {
        let Some(other) = others.next() else { break };
        if !seats.contains(&other) && !former.contains(&other) {
            seats.push(other);
        }
    }
    seats
}

fn is_used(region: &Region, line: usize) -> bool {
    let pid = region.worker(line).pid.load(Ordering::Relaxed);
    pid != 0 && std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Clears a worker's line and gauges; counters stay. From the first store on the kernel sends the
/// worker no more connections.
pub fn clear(region: &Region, line: usize) {
    region.set_live(line, false);
    let worker = region.worker(line);
    worker.connections.store(0, Ordering::Relaxed);
    worker.active_requests.store(0, Ordering::Relaxed);
    worker.busy_since_us.store(0, Ordering::Relaxed);
    worker.full.store(0, Ordering::Relaxed);
    worker.pending.store(0, Ordering::Relaxed);
    for slot in (0..SLOTS as u16).filter_map(Slot::new) {
        let cell = region.cell(line, slot);
        cell.active.store(0, Ordering::Relaxed);
        cell.idle.store(0, Ordering::Relaxed);
        cell.connections.store(0, Ordering::Relaxed);
        cell.tunnels.store(0, Ordering::Relaxed);
    }
    region.clear_listeners(line);
    region.clear_clients(line);
    worker.pid.store(0, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_worker_at_a_time_and_none_of_a_living_stranger() {
        let region = Arc::new(Region::in_memory(6).unwrap());
        // Somebody of an earlier daemon who lives, and somebody who does not.
        region.worker(1).pid.store(std::process::id(), Ordering::Relaxed);
        region.worker(2).pid.store(u32::MAX, Ordering::Relaxed);
        region.worker(2).active_requests.store(7, Ordering::Relaxed);
        let (given, lines) = Lines::share_out(region.clone(), 3);
        assert_eq!(given, [0, 2, 3]);
        assert_eq!(region.worker(2).active_requests.load(Ordering::Relaxed), 0);
        let (one, other) = (lines.claim().unwrap(), lines.claim().unwrap());
        assert_eq!([one.min(other), one.max(other)], [4, 5]);
        assert_eq!(lines.claim(), None, "the living stranger keeps its line");
        lines.give_back(one);
        assert_eq!(lines.claim(), Some(one));
        region.worker(1).pid.store(0, Ordering::Relaxed);
        assert_eq!(lines.claim(), Some(1));
    }

    #[test]
    fn what_dead_strangers_left_is_swept_away() {
        let region = Arc::new(Region::in_memory(3).unwrap());
        let client = region.client(1, [192, 0, 2, 1].into());
        for (line, pid) in [(1, std::process::id()), (2, std::process::id())] {
            region.worker(line).pid.store(pid, Ordering::Relaxed);
            region.admit_client(line, client, 2).unwrap();
        }
        let (given, lines) = Lines::share_out(region.clone(), 1);
        assert_eq!(given, [0]);
        lines.sweep();
        assert!(region.admit_client(0, client, 2).is_err(), "both live");
        region.worker(2).pid.store(u32::MAX, Ordering::Relaxed);
        lines.sweep();
        assert_eq!(region.worker(2).pid.load(Ordering::Relaxed), 0);
        assert!(region.admit_client(0, client, 2).is_ok());
    }

    #[test]
    fn places_at_sockets_stay_with_the_sockets() {
        assert_eq!(seats(&[0, 1], &[]), [0, 1]);
        assert_eq!(seats(&[2, 3], &[0, 1]), [0, 1]);
        assert_eq!(seats(&[2, 3, 4], &[5, 2]), [5, 2, 3]);
        assert_eq!(seats(&[2], &[0, 1]), [0]);
        assert_eq!(seats(&[1, 2], &[1]), [1, 2]);
    }
}
