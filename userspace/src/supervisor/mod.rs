//! The supervisor: root, no client bytes. It makes what must exist before the first packet, keeps
//! the workers running, and answers questions.
//!
//! Start, in the order in which things can fail without a trace: the claim to the instance, the
//! listening sockets, the links; then the pinned tables (removed again if this start made them and
//! fails), the first round of probes, the programs on their links, the workers. Only when all workers
//! serve does this supervisor's epoch become the instance's: workers that a killed supervisor left
//! behind see it and drain.
//!
//! While it runs, the steward ([`steward`]) puts other configurations in force.
//!
//! Stop: workers drain, sockets go, pins stay. L4 forwarding goes on until `steerage detach`.
//!
//! Upgrade: another binary is started and follows this one ([`upgrade`], [`handover`]).

mod access;
mod certificates;
mod change;
mod claim;
mod discovery;
mod error;
mod fallback;
mod figures;
mod file;
mod front;
mod guards;
mod handout;
mod handover;
mod hooks;
pub mod inherit;
mod leavers;
mod listeners;
mod network;
mod offenders;
mod orders;
mod plane;
mod prepare;
mod publish;
mod revisions;
mod servers;
mod slots;
mod steward;
mod systemd;
mod upgrade;
mod view;
mod vips;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use steerage_common::abi::SCHEMA_VERSION;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::access::{AccessLog, Tap};
use self::claim::Claim;
use self::discovery::Answers;
use self::figures::Reloads;
use self::front::Front;
use self::handout::Handout;
use self::handover::Inheritance;
use self::hooks::Moment;
use self::leavers::Leavers;
use self::listeners::Listening;
use self::plane::Plane;
use self::publish::{Publication, Rings};
use self::revisions::Revisions;
use self::servers::Opened;
use self::steward::Steward;
use self::upgrade::{AdminPath, Doors, Succession};
use self::view::{InForce, View};
use self::workers::{Lines, Phase, Post};
use crate::config::{self, Model, Source};
use crate::health::{Prober, targets};
use crate::kernel::{self, Kernel};
use crate::log;
use crate::service::Placed;
use crate::sys::{self, Account};
use crate::tls::shelf::{Occasion, Stock};
use crate::tls::upstream::Keyring;
use crate::worker::Plan;

pub use error::Error;
pub use listeners::BACKLOG;
pub use network::families;
pub use plane::instance_dir;

/// Operators' wishes that wait while the configuration is changed.
const WISHES_MAX: usize = 16;

/// Runs the daemon until it is told to stop. `channel` leads to a running one, which this one is to follow.
///
/// # Errors
/// If it could not start; nothing is left behind then, and a running one serves on.
pub fn run(source: Source, channel: Option<UnixStream>) -> Result<(), Error> {
    let Some(channel) = channel else { return start(source, None) };
    let answer = channel.try_clone().map_err(|source| Error::Handover { source })?;
    let outcome = Inheritance::receive(channel, SCHEMA_VERSION)
        .and_then(|former| start(source, Some(former)));
    if let Err(error) = &outcome {
        handover::refuse(&answer, &error.to_string());
    }
    outcome
}

fn start(source: Source, mut former: Option<Inheritance>) -> Result<(), Error> {
    let text = config::read(&source.path)?;
    let model = source.parse(&text)?;
    log::start(model.global.log);
    let started = Instant::now();
    let stock = certificates::read(&model, Occasion::Start)?;
    let mut claim = match &former {
        None => Claim::take(&model.global.pid_file)?,
        Some(former) => former.claim(&model)?,
    };
    if let Err(error) = sys::raise_open_files() {
        warn!(%error, "the limit of open files stays as it is");
    }
    let front = Front::open(&model, former.as_mut())?;
    let instance = instance_dir(&model);
    let pins_are_ours = !instance.exists();
    let origin = Origin { source, text, stock, former, started };
    let outcome = serve(model, origin, front, &mut claim);
    if outcome.is_err()
        && pins_are_ours
        && instance.exists()
        && let Err(error) = kernel::detach(&instance)
    {
        warn!(%error, "pins of the failed start could not be removed");
    }
    outcome
}

/// Where a configuration came from.
struct Origin {
    source: Source,
    text: String,
    /// The certificates that it names.
    stock: Stock,
    /// The daemon that this one follows.
    former: Option<Inheritance>,
    started: Instant,
}

fn serve(asked: Model, origin: Origin, mut front: Front, claim: &mut Claim) -> Result<(), Error> {
    let Origin { source, text, stock, mut former, started } = origin;
    let mut admin_path = AdminPath::new(&asked, former.as_ref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::system("cannot make the supervisor's event loop"))?;
    let access = AccessLog::start(&asked.global.access_log.path)?;
    let mut answers = Answers::new();
    runtime.block_on(discovery::ask_first(&asked, &mut answers));
    let mut model = discovery::with_found(&asked, &answers);
    let worker_lines = 2 * front.workers;
    let ring = Arc::new(Keyring::fill(&model, &Keyring::default())?);
    let memory = former.as_mut().and_then(|former| former.memory(worker_lines));
    let plane = Plane::open(&model, worker_lines, memory)?;
    if plane.kernel.is_none() {
        (model, front) = fall_back(model, front)?;
    }
    let (region, kernel) = (plane.region.clone(), plane.kernel.as_deref());
    region.control().schema_version.store(SCHEMA_VERSION, Ordering::Relaxed);
    region.control().supervisor_pid.store(std::process::id(), Ordering::Relaxed);
    certificates::rotate_if_due(&region, model.global.ticket_rotation);
    let mut rings = Rings::default();
    figures::seat(&model, &region);
    let publication = Publication::begin(&model, &region, kernel)?;
    let published = publication.commit(&mut rings)?;
    let leavers = Leavers::default().next(publication.leaving(), None);
    let interfaces = publication.interfaces();
    let forwarding: BTreeSet<String> =
        interfaces.iter().filter(|link| publication.forwards(link)).cloned().collect();
    drop(publication);
    let addresses = front.listening.addresses(model.listeners.len());
    let has_flow_tables = model.has_l4();
    let mut in_force = InForce { model, published, addresses, links: BTreeMap::new(), ring };
    let prober =
        Prober::start(region.clone(), targets(in_force.subscribers()), in_force.ring.clone())
            .map_err(Error::system("cannot start the prober's thread"))?;
    let families = families(&in_force.model);
    in_force.links = attach(&interfaces, |link| forwarding.contains(link), &families, kernel)?;

    let epoch = region.control().supervisor_epoch.load(Ordering::Relaxed).wrapping_add(1);
    let forwards = !in_force.links.is_empty();
    let (given, lines) = Lines::share_out(region.clone(), front.workers);
    let seats = former.as_ref().map_or(&[][..], |former| &former.state.seats);
    let seats = workers::seats(&given, seats);
    if let Some(kernel) = kernel {
        front.listening.steer_only(kernel);
        front.listening.steer(kernel, &seats);
    }
    let handout = first_handout(&in_force, &stock, front.listening)?;
    let (handouts, handed) = watch::channel(Arc::new(handout));
    let (cpus, account, tap) = (&front.cpus, front.account, access.tap());
    let crew = Crew { cpus, given: &given, seats: &seats, account, epoch, access: tap };
    let (posts, served) = posts(&plane, &crew, lines, &handed);
    drop(handed);
    let (wish, wishes) = mpsc::channel(WISHES_MAX);
    let (follow, is_followed) = oneshot::channel();
    let doors = Doors::copy(claim, &front.admin, &plane)
        .map_err(Error::system("cannot keep copies of open files for an upgrade"))?;
    let view = Arc::new(View {
        in_force: RwLock::new(Arc::new(in_force)),
        region,
        kernel: plane.kernel.clone(),
        prober,
        started,
        supervisor_epoch: epoch,
        stock: RwLock::new(Arc::new(stock)),
        leaving: RwLock::default(),
        steward: wish,
        access: access.tap(),
        reloads: Mutex::new(Reloads::after(former.as_ref().map(|former| &former.state.reloads))),
    });
    let (metrics, is_metrics) = watch::channel(front.metrics.map(Arc::new));
    let (loaded, is_loaded) = watch::channel(());
    let steward = Steward {
        view: view.clone(),
        source,
        revisions: Revisions::new(text.clone()),
        text,
        binary: sys::binary(),
        doors: Arc::new(doors),
        metrics,
        loaded,
        follow,
        seats,
        handouts,
        served,
        rings,
        leavers,
        wishes,
        has_flow_tables,
        asked,
        answers,
    };
    let doors = Opened { admin: front.admin, metrics: is_metrics, loaded: is_loaded };
    let supervised = Supervised { view, posts, steward, doors, former, is_followed };
    let end = runtime.block_on(supervise(supervised, claim, &mut admin_path));
    // What workers said last is on its way.
    runtime.block_on(access.finish());
    conclude(&end?, claim, &mut admin_path, forwards);
    Ok(())
}

/// Leaves to another daemon what is its own now, and says how it ended.
fn conclude(end: &End, claim: &mut Claim, admin_path: &mut AdminPath, forwards: bool) {
    match end {
        End::Followed => {
            claim.pass_on();
            admin_path.pass_on();
            info!("ended: the next daemon serves");
        }
        End::Stopped if forwards => info!("stopped; L4 forwarding goes on until `steerage detach`"),
        End::Stopped => info!("stopped"),
    }
}

/// Has listeners serve the vips that have one to fall back on.
fn fall_back(model: Model, mut front: Front) -> Result<(Model, Front), Error> {
    if model.vips.iter().all(|vip| vip.fallback.is_none()) {
        return Ok((model, front));
    }
    let fallen = fallback::without_ebpf(model.clone());
    let open = Some((&front.listening, &model));
    front.listening = Listening::open(&fallen, front.workers, open, Vec::new())?;
    Ok((fallen, front))
}

/// How the daemon ended.
enum End {
    Stopped,
    /// Another one does its work.
    Followed,
}

fn first_handout(
    in_force: &InForce,
    stock: &Stock,
    listening: Listening,
) -> Result<Handout, Error> {
    let placed = Placed {
        model: in_force.model.clone(),
        tenants: in_force.published.tenants.clone(),
        lines: in_force.published.lines.clone(),
    };
    let plan = Plan {
        placed,
        certificates: stock.shelf.clone(),
        ring: Keyring::clone(&in_force.ring),
        sockets: listening.sockets(),
    };
    Handout::new(1, plan, listening)
        .map_err(Error::system("cannot write the configuration down for the workers"))
}

/// Puts the program on links; gives the mode on each. Those that packets are forwarded from must be set up
/// for that.
fn attach(
    interfaces: &BTreeSet<String>,
    forwards: impl Fn(&str) -> bool,
    families: &[u8],
    kernel: Option<&Mutex<Kernel>>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut links = BTreeMap::new();
    let Some(kernel) = kernel else { return Ok(links) };
    let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
    for interface in interfaces {
        let families = if forwards(interface) { families } else { &[] };
        let mode = kernel.attach(interface, families)?;
        info!(interface, %mode, "XDP program attached");
        links.insert(interface.clone(), mode.to_string());
    }
    Ok(links)
}

/// Who and where the workers are.
struct Crew<'a> {
    cpus: &'a [usize],
    /// Of each, its first line in the region.
    given: &'a [usize],
    /// Of each, its place at listening sockets.
    seats: &'a [usize],
    account: Option<Account>,
    epoch: u32,
    access: Tap,
}

/// The workers' posts, and what each says that it serves.
fn posts(
    plane: &Plane,
    crew: &Crew<'_>,
    lines: Lines,
    handouts: &watch::Receiver<Arc<Handout>>,
) -> (Vec<Post>, Vec<watch::Receiver<u64>>) {
    let (lines, turnover) = (Arc::new(lines), Arc::new(Semaphore::new(1)));
    let post = |(number, (line, seat)): (usize, (&usize, &usize))| {
        let (served, is_served) = watch::channel(0);
        let post = Post {
            number,
            line: *line,
            seat: *seat,
            workers: crew.seats.len(),
            epoch: crew.epoch,
            handouts: handouts.clone(),
            served,
            fds: plane.fds.clone(),
            region: plane.region.clone(),
            lines: lines.clone(),
            turnover: turnover.clone(),
            access: crew.access.clone(),
            account: crew.account,
            cpu: crew.cpus.get(number % crew.cpus.len().max(1)).copied(),
        };
        (post, is_served)
    };
    crew.given.iter().zip(crew.seats).enumerate().map(post).unzip()
}

/// All that the event loop needs.
struct Supervised {
    view: Arc<View>,
    posts: Vec<Post>,
    steward: Steward,
    doors: Opened,
    former: Option<Inheritance>,
    is_followed: oneshot::Receiver<Succession>,
}

/// Starts the workers, then waits for signals, or for the daemon that follows.
async fn supervise(
    supervised: Supervised,
    claim: &mut Claim,
    admin_path: &mut AdminPath,
) -> Result<End, Error> {
    let Supervised { view, posts, steward, doors, former, mut is_followed } = supervised;
    let count = posts.len();
    let lines = posts.first().map(|post| post.lines.clone());
    let (phase, is_phase) = watch::channel(Phase::Running);
    let (ready, mut is_ready) = mpsc::channel(count.max(1));
    let mut interrupts = Signals::new().map_err(Error::system("cannot listen for signals"))?;
    // Until the steward is at work they wait.
    let asked = Asked::new().map_err(Error::system("cannot listen for signals"))?;
    let reopen = signal(SignalKind::user_defined1());
    let reopen = reopen.map_err(Error::system("cannot listen for signals"))?;
    // To the very end: workers that finish still have lines.
    tokio::spawn(view.access.clone().follow(reopen));
    let mut workers = JoinSet::new();
    for post in posts {
        workers.spawn(workers::keep(Arc::new(post), is_phase.clone(), ready.clone()));
    }
    drop(ready);
    for _ in 0..count {
        tokio::select! {
            Some(_) = is_ready.recv() => {}
            Some(Ok(Err(error))) = workers.join_next() => {
                stop_all(&phase, &mut workers).await;
                return Err(error);
            }
            () = interrupts.next() => return stop(&phase, &mut workers, &mut interrupts).await,
        }
    }
    if let Some(former) = &former {
        former.follow().await;
        former.remove_others(&view.in_force().model);
    }
    claim.sign()?;
    admin_path.hold();
    let mut servers = servers::start(&view, doors)?;
    servers.spawn(systemd::pat_the_watchdog());
    servers.spawn(certificates::keep(view.clone()));
    servers.extend(lines.map(workers::sweep));
    systemd::keep(&view.in_force().model, &steward.handouts.borrow().listening, None);
    let steward = servers.spawn(steward.run(asked));
    view.region.control().supervisor_epoch.store(view.supervisor_epoch, Ordering::Release);
    info!(workers = count, generation = view.region.generation(), "ready");
    systemd::ready(&view.summary());
    let started = view.clone();
    servers.spawn(async move { started.run_hook(Moment::Start).await });
    loop {
        tokio::select! {
            () = interrupts.next() => {
                // It would open listening sockets that nobody serves.
                steward.abort();
                systemd::stopping();
                tokio::select! {
                    () = view.run_hook(Moment::Shutdown) => {}
                    // Whoever says it twice does not wait.
                    () = interrupts.next() => {}
                }
                return stop(&phase, &mut workers, &mut interrupts).await;
            }
            Ok(succession) = &mut is_followed => {
                // What the two would do twice; answers that operators wait for are on their way.
                servers.abort_all();
                drop(view.prober.update(Vec::new(), Arc::default()));
                succession.go();
                finish(&phase, &mut workers, &mut interrupts).await;
                return Ok(End::Followed);
            }
            Some(outcome) = workers.join_next() => {
                if let Ok(Err(error)) = outcome {
                    tracing::error!(%error, "a worker's post is given up");
                }
                // One post is lost; the others serve on.
                if workers.is_empty() {
                    return Err(Error::NoWorkers);
                }
            }
        }
    }
}

/// Drains; a second signal ends it at once.
async fn stop(
    phase: &watch::Sender<Phase>,
    workers: &mut JoinSet<Result<(), Error>>,
    interrupts: &mut Signals,
) -> Result<End, Error> {
    info!("stopping: workers finish what they have begun; a second signal stops at once");
    finish(phase, workers, interrupts).await;
    Ok(End::Stopped)
}

/// Waits until all workers have finished, which a signal makes them do at once.
async fn finish(
    phase: &watch::Sender<Phase>,
    workers: &mut JoinSet<Result<(), Error>>,
    interrupts: &mut Signals,
) {
    phase.send_replace(Phase::Draining);
    loop {
        tokio::select! {
            next = workers.join_next() => if next.is_none() {
                return;
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

/// SIGHUP and SIGUSR2: what operators ask of the steward.
#[derive(Debug)]
struct Asked {
    hangup: Signal,
    upgrade: Signal,
}

impl Asked {
    fn new() -> io::Result<Self> {
        let upgrade = signal(SignalKind::user_defined2())?;
        Ok(Self { hangup: signal(SignalKind::hangup())?, upgrade })
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
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
