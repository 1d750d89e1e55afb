//! What an operator can ask of a running daemon, and what it answers.

use std::net::SocketAddr;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::config::plan::Change;
use crate::stats::status::Status;

/// What shall become of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// After so many milliseconds the backend is out, whatever is left.
    pub deadline_ms: Option<u64>,
}

/// What a backend still has in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}
