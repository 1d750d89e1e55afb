//! A backend as those have it who look at many, once a second: its values alone, in an array, whose
//! [`COLUMNS`] are told once for all. That is a third of what objects take.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::ser::{Serialize, SerializeTuple as _, Serializer};

use super::board::Backend;

/// The struct, the names of its fields, and the array of their values.
macro_rules! row {
    ($(#[doc = $doc:literal] $name:ident: $kind:ty,)*) => {
        /// The values of a backend.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        pub struct Row<'a> {
            $(#[doc = $doc] pub $name: $kind,)*
        }

        /// What the values of a [`Row`] are.
        pub const COLUMNS: &[&str] = &[$(stringify!($name)),*];

        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut values = serializer.serialize_tuple(COLUMNS.len())?;
                $(values.serialize_element(&self.$name)?;)*
                values.end()
            }
        }
    };
}

row! {
    /// Its address.
    address: SocketAddr,
    /// Its state.
    state: Cow<'a, str>,
    /// Why it is in this state.
    why: Cow<'a, str>,
    /// For how many seconds it has been.
    seconds: u64,
    /// Whether it takes new work.
    takes_work: bool,
    /// Its weight.
    weight: u16,
    /// Checks that succeeded; `None` without any.
    probes_ok: Option<u64>,
    /// Checks that failed.
    probes_failed: Option<u64>,
    /// How often it was ejected.
    ejections: u64,
    /// Requests a second.
    rate: Option<f64>,
    /// The share of them that failed.
    errors: Option<f64>,
    /// The seconds that half of the responses did not pass until they began.
    p50: Option<f64>,
    /// The seconds that 99 of a hundred did not pass.
    p99: Option<f64>,
    /// Requests in flight.
    active: u64,
    /// Idle pooled connections.
    idle: u64,
    /// Open connections.
    connections: u64,
    /// Open tunnels.
    tunnels: u64,
    /// Connections opened.
    created: u64,
    /// Requests on a connection that had carried one before.
    reused: u64,
    /// Packets a second.
    packets: Option<f64>,
    /// L4 flows begun.
    flows: u64,
}

impl<'a> From<&'a Backend> for Row<'a> {
    fn from(Backend { now, work, packets }: &'a Backend) -> Self {
        Self {
            address: now.address,
            state: now.state.as_str().into(),
            why: now.why.as_str().into(),
            seconds: now.seconds,
            takes_work: now.accepts_new,
            weight: now.weight,
            probes_ok: now.probe.as_ref().map(|probe| probe.ok),
            probes_failed: now.probe.as_ref().map(|probe| probe.failed),
            ejections: now.l7.ejections,
            rate: work.rate,
            errors: work.errors,
            p50: work.p50,
            p99: work.p99,
            active: work.active,
            idle: now.l7.idle,
            connections: now.l7.connections,
            tunnels: now.l7.tunnels,
            created: now.l7.connections_created,
            reused: now.l7.connections_reused,
            packets: *packets,
            flows: now.l4.flows,
        }
    }
}

impl Row<'_> {
    /// The share of requests on a connection that had carried one before; `None` without any.
    #[must_use]
    pub fn reuse(&self) -> Option<f64> {
        let all = self.created + self.reused;
        (all > 0).then(|| self.reused as f64 / all as f64)
    }
}
