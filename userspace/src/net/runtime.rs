//! One thread, one event loop.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinHandle;

use super::{clock, deadline, turn};

/// Runs `main` and everything it spawns on this thread until `main` is done.
///
/// # Errors
/// If the event loop can't be made (no descriptors left).
pub fn run<F: Future>(main: F) -> io::Result<F::Output> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(turn::end)
        .on_thread_unpark(|| {
            clock::refresh();
        })
        .build_local(LocalOptions::default())?;
    clock::refresh();
    let output = runtime.block_on(async {
        spawn(tick());
        main.await
    });
    turn::end();
    Ok(output)
}

/// Runs `task` beside the others of this thread.
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(task)
}

/// Waits, to the millisecond.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

async fn tick() {
    let mut interval = tokio::time::interval(deadline::TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        clock::refresh();
        deadline::wake_due();
    }
}
