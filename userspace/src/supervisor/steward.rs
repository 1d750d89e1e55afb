//! Another configuration in a running daemon: from the file to every worker, without a restart.
//!
//! One reload at a time, in this order, so that no request and no flow finds nobody:
//!
//! 1. Read, parse, validate; nothing is touched if that fails.
//! 2. Bind new addresses, find slots, ways and links: all that can fail for the host's reasons. What was
//!    begun is taken back then.
//! 3. New backends are probed once, while nobody knows of them: what begins to serve begins with what is
//!    known, and a change of all backends at once leaves no gap.
//! 4. One store puts tables, rings and vips in force for packets; workers are handed the configuration
//!    and say when they serve it.
//! 5. Only then do removed backends take no new work: until then a worker might still have picked them.
//!    They keep their slots until they are idle ([`super::leavers`]).
//!
//! What holds for the life of the process stays as it is, and is told ([`plan::applicable`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use steerage_common::slot::Slot;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::Error;
use super::discovery::{self, Answers, Discovery, Found};
use super::figures;
use super::file::FileWatch;
use super::handout::Handout;
use super::hooks::Moment;
use super::leavers::Leavers;
use super::listeners::Listening;
use super::publish::{Publication, Published, Rings};
use super::revisions::Revisions;
use super::upgrade::{Doors, Succession};
use super::view::{InForce, View};
use super::{Asked, certificates, fallback, instance_dir, network, prepare, systemd};
use crate::admin::order::{ConfigChange, Reloaded, Revision, Upgraded};
use crate::config::model::Check;
use crate::config::plan::{self, Change};
use crate::config::{self, Model, Source};
use crate::health::{Subscriber, targets};
use crate::kernel;
use crate::kernel::flows::{Flows, Remembered};
use crate::region::{Group, Tenant};
use crate::service::Placed;
use crate::tls::shelf::{Occasion, Stock};
use crate::tls::upstream::Keyring;
use crate::worker::Plan;

/// What workers are handed beside a configuration.
struct Beside<'a> {
    stock: &'a Stock,
    ring: &'a Arc<Keyring>,
}

/// How long workers may take to serve another configuration before that is an error.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at backends that leave.
const LEAVERS_INTERVAL: Duration = Duration::from_millis(250);

/// Looks at backends that leave from one walk over the flow table to the next: five seconds.
const LOOKS_PER_WALK: u32 = 20;

/// Changes that are logged one by one.
const LOGGED_MAX: usize = 100;

/// What the steward is asked for.
#[derive(Debug)]
pub enum Wish {
    /// To take the file anew.
    Reload(oneshot::Sender<Result<Reloaded, Error>>),
    /// To say what that would change.
    Diff(oneshot::Sender<Result<Vec<Change>, Error>>),
    /// To make a change, in the file too if that is wished.
    Change(ConfigChange, bool, oneshot::Sender<Result<Reloaded, Error>>),
    /// To start another binary in this one's place.
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<Upgraded, Error>>),
    /// To say which configurations can be taken back.
    Revisions(oneshot::Sender<Result<Vec<Revision>, Error>>),
    /// To seal tickets with another key.
    RotateTickets(oneshot::Sender<Result<(), Error>>),
    /// To show the text in force.
    Text(oneshot::Sender<Result<String, Error>>),
}

/// Who changes the configuration.
#[derive(Debug)]
pub struct Steward {
    /// What all others see.
    pub view: Arc<View>,
    /// The configuration file, and what holds whatever it says.
    pub source: Source,
    /// What it held when it was last read.
    pub text: String,
    /// The binary that was started.
    pub binary: PathBuf,
    /// What the daemon that follows is given, beside the listening sockets.
    pub doors: Arc<Doors>,
    /// Where metrics are served.
    pub metrics: watch::Sender<Option<Arc<TcpListener>>>,
    /// Told when another kernel half was loaded.
    pub loaded: watch::Sender<()>,
    /// Told when one follows.
    pub follow: oneshot::Sender<Succession>,
    /// The texts that were in force.
    pub revisions: Revisions,
    /// The workers' places at listening sockets.
    pub seats: Vec<usize>,
    /// To the workers.
    pub handouts: watch::Sender<Arc<Handout>>,
    /// From them: the latest handout that each serves.
    pub served: Vec<watch::Receiver<u64>>,
    /// The rings in the kernel.
    pub rings: Rings,
    /// Backends that leave.
    pub leavers: Leavers,
    /// What it is asked for.
    pub wishes: mpsc::Receiver<Wish>,
    /// Whether the flow tables were made for more than nothing.
    pub has_flow_tables: bool,
    /// What the file says: the configuration in force without the backends that DNS names.
    pub asked: Model,
    /// What DNS said last.
    pub answers: Answers,
}

impl Steward {
    /// Serves until another daemon follows.
    pub async fn run(mut self, mut asked: Asked) {
        self.leavers.drain(&self.view.region);
        self.show_leavers();
        let mut file = FileWatch::new([&*self.source.path]);
        let mut certificates = FileWatch::new(certificates::named(&self.asked));
        let (mut discovery, mut found) = Discovery::new();
        let mut looks = tokio::time::interval(LEAVERS_INTERVAL);
        let mut look = 0_u32;
        loop {
            // What is asked of DNS follows from what is in force.
            discovery.turn_to(&self.asked, &self.answers);
            certificates.turn_to(certificates::named(&self.asked));
            tokio::select! {
                Some(found) = found.recv() => self.take_found(found).await,
                Some(wish) = self.wishes.recv() => match wish {
                    // Who asked may have gone.
                    Wish::Reload(answer) => drop(answer.send(self.reload("by an operator").await)),
                    Wish::Diff(answer) => drop(answer.send(self.diff())),
                    Wish::Change(change, persist, answer) => {
                        drop(answer.send(self.change(change, persist).await));
                    }
                    Wish::Upgrade(binary, answer) => match self.upgrade(binary).await {
                        Ok(succession) => {
                            let _ = answer.send(Ok(Upgraded { pid: succession.pid }));
                            let _ = self.follow.send(succession);
                            return;
                        }
                        Err(error) => drop(answer.send(Err(error))),
                    },
                    Wish::RotateTickets(answer) => {
                        certificates::rotate(&self.view.region);
                        drop(answer.send(Ok(())));
                    }
                    Wish::Revisions(answer) => drop(answer.send(Ok(self.revisions.list()))),
                    Wish::Text(answer) => drop(answer.send(Ok(self.revisions.text().to_owned()))),
                },
                _ = asked.hangup.recv() => drop(self.reload("SIGHUP").await),
                _ = asked.upgrade.recv() => if let Ok(succession) = self.upgrade(None).await {
                    let _ = self.follow.send(succession);
                    return;
                },
                () = file.changed() => self.look_at_file().await,
                () = certificates.changed() => self.look_at_certificates().await,
                _ = looks.tick(), if !self.leavers.is_empty() => {
                    look = look.wrapping_add(1);
                    self.free_idle(look.is_multiple_of(LOOKS_PER_WALK)).await;
                }
            }
        }
    }

    /// Takes the file if it holds something else than when it was last read.
    async fn look_at_file(&mut self) {
        if !self.view.in_force().model.global.watch {
            return;
        }
        match std::fs::read_to_string(&self.source.path) {
            Ok(text) if text == self.text => {}
            // It may be in the middle of being replaced: its coming is another change.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            _ => drop(self.reload("the file changed").await),
        }
    }

    /// Takes what the files of certificates, keys and authorities hold, if it is something else.
    async fn look_at_certificates(&mut self) {
        if !self.view.in_force().model.global.watch {
            return;
        }
        // The text in force, not the file's: a renewal is no reason to take back what operators have
        // changed. It holds authorities and the certificates that are shown to backends; while one of those
        // can't be read, those that clients are shown change nevertheless.
        let parsed = self.source.parse(self.revisions.text());
        let model = parsed.unwrap_or_else(|error| {
            error!(%error, "authorities, and what backends are shown, stay as they are");
            self.asked.clone()
        });
        let former = self.view.stock();
        if model == self.asked
            && certificates::read(&model, Occasion::Change(&former))
                .is_ok_and(|stock| stock.shelf == former.shelf && stock.faults == former.faults)
        {
            return;
        }
        info!("files of TLS have changed");
        systemd::reloading();
        let outcome = self.take_asked(model).await;
        note(&self.view, &outcome);
        systemd::ready(&self.view.summary());
    }

    fn diff(&self) -> Result<Vec<Change>, Error> {
        let asked = discovery::with_found(&self.source.load()?, &self.answers);
        Ok(plan::diff(&self.view.in_force().model, &self.servable(asked)))
    }

    /// What of a configuration this host can serve.
    fn servable(&self, asked: Model) -> Model {
        if self.view.kernel.is_some() { asked } else { fallback::without_ebpf(asked) }
    }

    /// Takes the file anew, and logs what came of it.
    async fn reload(&mut self, why: &str) -> Result<Reloaded, Error> {
        info!(why, file = %self.source.path.display(), "reload");
        systemd::reloading();
        let outcome = match self.read() {
            Ok(model) => self.take_asked(model).await,
            Err(error) => Err(error.into()),
        };
        note(&self.view, &outcome);
        if outcome.is_ok() && self.text != self.revisions.text() {
            self.revisions.add(self.text.clone(), why);
        }
        systemd::ready(&self.view.summary());
        outcome
    }

    /// Takes other backends that DNS names.
    async fn take_found(&mut self, found: Found) {
        let Found { question, backends } = found;
        if !discovery::questions(&self.asked).any(|asked| asked == question) {
            return;
        }
        let (service, discover) = &question;
        info!(service, name = discover.name, backends = backends.len(), "DNS has another answer");
        self.answers.insert(question, backends);
        let model = discovery::with_found(&self.asked, &self.answers);
        let outcome = self.take(model).await;
        note(&self.view, &outcome);
    }

    fn read(&mut self) -> Result<Model, config::Error> {
        self.text = config::read(&self.source.path)?;
        self.source.parse(&self.text)
    }

    /// Puts another configuration in force.
    pub(super) async fn take(&mut self, asked: Model) -> Result<Reloaded, Error> {
        let began = Instant::now();
        let view = self.view.clone();
        let asked = self.servable(asked);
        let now = view.in_force();
        let mut changes = plan::diff(&now.model, &asked);
        let model = plan::applicable(&now.model, &asked);
        let former = view.stock();
        let stock = certificates::read(&model, Occasion::Change(&former))?;
        certificates::tell(&former, &stock);
        changes.extend(certificates::changes(&former, &stock));
        let mut publish = Duration::ZERO;
        if model != now.model || stock.shelf != former.shelf {
            publish = self.put_in_force(&view, &now, model, &stock).await?;
            let next = view.in_force();
            systemd::keep(&next.model, &self.handouts.borrow().listening, Some(&now.model));
            view.run_hook(Moment::Reload).await;
        }
        *view.stock.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(stock);
        Ok(Reloaded {
            changes,
            generation: view.region.generation(),
            took_ms: began.elapsed().as_secs_f64() * 1e3,
            publish_us: publish.as_secs_f64() * 1e6,
        })
    }

    pub(super) async fn put_in_force(
        &mut self,
        view: &View,
        now: &InForce,
        model: Model,
        stock: &Stock,
    ) -> Result<Duration, Error> {
        self.prepare_l4(&model)?;
        let metrics = prepare::next_metrics(&now.model, &model)?;
        let ring = Arc::new(Keyring::fill(&model, &now.ring)?);
        let log = view.access.prepare(&model.global.access_log.path)?;
        let former = self.handouts.borrow().clone();
        let open = Some((&former.listening, &now.model));
        let listening = Listening::open(&model, self.seats.len(), open, Vec::new())?;
        for (worker, served) in self.served.iter().enumerate() {
            // Nobody would accept from the sockets of a post that was given up.
            if served.has_changed().is_err() {
                listening.leave(worker);
            }
        }
        let publication = Publication::begin(&model, &view.region, view.kernel.as_deref())?;
        figures::seat(&model, &view.region);
        let leavers = self.leavers.next(publication.leaving(), Some(now));
        self.probe_fresh(now, &model, &publication.tenants, &ring).await;
        let number = former.number + 1;
        drop(former);
        let beside = Beside { stock, ring: &ring };
        let committed = self.commit(now, &model, beside, &publication, number, &listening);
        let (published, links, handout) = match committed {
            Ok(committed) => committed,
            Err(error) => {
                publication.undo();
                self.probe(now, &self.leavers);
                return Err(error);
            }
        };
        let took = published.took;
        let addresses = listening.addresses(model.listeners.len());
        let next = Arc::new(InForce { model, published, addresses, links, ring });
        *view.in_force.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        crate::log::set_level(next.model.global.log.level);
        if let Some(metrics) = metrics {
            self.metrics.send_replace(metrics);
        }
        if let Some(kernel) = &view.kernel {
            listening.steer(kernel, &self.seats);
        }
        view.access.turn_to(log);
        self.handouts.send_replace(Arc::new(handout));
        self.wait_until_served(number).await;
        if let Some(kernel) = &view.kernel {
            listening.steer_only(kernel);
        }
        self.leavers = leavers;
        self.leavers.drain(&view.region);
        self.show_leavers();
        self.probe(&next, &self.leavers);
        self.detach(now, &next);
        Ok(took)
    }

    /// All that can fail for the kernel's reasons, and the store that puts the generation in force.
    fn commit(
        &mut self,
        now: &InForce,
        model: &Model,
        beside: Beside<'_>,
        publication: &Publication<'_>,
        number: u64,
        listening: &Listening,
    ) -> Result<(Published, BTreeMap<String, String>, Handout), Error> {
        let kernel = self.view.kernel.as_deref();
        let missing: BTreeSet<String> = publication
            .interfaces()
            .into_iter()
            .filter(|interface| !now.links.contains_key(interface))
            .collect();
        let forwards = |link: &str| publication.forwards(link);
        let families = network::families(model);
        let mut links = super::attach(&missing, forwards, &families, kernel)?;
        links.extend(now.links.clone());
        links.retain(|link, _| publication.interfaces().contains(link));
        let placed = Placed {
            model: model.clone(),
            tenants: publication.tenants.clone(),
            lines: publication.lines().to_vec(),
        };
        let certificates = beside.stock.shelf.clone();
        let ring = Keyring::clone(beside.ring);
        let plan = Plan { placed, certificates, ring, sockets: listening.sockets() };
        let handout = Handout::new(number, plan, listening.clone())
            .map_err(Error::system("cannot write the configuration down for the workers"))?;
        let published = publication.commit(&mut self.rings)?;
        Ok((published, links, handout))
    }

    /// Has backends that are new probed once, beside all that are probed already.
    async fn probe_fresh(
        &self,
        now: &InForce,
        model: &Model,
        tenants: &[Vec<Tenant>],
        ring: &Arc<Keyring>,
    ) {
        let known: HashSet<Tenant> = now.published.tenants.iter().flatten().copied().collect();
        let all = subscribers(model, tenants, None);
        let fresh = all.filter(|(_, subscriber)| !known.contains(&subscriber.tenant));
        let old = now.subscribers().chain(self.leavers.subscribers());
        let round = self.view.prober.update(targets(old.chain(fresh)), ring.clone());
        // A panic there is the prober's, and seen at its own end.
        let _ = tokio::task::spawn_blocking(move || round.wait()).await;
    }

    fn probe(&self, of: &InForce, leavers: &Leavers) {
        // Those that are new to it are few, and nobody waits for them.
        let targets = targets(of.subscribers().chain(leavers.subscribers()));
        drop(self.view.prober.update(targets, of.ring.clone()));
    }

    /// Waits until every worker serves this handout.
    async fn wait_until_served(&mut self, number: u64) {
        let all = async {
            for served in &mut self.served {
                // A post that was given up serves nothing.
                let _ = served.wait_for(|served| *served >= number).await;
            }
        };
        if tokio::time::timeout(SERVED_WITHIN, all).await.is_err() {
            error!(
                "a worker does not take the configuration: it serves the former one until it does"
            );
        }
    }

    fn is_served(&self) -> bool {
        let number = self.handouts.borrow().number;
        self.served.iter().all(|served| *served.borrow() >= number || served.has_changed().is_err())
    }

    /// Takes the program off links that no vip needs any more.
    fn detach(&self, former: &InForce, next: &InForce) {
        let Some(kernel) = &self.view.kernel else { return };
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        for link in former.links.keys().filter(|link| !next.links.contains_key(*link)) {
            match kernel.detach_from(link) {
                Ok(()) => info!(interface = link, "XDP program taken off"),
                Err(error) => warn!(interface = link, %error, "the XDP program stays"),
            }
        }
    }

    /// Frees the slots of removed backends that have finished. Flows are looked for when `walks`.
    async fn free_idle(&mut self, walks: bool) {
        if !self.is_served() {
            return;
        }
        let mut flows: Option<HashMap<Slot, u64>> = None;
        if walks && self.leavers.may_have_flows() {
            let now = self.view.in_force();
            let (instance, idle) = (instance_dir(&now.model), now.model.global.flow_idle.limits());
            let (kernel, region) = (self.view.kernel.clone(), self.view.region.clone());
            let walk = move || -> Result<_, kernel::Error> {
                let mut live = Flows::open(&instance)?.live();
                let mut vips = Vec::new();
                if let Some(kernel) = kernel {
                    let kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
                    vips = kernel.count_former(region.generation(), &mut live)?;
                }
                Remembered::open(&instance)?.count(&vips, &idle, &mut live);
                Ok(live)
            };
            match tokio::task::spawn_blocking(walk).await {
                Ok(Ok(live)) => flows = Some(live),
                Ok(Err(error)) => warn!(%error, "the flow table cannot be read"),
                Err(_) => {}
            }
        }
        let (region, kernel) = (&self.view.region, self.view.kernel.as_deref());
        if self.leavers.free_idle(region, kernel, flows.as_ref()) {
            self.probe(&self.view.in_force(), &self.leavers);
        }
        self.show_leavers();
    }

    fn show_leavers(&self) {
        *self.view.leaving.write().unwrap_or_else(PoisonError::into_inner) = self.leavers.list();
    }
}

/// Logs and counts what came of a change.
pub(super) fn note(view: &View, outcome: &Result<Reloaded, Error>) {
    view.reloads.lock().unwrap_or_else(PoisonError::into_inner).note(outcome.is_ok());
    let reloaded = match outcome {
        Ok(reloaded) => reloaded,
        Err(error) => {
            error!(%error, "the configuration is not taken: the one in force stays");
            return;
        }
    };
    for change in reloaded.changes.iter().take(LOGGED_MAX) {
        match change.needs_restart {
            true => warn!(%change, "reload: not in force"),
            false => info!(%change, "reload"),
        }
    }
    if let Some(more) = reloaded.changes.len().checked_sub(LOGGED_MAX).filter(|more| *more > 0) {
        info!(more, "reload: further changes");
    }
    info!(
        generation = reloaded.generation,
        took_ms = reloaded.took_ms,
        publish_us = reloaded.publish_us,
        "configuration in force"
    );
}

impl InForce {
    /// How all backends are probed.
    pub(super) fn subscribers(&self) -> impl Iterator<Item = (Option<Cow<'_, Check>>, Subscriber)> {
        subscribers(&self.model, &self.published.tenants, Some(&self.published.lines))
    }
}

/// How a model's backends are probed. Without `lines` its services have no say over them yet.
fn subscribers<'a>(
    model: &'a Model,
    tenants: &[Vec<Tenant>],
    lines: Option<&[u16]>,
) -> impl Iterator<Item = (Option<Cow<'a, Check>>, Subscriber)> + use<'a> {
    let mut all = Vec::new();
    for (at, (service, tenants)) in model.services.iter().zip(tenants).enumerate() {
        let group = Arc::new(match lines {
            Some(lines) => Group::new(service, tenants, lines[at]),
            None => Group::aside(&service.name),
        });
        let policy = service.policy();
        for (backend, tenant) in service.backends.iter().zip(tenants) {
            let check = service.check_of(backend);
            let (group, backend, tenant) = (group.clone(), backend.address, *tenant);
            all.push((check, Subscriber { group, backend, tenant, policy }));
        }
    }
    all.into_iter()
}
