//! What systemd is told, and what it keeps: `Type=notify-reload`, the watchdog, socket activation, and the
//! store of descriptors (sd_notify(3), sd_listen_fds(3)). Without systemd nothing here does anything.
//!
//! Listening sockets are kept in the store, so that what waits in them survives even if every process of
//! the service is killed: the next start finds them as it finds those of a socket unit.

use std::net::TcpListener;
use std::os::fd::AsFd as _;

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use super::handover::PassedSocket;
use super::listeners::Listening;
use crate::config::Model;
use crate::sys;

/// Says that the daemon serves. It may be another process than the one that systemd started.
pub fn ready(summary: &str) {
    let pid = NotifyState::MainPid(std::process::id());
    tell(&[NotifyState::Ready, pid, NotifyState::Status(summary)]);
}

/// Says that a reload has begun; [`ready`] follows, whatever comes of it.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that the daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows that the event loop turns, as often as systemd wants to know; for ever.
pub async fn pat_the_watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut turns = tokio::time::interval(patience / 2);
    loop {
        turns.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// The sockets that systemd hands over, for those addresses of `model` that they listen at; those that
/// nobody asks for are closed.
pub fn sockets(model: &Model) -> Vec<(PassedSocket, TcpListener)> {
    let numbers = match sd_notify::listen_fds() {
        Ok(numbers) => numbers,
        Err(error) => {
            warn!(%error, "systemd's sockets are not understood: LISTEN_FDS or LISTEN_PID is wrong");
            return Vec::new();
        }
    };
    let sockets = numbers.filter_map(|number| sys::inherit(number).ok()).map(TcpListener::from);
    let wanted: Vec<_> =
        model.listeners.iter().flat_map(|listener| listener.bind.iter().copied()).collect();
    let mut passed: Vec<(PassedSocket, TcpListener)> = Vec::new();
    for socket in sockets {
        let Ok(asked) = socket.local_addr() else {
            warn!("systemd hands over what is no TCP socket: closed");
            continue;
        };
        if !wanted.contains(&asked) {
            info!(address = %asked, "a socket of systemd's is of no listener: closed");
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name(&asked.to_string()))]);
            continue;
        }
        let worker = passed.iter().filter(|(known, _)| known.asked == asked).count();
        passed.push((PassedSocket { listener: String::new(), asked, nth: 0, worker }, socket));
    }
    if !passed.is_empty() {
        info!(count = passed.len(), "listening sockets come from systemd");
    }
    passed
}

/// Has systemd keep the sockets of `model`, and no others that it kept for `former`.
pub fn keep(model: &Model, listening: &Listening, former: Option<&Model>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() || std::env::var_os("FDSTORE").is_none() {
        return;
    }
    let addresses = |model: &Model| -> Vec<_> {
        model.listeners.iter().flat_map(|listener| listener.bind.clone()).collect()
    };
    let (now, before) = (addresses(model), former.map(addresses).unwrap_or_default());
    for gone in before.iter().filter(|address| !now.contains(address)) {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name(&gone.to_string()))]);
    }
    let Ok(sockets) = listening.pass_on(model) else { return };
    for (told, socket) in sockets.iter().filter(|(told, _)| !before.contains(&told.asked)) {
        // One that is kept already is not kept twice (fstat, fdstore_match).
        let name = name(&told.asked.to_string());
        let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
        if let Err(error) = sd_notify::notify_with_fds(&state, &[socket.as_fd()]) {
            warn!(%error, "systemd does not keep the listening sockets");
            return;
        }
    }
}

/// An address as a descriptor's name, which may have no colon.
fn name(address: &str) -> String {
    address.replace(':', "_")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd cannot be told");
    }
}
