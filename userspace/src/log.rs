//! The daemon's log, on standard error: what `journald` and containers collect.

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::model::{Log, LogFormat, LogLevel};

/// The filter of this process's log.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Begins to log.
pub fn start(log: Log) {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(is_coloured());
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines.with_target(false)).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    let _ = FILTER.set(handle);
}

/// Whether lines may have colours (<https://no-color.org>).
fn is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Logs from now on what is as grave as `level`. A process that does not log takes no notice.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        // Fails only once the log is gone.
        let _ = handle.modify(|now| *now = filter(level));
    }
}

/// Libraries tell no more than what concerns operators: their details would bury ours.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::INFO)).with_target("steerage", level)
}
