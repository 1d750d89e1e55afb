//! Those who look on while lines are written, as `steerage logs` does: nobody waits for them. Batches that one of
//! them does not take in time are left out for it, and it is told how many lines were in them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};

/// Batches that wait for one who looks on.
const BATCHES_MAX: usize = 64;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// Whether there are any: no lock is taken for nobody.
    any: AtomicBool,
    all: Mutex<Vec<Follower>>,
}

#[derive(Debug)]
struct Follower {
    batches: mpsc::Sender<Bytes>,
    /// Lines that were left out since the last batch that it got.
    left_out: usize,
}

impl Followers {
    /// One more, from now on.
    pub(super) fn join(&self) -> mpsc::Receiver<Bytes> {
        let (batches, receiver) = mpsc::channel(BATCHES_MAX);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who have gone while nothing was written.
        all.retain(|follower| !follower.batches.is_closed());
        all.push(Follower { batches, left_out: 0 });
        self.any.store(true, Ordering::Release);
        receiver
    }

    /// Shows them a batch of whole lines.
    pub(super) fn show(&self, batch: &[u8]) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let batch = Bytes::copy_from_slice(batch);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain_mut(|follower| follower.show(&batch));
        self.any.store(!all.is_empty(), Ordering::Release);
    }
}

impl Follower {
    /// Whether it is still there.
    fn show(&mut self, batch: &Bytes) -> bool {
        let shown = match self.left_out {
            0 => batch.clone(),
            left_out => Bytes::from([left_out_line(left_out).as_bytes(), batch].concat()),
        };
        match self.batches.try_send(shown) {
            Ok(()) => self.left_out = 0,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(_)) => {
                self.left_out += memchr::memchr_iter(b'\n', batch).count();
            }
        }
        true
    }
}

/// Says that so many lines are missing. No line of the log begins so: control characters are escaped there.
fn left_out_line(lines: usize) -> String {
    format!("\x1e{lines}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_slow_misses_lines_and_is_told_how_many() {
        let followers = Followers::default();
        followers.show(b"for nobody\n");
        let (mut slow, mut quick) = (followers.join(), followers.join());
        for _ in 0..BATCHES_MAX + 3 {
            followers.show(b"a\nb\n");
            assert_eq!(quick.try_recv().unwrap(), "a\nb\n");
        }
        for _ in 0..BATCHES_MAX {
            assert_eq!(slow.try_recv().unwrap(), "a\nb\n");
        }
        assert!(slow.try_recv().is_err());
        followers.show(b"c\n");
        assert_eq!(slow.try_recv().unwrap(), "\x1e6\nc\n");
        followers.show(b"d\n");
        assert_eq!(slow.try_recv().unwrap(), "d\n");
        drop((slow, quick));
        followers.show(b"e\n");
        assert!(!followers.any.load(Ordering::Relaxed), "nobody is left");
    }
}
