//! Every change of a backend's state, as it shows in the pinned tables.
//!
//! A look at the tables takes a microsecond and comes every half a millisecond, so a change is known to
//! have come between two looks, and what was short-lived within them is missed. What is asserted are
//! intervals in which *every* look saw the same.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use steerage::region::{Region, figures};
use steerage_common::health::State;
use steerage_common::slot::Slot;

use crate::pinned;

const PAUSE: Duration = Duration::from_micros(500);

/// A change of one backend.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The last look that saw what was before.
    pub after: Instant,
    /// The first look that saw this.
    pub seen: Instant,
    /// The backend, from number 1.
    pub backend: u8,
    /// Its state.
    pub state: State,
    /// Whether it takes new work.
    pub accepts_new: bool,
    /// Its ejections that count.
    pub ejections: u8,
}

/// Somebody who looks; dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    region: Arc<Region>,
    slots: Vec<Slot>,
    changes: Arc<Mutex<Vec<Change>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the backends at these slots, number 1 first.
    ///
    /// # Errors
    /// If the tables are not pinned there.
    pub fn start(pins: &Path, slots: Vec<Slot>) -> Result<Self> {
        // Nobody looks at these figures.
        let fds = pinned::fds(pins, figures::memory(1)?)?;
        let region = Arc::new(Region::map(&fds, 1).context("cannot map the pinned tables")?);
        let changes = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (region, slots) = (Arc::clone(&region), slots.clone());
            let (changes, is_over) = (Arc::clone(&changes), Arc::clone(&is_over));
            move || look(&region, &slots, &changes, &is_over)
        });
        Ok(Self { region, slots, changes, is_over, thread: Some(thread) })
    }

    /// A backend's state now.
    #[must_use]
    pub fn state(&self, backend: u8) -> State {
        self.region.word(self.slot(backend)).state()
    }

    /// Whether it takes new work now.
    #[must_use]
    pub fn accepts_new(&self, backend: u8) -> bool {
        self.region.accepts_new(self.slot(backend))
    }

    /// What changed since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Vec<Change> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().filter(|change| change.seen >= moment).copied().collect()
    }

    fn slot(&self, backend: u8) -> Slot {
        self.slots[usize::from(backend) - 1]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(region: &Region, slots: &[Slot], changes: &Mutex<Vec<Change>>, is_over: &AtomicBool) {
    let at = |slot: &Slot| {
        let word = region.word(*slot);
        (word.state(), region.accepts_new(*slot), word.ejections())
    };
    let mut known: Vec<_> = slots.iter().map(at).collect();
    let mut after = Instant::now();
    while !is_over.load(Ordering::SeqCst) {
        std::thread::sleep(PAUSE);
        let before = Instant::now();
        for ((backend, slot), known) in (1..).zip(slots).zip(&mut known) {
            let now = at(slot);
            if now != *known {
                *known = now;
                let (state, accepts_new, ejections) = now;
                let seen = Instant::now();
                let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
                changes.push(Change { after, seen, backend, state, accepts_new, ejections });
            }
        }
        after = before;
    }
}
