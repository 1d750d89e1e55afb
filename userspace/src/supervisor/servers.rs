//! What the supervisor serves beside its workers: the admin socket, the metrics, the wishes of the kernel's
//! programs. The last two may be exchanged while it runs.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::view::View;
use super::{Error, instance_dir, offenders};
use crate::admin::server::{Subject, serve_admin, serve_metrics};
use crate::kernel::flows::Remembered;
use crate::kernel::{self, Kernel, Settler};

/// What is served, and where it is heard of other things in its place.
pub struct Opened {
    /// The admin socket.
    pub admin: UnixListener,
    /// Where metrics are served; `None` for nowhere.
    pub metrics: watch::Receiver<Option<Arc<TcpListener>>>,
    /// Another kernel half was loaded.
    pub loaded: watch::Receiver<()>,
}

/// Starts all of it; it ends when the set is dropped.
///
/// # Errors
/// If the system refuses.
pub fn start(view: &Arc<View>, doors: Opened) -> Result<JoinSet<()>, Error> {
    let mut servers = JoinSet::new();
    let admin = tokio::net::UnixListener::from_std(doors.admin)
        .map_err(Error::system("cannot serve the admin socket"))?;
    let subject = Subject::new(view.clone());
    servers.spawn(serve_admin(admin, subject.clone()));
    servers.spawn(metrics(doors.metrics, subject));
    if let Some(kernel) = &view.kernel {
        let tasks = follow(view, kernel)?;
        servers.spawn(kernels(tasks, doors.loaded, view.clone(), kernel.clone()));
    }
    Ok(servers)
}

/// Serves the metrics where they are to be served at the time.
async fn metrics(mut listeners: watch::Receiver<Option<Arc<TcpListener>>>, subject: Subject) {
    loop {
        let listener = listeners.borrow_and_update().clone();
        let own =
            listener.map(|shared| shared.try_clone().and_then(tokio::net::TcpListener::from_std));
        let served = async {
            match own {
                Some(Ok(listener)) => serve_metrics(listener, subject.clone()).await,
                Some(Err(error)) => warn!(%error, "metrics cannot be served"),
                None => {}
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = served => {}
            changed = listeners.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Begins what the kernel half needs to have done for it.
fn follow(view: &Arc<View>, kernel: &Arc<Mutex<Kernel>>) -> Result<JoinSet<()>, Error> {
    let mut tasks = JoinSet::new();
    tasks.spawn(kernel::follow(kernel)?);
    tasks.spawn(offenders::hold_back(kernel.clone(), view.region.clone()));
    let now = view.in_force();
    let idle = now.model.global.flow_idle.limits();
    let settler = Settler::new(Remembered::open(&instance_dir(&now.model))?, idle);
    tasks.spawn(kernel::settle(settler, kernel.clone(), view.region.clone()));
    Ok(tasks)
}

/// Does so anew whenever another kernel half was loaded.
async fn kernels(
    mut tasks: JoinSet<()>,
    mut loaded: watch::Receiver<()>,
    view: Arc<View>,
    kernel: Arc<Mutex<Kernel>>,
) {
    while loaded.changed().await.is_ok() {
        tasks.shutdown().await;
        match follow(&view, &kernel) {
            Ok(others) => tasks = others,
            Err(error) => error!(%error, "what the programs ask for is not heard"),
        }
    }
    // Nobody loads another one any more; this one goes on.
    while tasks.join_next().await.is_some() {}
}
