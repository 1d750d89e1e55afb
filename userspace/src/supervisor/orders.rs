//! An operator's orders about backends: events for the shared state machine, like everything else that
//! decides over a backend. So they are in force in both planes with the swap, and outlive the daemon.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steerage_common::health::{Event, State};
use tracing::{info, warn};

use super::view::View;
use crate::admin::order::{Action, Daemon, Refusal, Remaining, Terms};
use crate::config::model::Service;
use crate::kernel::flows::Flows;
use crate::region::{Region, Tenant};
use crate::stats::status::Status;

impl View {
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
        let (service, tenant) = self.find(service, backend)?;
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
                // An operator may have thought better of it meanwhile.
                if region.word(tenant.slot()).state() == State::Draining {
                    region.apply(tenant, Event::Maintain, &policy);
                    warn!(service = name, %backend, "drain deadline: the backend is out");
                }
            });
        }
        Ok(())
    }

    fn remaining(&self, service: &str, backend: SocketAddr) -> Result<Remaining, Refusal> {
        let (service, tenant) = self.find(service, backend)?;
        let index = self.model.services.iter().position(|known| known.name == service.name);
        let has_vip = self.model.vips.iter().any(|vip| Some(vip.service) == index);
        let flows = match has_vip && self.kernel.is_some() {
            false => None,
            true => {
                let failed = |error: crate::kernel::Error| Refusal::Flows(error.to_string());
                let table = Flows::open(&super::instance_dir(&self.model)).map_err(failed)?;
                Some(table.live().get(&tenant.slot()).copied().unwrap_or(0))
            }
        };
        Ok(in_hand(&self.region, tenant, flows))
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
