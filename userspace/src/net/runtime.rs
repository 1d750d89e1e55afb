//! One thread, one event loop.

use std::future::poll_fn;
use std::io;
use std::panic::resume_unwind;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinHandle;

use super::{clock, deadline, reactor, sleep, turn};

/// Which engine moves the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    /// io_uring where the kernel is new enough and allows it, epoll elsewhere.
    #[default]
    Auto,
    /// epoll.
    Epoll,
    /// io_uring.
    IoUring,
}

/// Runs `main` and everything it spawns on this thread until `main` is done.
///
/// # Errors
/// If the event loop can't be made (no descriptors left, or no io_uring although it was asked for).
pub fn run<F>(io: Io, main: F) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    match io {
        Io::Epoll => {}
        Io::IoUring => reactor::start()?,
        Io::Auto => {
            if let Err(error) = reactor::start() {
                tracing::info!(%error, "no io_uring here: using epoll");
            }
        }
    }
    let runtime = runtime().inspect_err(|_| reactor::stop())?;
    clock::refresh();
    let output = runtime.block_on(async {
        spawn(tick());
        let mut main = spawn(main);
        poll_fn(|cx| {
            reactor::set_root(cx.waker());
            Pin::new(&mut main).poll(cx)
        })
        .await
    });
    turn::end();
    // Drops what is still under way, and with it the streams.
    drop(runtime);
    reactor::stop();
    turn::unwatch();
    output.map_err(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(error) => io::Error::other(error),
    })
}

fn runtime() -> io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    if reactor::is_running() {
        builder.on_thread_park(reactor::park);
    } else {
        builder
            .enable_all()
            .on_thread_park(|| {
                turn::end();
                turn::tell(0);
            })
            .on_thread_unpark(|| turn::tell(clock::refresh()));
    }
    builder.build_local(LocalOptions::default())
}

/// Runs `task` beside the others of this thread.
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    reactor::note_runnable();
    tokio::task::spawn_local(task)
}

async fn tick() {
    loop {
        sleep(deadline::TICK).await;
        clock::refresh();
        deadline::wake_due();
    }
}
