//! `steerage decap`: takes tunnels' packets out on a backend until it is told to stop.

use anyhow::Context as _;
use steerage::cli::Decap as Options;
use steerage::kernel::decap::Decapsulator;
use steerage_common::abi::Decap;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGTERM or SIGINT; SIGUSR1 prints the counters, as the end does.
///
/// # Errors
/// If the program can't be loaded or attached.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut decapsulator = Decapsulator::load(&options.vip, options.hook)?;
    for interface in &options.interface {
        decapsulator.attach(interface)?;
    }
    println!("ready: {}", options.interface.join(" "));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make an event loop")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = look.recv() => print(&decapsulator)?,
            }
        }
        print(&decapsulator)
    })
}

fn print(decapsulator: &Decapsulator) -> anyhow::Result<()> {
    for (what, count) in Decap::ALL.into_iter().zip(decapsulator.counts()?) {
        println!("{:<10} {count}", what.name());
    }
    Ok(())
}
