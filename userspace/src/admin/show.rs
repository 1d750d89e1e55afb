//! What whoever watches is told once a second, the page and `steerage top` alike: server-sent events.
//!
//! While somebody watches, one task takes a snapshot a second and makes a [`Board`] of it, for all who
//! watch; each part of it is rendered once, when the first of them wants it. When the last one has gone the
//! task ends. Whoever is slow misses boards: each gets the latest when it has taken the one before.
//!
//! All get the board without backends, and those backends that do not take work. The backends of a
//! service are sent to those alone who have opened it: 4,096 are half a megabyte.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::order::Daemon;
use crate::stats::board::{Backend, Board, Follower, Service};
use crate::stats::row::{COLUMNS, Row};

/// Between two boards.
const INTERVAL: Duration = Duration::from_secs(1);

/// Backends without work that are shown before their services are opened.
const TROUBLED_MAX: usize = 50;

/// One board for all.
pub struct Show {
    daemon: Arc<dyn Daemon>,
    /// The boards that the task makes; gone when it has ended.
    boards: Mutex<Weak<Sender>>,
}

type Sender = watch::Sender<Option<Arc<Shown>>>;

/// The services whose backends somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Every one.
    All,
    /// These.
    Some(Vec<String>),
}

impl Opened {
    /// What a query names: `all`, or `open=NAME&open=NAME`.
    pub fn named(query: &str) -> Self {
        let mut pairs = query.split('&');
        if pairs.clone().any(|pair| pair == "all") {
            return Self::All;
        }
        let name = |value: &str| percent_decode_str(value).decode_utf8().ok().map(Into::into);
        let names = pairs.by_ref().filter_map(|pair| pair.strip_prefix("open=")).filter_map(name);
        Self::Some(names.collect())
    }

    fn has(&self, service: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|name| name == service),
        }
    }
}

impl Show {
    /// A show of this daemon, which nobody watches yet.
    pub fn new(daemon: Arc<dyn Daemon>) -> Arc<Self> {
        Arc::new(Self { daemon, boards: Mutex::default() })
    }

    /// The events for one who watches, until it goes. Its `place` is kept as long.
    pub fn watch(
        self: &Arc<Self>,
        opened: Opened,
        place: impl Send + 'static,
    ) -> mpsc::Receiver<Bytes> {
        let mut boards = self.boards();
        let (events, received) = mpsc::channel(1);
        tokio::spawn(async move {
            let _place = place;
            loop {
                tokio::select! {
                    () = events.closed() => return,
                    changed = boards.changed() => if changed.is_err() {
                        return;
                    },
                }
                let shown = boards.borrow_and_update().clone();
                let Some(shown) = shown else { continue };
                for event in shown.events(&opened) {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
        });
        received
    }

    /// The boards from now on, the latest at once if somebody else watches.
    fn boards(self: &Arc<Self>) -> watch::Receiver<Option<Arc<Shown>>> {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = boards.upgrade() {
            let mut receiver = sender.subscribe();
            receiver.mark_changed();
            return receiver;
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        *boards = Arc::downgrade(&sender);
        tokio::spawn(self.clone().perform(sender));
        receiver
    }

    async fn perform(self: Arc<Self>, sender: Arc<Sender>) {
        let mut follower = Follower::default();
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            {
                // Nobody comes while this is held.
                let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
                if sender.receiver_count() == 0 {
                    *boards = Weak::new();
                    return;
                }
            }
            let daemon = self.daemon.clone();
            let Ok(status) = tokio::task::spawn_blocking(move || daemon.status()).await else {
                return;
            };
            let board = follower.follow(status, Instant::now());
            let takes_orders = self.daemon.page_token().is_some();
            sender.send_replace(Some(Arc::new(Shown::new(board, takes_orders))));
        }
    }
}

/// A board, and what has been rendered of it.
struct Shown {
    board: Board,
    takes_orders: bool,
    summary: OnceLock<Bytes>,
    /// In the order of services.
    backends: Vec<OnceLock<Bytes>>,
}

/// The event that all get.
#[derive(Serialize)]
struct Summary<'a> {
    /// Whether orders are taken from whoever has the token.
    orders: bool,
    #[serde(flatten)]
    board: &'a Board,
    columns: &'static [&'static str],
    /// Services and those of their backends that do not take work.
    troubled: Vec<Part<'a>>,
    /// How many of them are not shown.
    more_troubled: usize,
}

/// Backends of a service.
#[derive(Serialize, Deserialize)]
pub struct Part<'a> {
    /// Its name.
    pub service: Cow<'a, str>,
    /// Each of them.
    pub rows: Vec<Row<'a>>,
}

impl Shown {
    fn new(board: Board, takes_orders: bool) -> Self {
        let backends = board.services.iter().map(|_| OnceLock::new()).collect();
        Self { board, takes_orders, summary: OnceLock::new(), backends }
    }

    /// The events for one who has opened these services.
    fn events(&self, opened: &Opened) -> Vec<Bytes> {
        let mut events = vec![self.summary.get_or_init(|| event("board", &self.summary())).clone()];
        for (service, rendered) in self.board.services.iter().zip(&self.backends) {
            if opened.has(&service.name) {
                let render = || event("backends", &part(service, service.backends.iter()));
                events.push(rendered.get_or_init(render).clone());
            }
        }
        events
    }

    fn summary(&self) -> Summary<'_> {
        let is_troubled = |backend: &&Backend| !backend.now.accepts_new;
        let mut room = TROUBLED_MAX;
        let mut more_troubled = 0;
        let mut troubled = Vec::new();
        for service in &self.board.services {
            let count = service.backends.iter().filter(is_troubled).count();
            let shown = count.min(room);
            if shown > 0 {
                troubled
                    .push(part(service, service.backends.iter().filter(is_troubled).take(shown)));
            }
            room -= shown;
            more_troubled += count - shown;
        }
        Summary {
            orders: self.takes_orders,
            board: &self.board,
            columns: COLUMNS,
            troubled,
            more_troubled,
        }
    }
}

fn part<'a>(service: &'a Service, backends: impl Iterator<Item = &'a Backend>) -> Part<'a> {
    Part { service: service.name.as_str().into(), rows: backends.map(Row::from).collect() }
}

/// An event: its data is in one line, as JSON is.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    match serde_json::to_string(data) {
        Ok(json) => format!("event: {name}\ndata: {json}\n\n").into(),
        // A comment.
        Err(error) => format!(": {error}\n\n").into(),
    }
}
