//! An operator's commands at the daemon's turning points: to announce a route, to tell a colleague.
//!
//! A command runs as root, without a shell, and has its time. Its failure is logged and changes nothing.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tracing::{info, warn};

use crate::config::model::Global;

/// How long a command may run.
const HOOK_PATIENCE: Duration = Duration::from_secs(30);

/// A turning point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// All workers serve.
    Start,
    /// Another configuration is in force.
    Reload,
    /// The daemon is about to drain.
    Shutdown,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Runs the command of a moment to its end, if there is one.
pub async fn run(global: &Global, moment: Moment, generation: u64) {
    let command = match moment {
        Moment::Start => &global.hooks.on_start,
        Moment::Reload => &global.hooks.on_reload,
        Moment::Shutdown => &global.hooks.on_shutdown,
    };
    let Some((program, arguments)) = command.split_first() else { return };
    let hook = format!("on_{}", moment.name());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("STEERAGE_EVENT", moment.name())
        .env("STEERAGE_INSTANCE", &global.instance)
        .env("STEERAGE_GENERATION", generation.to_string())
        .env("STEERAGE_PID", std::process::id().to_string())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let outcome = tokio::time::timeout(HOOK_PATIENCE, command.status()).await;
    match outcome {
        Ok(Ok(status)) if status.success() => info!(hook, program, "hook has run"),
        Ok(Ok(status)) => warn!(hook, program, %status, "hook failed"),
        Ok(Err(error)) => warn!(hook, program, %error, "hook cannot be started"),
        Err(_) => warn!(hook, program, "hook took longer than {HOOK_PATIENCE:?}: killed"),
    }
}
