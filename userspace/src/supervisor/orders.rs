//! An operator's orders about backends: events for the shared state machine, like everything else that
//! decides over a backend. So they are in force in both planes with the swap, and outlive the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use steerage_common::health::{Event, State};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::Error;
use super::steward::Wish;
use super::view::{InForce, View};
use crate::admin::order::{
    Action, ConfigChange, Daemon, Later, Refusal, Reloaded, Remaining, Revision, Terms, Upgraded,
};
use crate::config::model::{Mode, Service};
use crate::config::plan::Change;
use crate::kernel::flows::Flows;
use crate::region::{Region, Tenant};
use crate::stats::status::Status;

impl InForce {
    fn find(&self, service: &str, backend: SocketAddr) -> Result<(&Service, Tenant), Refusal> {
        let unknown = || Refusal::Unknown { service: service.to_owned(), backend };
        let services = self.model.services.iter().zip(&self.published.tenants);
        let (service, tenants) =
            services.into_iter().find(|(known, _)| known.name == service).ok_or_else(unknown)?;
        let known = service.backends.iter().zip(tenants);
        let tenant = known.into_iter().find(|(known, _)| known.address == backend);
        Ok((service, *tenant.ok_or_else(unknown)?.1))
    }
}

impl Daemon for View {
    fn status(&self) -> Status {
        Self::status(self)
    }

    fn order(
        &self,
        service: &str,
        backend: SocketAddr,
        action: Action,
        terms: Terms,
    ) -> Result<(), Refusal> {
        let now = self.in_force();
        let (service, tenant) = now.find(service, backend)?;
        let event = match action {
            Action::Drain => Event::Drain,
            Action::Maintenance => Event::Maintain,
            Action::Undrain => Event::Enable,
        };
        let policy = service.policy();
        self.region.apply(tenant, event, &policy);
        info!(service = service.name, %backend, order = action.name(), "by an operator's order");
        if let (Action::Drain, Some(ms)) = (action, terms.deadline_ms) {
            let (region, name) = (self.region.clone(), service.name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                // An operator may have thought better of it meanwhile; of another tenant of the slot the
                // order is not.
                if region.word(tenant.slot()).state() == State::Draining {
                    region.apply(tenant, Event::Maintain, &policy);
                    warn!(service = name, %backend, "drain deadline: the backend is out");
                }
            });
        }
        Ok(())
    }

    fn page_token(&self) -> Option<PathBuf> {
        self.in_force().model.global.page_token.clone()
    }

    fn follow_lines(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.access.follow_lines()
    }

    fn remaining(&self, service: &str, backend: SocketAddr) -> Result<Remaining, Refusal> {
        let now = self.in_force();
        let (service, tenant) = now.find(service, backend)?;
        let index = now.model.services.iter().position(|known| known.name == service.name);
        let has_vip = now.model.vips.iter().any(|vip| {
            // Where backends answer clients themselves nobody here knows of a flow's end.
            Some(vip.service) == index && vip.mode == Mode::Nat
        });
        let flows = match has_vip && self.kernel.is_some() {
            false => None,
            true => {
                let failed = |error: crate::kernel::Error| Refusal::Flows(error.to_string());
                let table = Flows::open(&super::instance_dir(&now.model)).map_err(failed)?;
                Some(table.live().get(&tenant.slot()).copied().unwrap_or(0))
            }
        };
        Ok(in_hand(&self.region, tenant, flows))
    }

    fn reload(&self) -> Later<'_, Result<Reloaded, Refusal>> {
        Box::pin(self.ask(Wish::Reload))
    }

    fn diff(&self) -> Later<'_, Result<Vec<Change>, Refusal>> {
        Box::pin(self.ask(Wish::Diff))
    }

    fn config(&self) -> serde_json::Value {
        // The workers are handed it in the same way.
        serde_json::to_value(&self.in_force().model).unwrap_or_default()
    }

    fn text(&self) -> Later<'_, Result<String, Refusal>> {
        Box::pin(self.ask(Wish::Text))
    }

    fn revisions(&self) -> Later<'_, Result<Vec<Revision>, Refusal>> {
        Box::pin(self.ask(Wish::Revisions))
    }

    fn rotate_tickets(&self) -> Later<'_, Result<(), Refusal>> {
        Box::pin(self.ask(Wish::RotateTickets))
    }

    fn upgrade(&self, binary: Option<PathBuf>) -> Later<'_, Result<Upgraded, Refusal>> {
        let wish = move |answer| Wish::Upgrade(binary, answer);
        Box::pin(async {
            let upgraded = self.ask(wish).await;
            upgraded.map_err(|refusal| Refusal::Upgrade(refusal.to_string()))
        })
    }

    fn change(&self, change: ConfigChange, persist: bool) -> Later<'_, Result<Reloaded, Refusal>> {
        Box::pin(self.ask(move |answer| Wish::Change(change, persist, answer)))
    }
}

impl View {
    /// Asks the steward.
    async fn ask<T>(
        &self,
        wish: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Wish,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let outcome = match self.steward.send(wish(answer)).await {
            Ok(()) => answered.await.unwrap_or(Err(Error::Ending)),
            Err(_) => Err(Error::Ending),
        };
        outcome.map_err(|error| Refusal::Config(error.to_string()))
    }
}

fn in_hand(region: &Region, tenant: Tenant, flows: Option<u64>) -> Remaining {
    let slot = tenant.slot();
    let mut remaining = Remaining {
        state: region.word(slot).state().name().into(),
        requests: 0,
        tunnels: 0,
        connections: 0,
        flows,
    };
    for worker in 0..region.cell_workers() {
        let cell = region.cell(worker, slot);
        remaining.requests += u64::from(cell.active.load(Ordering::Relaxed));
        remaining.tunnels += u64::from(cell.tunnels.load(Ordering::Relaxed));
        remaining.connections += u64::from(cell.connections.load(Ordering::Relaxed));
    }
    remaining
}
