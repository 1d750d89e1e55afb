//! The supervisor: root, no client bytes. It makes what must exist before the first packet, keeps
//! the workers running, and answers questions.
//!
//! Start, in the order in which things can fail without a trace: the claim to the instance, the
//! listening sockets, the links; then the pinned tables (removed again if this start made them and
//! fails), the first round of probes, the programs on their links, the workers. Only when all workers
//! serve does this supervisor's epoch become the instance's: workers that a killed supervisor left
//! behind see it and drain.
//!
//! Stop: workers drain, sockets go, pins stay. L4 forwarding goes on until `steerage detach`.

mod claim;
mod error;
pub mod inherit;
mod listeners;
mod network;
mod orders;
mod plane;
mod publish;
mod slots;
mod view;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use steerage_common::abi::SCHEMA_VERSION;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::claim::Claim;
use self::listeners::Sockets;
use self::plane::Plane;
use self::view::View;
use self::workers::{Phase, Post};
use crate::admin::server::{bind_admin, serve_admin, serve_metrics};
use crate::config::Model;
use crate::health::{Prober, Subscriber, targets};
use crate::kernel::{self, Kernel};
use crate::region::Group;
use crate::sys::{self, Account};
use crate::worker::Setup;

pub use error::Error;
pub use plane::instance_dir;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// If it could not start; nothing is left behind then.
pub fn run(model: Model) -> Result<(), Error> {
    let started = Instant::now();
    let claim = Claim::take(&model.global.pid_file)?;
    if let Err(error) = sys::raise_open_files() {
        warn!(%error, "the limit of open files stays as it is");
    }
    let front = Front::open(&model)?;
    let instance = instance_dir(&model);
    let pins_are_ours = !instance.exists();
    let outcome = serve(model, front, started);
    if outcome.is_err()
        && pins_are_ours
        && instance.exists()
        && let Err(error) = kernel::detach(&instance)
    {
        warn!(%error, "pins of the failed start could not be removed");
    }
    drop(claim);
    outcome
}

/// What clients and operators connect to, and who serves them: all that can fail for reasons outside
/// the kernel's tables.
struct Front {
    cpus: Vec<usize>,
    workers: usize,
    account: Option<Account>,
    sockets: Vec<Sockets>,
    metrics: Option<std::net::TcpListener>,
    admin: std::os::unix::net::UnixListener,
}

impl Front {
    fn open(model: &Model) -> Result<Self, Error> {
        let cpus = sys::cpus().map_err(Error::system("cannot list this process's CPUs"))?;
        let workers = model.global.workers.unwrap_or(cpus.len());
        let account = account(model)?;
        for vip in &model.vips {
            if !network::link_exists(&vip.interface) {
                let (vip, interface) = (vip.name.clone(), vip.interface.clone());
                return Err(Error::NoInterface { vip, interface });
            }
        }
        let sockets = listeners::bind(model, workers)?;
        let metrics = model.global.metrics.map(bind_metrics).transpose()?;
        let path = &model.global.admin;
        let admin =
            bind_admin(path).map_err(|source| Error::Admin { path: path.clone(), source })?;
        Ok(Self { cpus, workers, account, sockets, metrics, admin })
    }
}

/// Removes the admin socket when the daemon ends.
struct AdminPath<'a>(&'a Path);

impl Drop for AdminPath<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Who workers run as; `None` if this process is not root and can't choose.
fn account(model: &Model) -> Result<Option<Account>, Error> {
    if !sys::is_root() {
        return match &model.global.user {
            Some(user) => Err(Error::UserNeedsRoot(user.clone())),
            None => Ok(None),
        };
    }
    let look_up = |name: &str| sys::account(name).map_err(Error::system("cannot look users up"));
    match &model.global.user {
        Some(user) => look_up(user)?.map(Some).ok_or_else(|| Error::NoUser(user.clone())),
        None => match look_up("steerage")? {
            Some(account) => Ok(Some(account)),
            None => look_up("nobody")?.map(Some).ok_or_else(|| Error::NoUser("nobody".into())),
        },
    }
}

fn bind_metrics(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    let failed = |source| Error::Metrics { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn serve(model: Model, front: Front, started: Instant) -> Result<(), Error> {
    let admin_path = model.global.admin.clone();
    let _admin_path = AdminPath(&admin_path);
    let worker_lines = 2 * front.workers;
    let plane = Plane::open(&model, worker_lines)?;
    let region = plane.region.clone();
    region.control().schema_version.store(SCHEMA_VERSION, Ordering::Relaxed);
    region.control().supervisor_pid.store(std::process::id(), Ordering::Relaxed);
    let published = publish::publish(&model, &region, plane.kernel.as_deref())?;
    let prober = start_prober(&model, &published, &plane)?;
    let links = attach(&published, plane.kernel.as_deref())?;

    let epoch = region.control().supervisor_epoch.load(Ordering::Relaxed).wrapping_add(1);
    let first_line = workers::free_lines(&region, front.workers);
    let addresses = addresses(&model, &front.sockets);
    let surfaces = (front.admin, front.metrics);
    let crew = Crew { cpus: &front.cpus, account: front.account, first_line, epoch };
    let posts = posts(&model, &published, &plane, &crew, front.sockets);
    let view = Arc::new(View {
        model,
        published,
        region: region.clone(),
        kernel: plane.kernel.clone(),
        prober,
        addresses,
        links,
        started,
        supervisor_epoch: epoch,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot make the supervisor's event loop"))?;
    let forwards = !view.links.is_empty();
    runtime.block_on(supervise(view, posts, surfaces, plane.kernel))?;
    if forwards {
        info!("stopped; L4 forwarding goes on until `steerage detach`");
    } else {
        info!("stopped");
    }
    Ok(())
}

fn start_prober(
    model: &Model,
    published: &publish::Published,
    plane: &Plane,
) -> Result<Arc<Prober>, Error> {
    let services = model.services.iter().zip(&published.tenants).zip(&published.lines);
    let backends = services.flat_map(|((service, tenants), line)| {
        let group = Arc::new(Group::new(service, tenants, *line));
        service.backends.iter().zip(tenants).map(move |(backend, tenant)| {
            let subscriber = Subscriber {
                group: group.clone(),
                backend: backend.address,
                tenant: *tenant,
                policy: service.policy(),
            };
            (service.probe.as_ref().map(|probe| &probe.check), subscriber)
        })
    });
    Prober::start(plane.region.clone(), targets(backends))
        .map(Arc::new)
        .map_err(Error::system("cannot start the prober's thread"))
}

/// Puts the program on its links; gives the mode on each.
fn attach(
    published: &publish::Published,
    kernel: Option<&Mutex<Kernel>>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut links = BTreeMap::new();
    let Some(kernel) = kernel else { return Ok(links) };
    let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
    for interface in &published.interfaces {
        let mode = kernel.attach(interface)?;
        info!(interface, %mode, "XDP program attached");
        links.insert(interface.clone(), mode.to_string());
    }
    Ok(links)
}

fn addresses(model: &Model, sockets: &[Sockets]) -> Vec<Vec<SocketAddr>> {
    let mut addresses = vec![Vec::new(); model.listeners.len()];
    // All workers share the same addresses.
    for (listener, socket) in sockets.iter().take(1).flatten() {
        addresses[*listener].extend(socket.local_addr());
    }
    addresses
}

/// Who and where the workers are.
struct Crew<'a> {
    cpus: &'a [usize],
    account: Option<Account>,
    first_line: usize,
    epoch: u32,
}

/// The workers' posts, one for each set of sockets.
fn posts(
    model: &Model,
    published: &publish::Published,
    plane: &Plane,
    crew: &Crew<'_>,
    sockets: Vec<Sockets>,
) -> Vec<Post> {
    let workers = sockets.len();
    let post = |(number, sockets): (usize, Sockets)| {
        let line = crew.first_line + number;
        workers::clear_line(&plane.region, line);
        Post {
            number,
            setup: Setup {
                id: line,
                workers,
                cell_workers: plane.region.cell_workers(),
                model: model.clone(),
                tenants: published.tenants.clone(),
                service_lines: published.lines.clone(),
                supervisor_epoch: crew.epoch,
            },
            sockets,
            fds: plane.fds.clone(),
            region: plane.region.clone(),
            account: crew.account,
            cpu: crew.cpus.get(number % crew.cpus.len().max(1)).copied(),
            drain: model.global.drain,
        }
    };
    sockets.into_iter().enumerate().map(post).collect()
}

/// Starts the workers, then waits for signals.
async fn supervise(
    view: Arc<View>,
    posts: Vec<Post>,
    (admin, metrics): (std::os::unix::net::UnixListener, Option<std::net::TcpListener>),
    kernel: Option<Arc<Mutex<Kernel>>>,
) -> Result<(), Error> {
    let count = posts.len();
    let (phase, is_phase) = watch::channel(Phase::Running);
    let (ready, mut is_ready) = mpsc::channel(count.max(1));
    let mut interrupts = Signals::new().map_err(Error::system("cannot listen for signals"))?;
    let mut workers = JoinSet::new();
    for post in posts {
        workers.spawn(workers::keep(post, is_phase.clone(), ready.clone()));
    }
    drop(ready);
    for _ in 0..count {
        tokio::select! {
            Some(_) = is_ready.recv() => {}
            Some(Ok(Err(error))) = workers.join_next() => {
                stop_all(&phase, &mut workers).await;
                return Err(error);
            }
            () = interrupts.next() => return drained(&phase, &mut workers, &mut interrupts).await,
        }
    }
    let _servers = start_servers(&view, admin, metrics, kernel)?;
    view.region.control().supervisor_epoch.store(view.supervisor_epoch, Ordering::Release);
    info!(workers = count, generation = view.region.generation(), "ready");
    loop {
        tokio::select! {
            () = interrupts.next() => return drained(&phase, &mut workers, &mut interrupts).await,
            Some(outcome) = workers.join_next() => if let Ok(Err(error)) = outcome {
                // One post is lost; the others serve on.
                tracing::error!(%error, "a worker's post is given up");
            }
        }
    }
}

/// The admin socket, the metrics and the kernel's events; they end when the set is dropped.
fn start_servers(
    view: &Arc<View>,
    admin: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
    kernel: Option<Arc<Mutex<Kernel>>>,
) -> Result<JoinSet<()>, Error> {
    let mut servers = JoinSet::new();
    let view = view.clone();
    let admin = tokio::net::UnixListener::from_std(admin)
        .map_err(Error::system("cannot serve the admin socket"))?;
    servers.spawn(serve_admin(admin, view.clone()));
    if let Some(metrics) = metrics {
        let metrics = tokio::net::TcpListener::from_std(metrics)
            .map_err(Error::system("cannot serve metrics"))?;
        servers.spawn(serve_metrics(metrics, view));
    }
    if let Some(kernel) = kernel {
        let events = kernel::follow(&kernel)?;
        servers.spawn(events);
    }
    Ok(servers)
}

/// Drains; a second signal ends it at once.
async fn drained(
    phase: &watch::Sender<Phase>,
    workers: &mut JoinSet<Result<(), Error>>,
    interrupts: &mut Signals,
) -> Result<(), Error> {
    info!("stopping: workers finish what they have begun; a second signal stops at once");
    phase.send_replace(Phase::Draining);
    loop {
        tokio::select! {
            next = workers.join_next() => if next.is_none() {
                return Ok(());
            },
            () = interrupts.next() => {
                phase.send_replace(Phase::Killing);
            }
        }
    }
}

async fn stop_all(phase: &watch::Sender<Phase>, workers: &mut JoinSet<Result<(), Error>>) {
    phase.send_replace(Phase::Killing);
    while workers.join_next().await.is_some() {}
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
