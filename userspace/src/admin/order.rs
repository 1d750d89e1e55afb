//! What an operator can ask of a running daemon, and what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;

use crate::config::edit::Edit;
use crate::config::plan::Change;
use crate::stats::status::Status;

/// What shall become of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It gets no new work and finishes what it has.
    Drain,
    /// It is out at once.
    Maintenance,
    /// It takes work again.
    Undrain,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Drain, Self::Maintenance, Self::Undrain];

    /// The last segment of the request's path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
            Self::Undrain => "undrain",
        }
    }
}

/// The body of a drain order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// After so many milliseconds the backend is out, whatever is left.
    pub deadline_ms: Option<u64>,
}

/// What a backend still has in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Remaining {
    /// Its state.
    pub state: String,
    /// Requests in flight.
    pub requests: u64,
    /// Open tunnels; they count as requests too.
    pub tunnels: u64,
    /// Open connections, idle ones too.
    pub connections: u64,
    /// Live L4 flows; `None` if no vip leads to it.
    pub flows: Option<u64>,
}

impl Remaining {
    /// Whether nothing is left to be finished. Idle connections are closed by themselves.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.requests == 0 && self.tunnels == 0 && self.flows.unwrap_or(0) == 0
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reloaded {
    /// What the file says else than what was in force.
    pub changes: Vec<Change>,
    /// The generation in force.
    pub generation: u64,
    /// Until every worker served it.
    pub took_ms: f64,
    /// Of that, writing the tables that both planes read and putting them in force.
    pub publish_us: f64,
}

/// A change of the configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// A part of it.
    Edit(Edit),
    /// Another text.
    Apply(String),
    /// A former one, by its number; the one before that in force if none is given.
    Rollback(Option<u64>),
}

impl ConfigChange {
    /// The change in a few words.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Edit(Edit::AddBackend { service, backend }) => {
                format!("add backend {service}/{}", backend.address)
            }
            Self::Edit(Edit::RemoveBackend { service, backend }) => {
                format!("remove backend {service}/{backend}")
            }
            Self::Edit(Edit::SetWeight { service, backend, weight }) => {
                format!("weight {weight} of {service}/{backend}")
            }
            Self::Edit(Edit::Set { key, value }) => format!("set {key} = {value}"),
            Self::Apply(_) => "apply".to_owned(),
            Self::Rollback(None) => "rollback".to_owned(),
            Self::Rollback(Some(number)) => format!("rollback to {number}"),
        }
    }
}

/// A configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Revision {
    /// Rises with each configuration of this daemon.
    pub number: u64,
    /// When it came into force, in seconds since 1970.
    pub at_seconds: u64,
    /// By what.
    pub why: String,
}

/// The body of a rollback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Back {
    /// The revision; that before the one in force if none is given.
    pub revision: Option<u64>,
}

/// The body of a change of weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// The weight, 0 to 256.
    pub weight: u16,
}

/// The body of a change of any key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The key, as [`Edit::Set`] has it.
    pub key: String,
    /// Its value as TOML writes it.
    pub value: String,
}

/// The body of an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// The binary; that which the daemon was started from if none is given.
    pub binary: Option<PathBuf>,
}

/// What an upgrade did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Upgraded {
    /// The supervisor that serves now.
    pub pid: u32,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such backend.
    #[error("service {service:?} has no backend {backend}; `steerage backend list` names them all")]
    Unknown {
        /// The service.
        service: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// The configuration is not taken.
    #[error("{0}")]
    Config(String),
    /// The next daemon did not get ready.
    #[error("{0}")]
    Upgrade(String),
    /// There are no lines.
    #[error(
        "the access log is off: `steerage config set global.access_log /var/log/steerage/access.log` turns it on"
    )]
    NoLines,
    /// The flow table could not be read.
    #[error("the flow table cannot be read: {0}")]
    Flows(String),
}

/// What takes a while.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin socket and the metrics speak for.
pub trait Daemon: Send + Sync {
    /// A snapshot of everything.
    fn status(&self) -> Status;

    /// Changes what becomes of a backend.
    ///
    /// # Errors
    /// If there is no such backend.
    fn order(
        &self,
        service: &str,
        backend: SocketAddr,
        action: Action,
        terms: Terms,
    ) -> Result<(), Refusal>;

    /// The file with the token that orders on the metrics address need; `None` if none are taken there.
    fn page_token(&self) -> Option<PathBuf>;

    /// Lines of the access log from now on; `None` if it is off.
    fn follow_lines(&self) -> Option<Receiver<Bytes>>;

    /// What a backend still has in hand. May take a while: it walks the flow table.
    ///
    /// # Errors
    /// If there is no such backend, or the table can't be read.
    fn remaining(&self, service: &str, backend: SocketAddr) -> Result<Remaining, Refusal>;

    /// Takes the configuration file anew.
    fn reload(&self) -> Later<'_, Result<Reloaded, Refusal>>;

    /// What the configuration file says else than what is in force.
    fn diff(&self) -> Later<'_, Result<Vec<Change>, Refusal>>;

    /// The configuration in force, as JSON.
    fn config(&self) -> serde_json::Value;

    /// Its text.
    fn text(&self) -> Later<'_, Result<String, Refusal>>;

    /// Former configurations and the one in force, which comes last.
    fn revisions(&self) -> Later<'_, Result<Vec<Revision>, Refusal>>;

    /// Seals tickets of TLS sessions with another key.
    fn rotate_tickets(&self) -> Later<'_, Result<(), Refusal>>;

    /// Starts another binary in this daemon's place.
    fn upgrade(&self, binary: Option<PathBuf>) -> Later<'_, Result<Upgraded, Refusal>>;

    /// Makes a change, in the file as well if it is to persist.
    fn change(&self, change: ConfigChange, persist: bool) -> Later<'_, Result<Reloaded, Refusal>>;
}
