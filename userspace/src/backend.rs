//! `steerage backend`: orders about backends, and a drain as one watches it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use steerage::admin::client;
use steerage::admin::order::{Action, ConfigChange, Remaining, Terms};
use steerage::cli::{self, Backend};
use steerage::config::edit::{Edit, NewBackend};
use steerage::stats::status::Status;
use steerage::stats::table;

use crate::configuration::change;
use crate::{admin_socket, ask};

/// Between two looks at what a draining backend still has.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    service: String,
    address: SocketAddr,
}

pub fn run(what: Backend) -> anyhow::Result<()> {
    match what {
        Backend::List { json, daemon } => {
            let status = ask(client::status(&admin_socket(&daemon)?))?;
            if json {
                let Status { services, leaving, .. } = status;
                let all = serde_json::json!({ "services": services, "leaving": leaving });
                println!("{}", serde_json::to_string_pretty(&all)?);
                return Ok(());
            }
            print!("{}", table::render_backends(&status));
            Ok(())
        }
        Backend::Drain { name, deadline, no_wait, json, daemon } => {
            let socket = admin_socket(&daemon)?;
            let deadline_ms = deadline.map(|deadline| deadline.as_millis() as u64);
            let named = order(&socket, &name, Action::Drain, Terms { deadline_ms }, json)?;
            if no_wait { Ok(()) } else { watch(&socket, &named, json) }
        }
        Backend::Add { name, weight, tier, max_requests, max_connections, options } => {
            let Some((service, address)) = name.split_once('/') else {
                bail!("{name:?}: give SERVICE/ADDRESS:PORT");
            };
            let (service, address) = (service.to_owned(), address_of(&name, address)?);
            let backend = NewBackend { address, weight, tier, max_requests, max_connections };
            change(&ConfigChange::Edit(Edit::AddBackend { service, backend }), &options)
        }
        Backend::Remove { name, options } => {
            for_each(&name, &options, |Named { service, address: backend }| Edit::RemoveBackend {
                service,
                backend,
            })
        }
        Backend::Weight { name, weight, options } => {
            for_each(&name, &options, |Named { service, address: backend }| Edit::SetWeight {
                service,
                backend,
                weight,
            })
        }
        Backend::Undrain { name, json, daemon } => {
            order(&admin_socket(&daemon)?, &name, Action::Undrain, Terms::default(), json).map(drop)
        }
        Backend::Maintenance { name, json, daemon } => {
            order(&admin_socket(&daemon)?, &name, Action::Maintenance, Terms::default(), json)
                .map(drop)
        }
    }
}

/// Makes a change about each of the backends of this name.
fn for_each(name: &str, options: &cli::Change, edit: impl Fn(Named) -> Edit) -> anyhow::Result<()> {
    for named in find(&ask(client::status(&admin_socket(&options.daemon)?))?, name)? {
        change(&ConfigChange::Edit(edit(named)), options)?;
    }
    Ok(())
}

fn order(
    socket: &Path,
    name: &str,
    action: Action,
    terms: Terms,
    json: bool,
) -> anyhow::Result<Vec<Named>> {
    let named = find(&ask(client::status(socket))?, name)?;
    for Named { service, address } in &named {
        ask(client::order(socket, service, *address, action, terms))?;
        if json {
            let given = serde_json::json!({
                "service": service, "backend": address, "order": action.name(),
            });
            println!("{given}");
        } else {
            println!("{service}/{address}: {}", action.name());
        }
    }
    Ok(named)
}

/// The backends of this name.
fn find(status: &Status, name: &str) -> anyhow::Result<Vec<Named>> {
    let (service, address) = match name.split_once('/') {
        Some((service, address)) => (Some(service), address),
        None => (None, name),
    };
    let address = address_of(name, address)?;
    let named: Vec<Named> = status
        .services
        .iter()
        .filter(|known| service.is_none_or(|service| known.name == service))
        .filter(|known| known.backends.iter().any(|backend| backend.address == address))
        .map(|known| Named { service: known.name.clone(), address })
        .collect();
    if named.is_empty() {
        bail!("no service has the backend {name}; `steerage backend list` names them all");
    }
    Ok(named)
}

fn address_of(name: &str, address: &str) -> anyhow::Result<SocketAddr> {
    let parsed = address.parse();
    parsed.map_err(|_| anyhow!("{name:?} is no backend: give ADDRESS:PORT or SERVICE/ADDRESS:PORT"))
}

/// Shows what is left until nothing is, or until the deadline has put the backend out.
fn watch(socket: &Path, named: &[Named], json: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let mut is_done = true;
        for Named { service, address } in named {
            let left = ask(client::remaining(socket, service, *address))?;
            let seconds = began.elapsed().as_secs_f64();
            if json {
                let seen = serde_json::json!({
                    "seconds": seconds, "service": service, "backend": address, "remaining": left,
                });
                println!("{seen}");
            } else {
                println!("{seconds:>6.1}s  {service}/{address}: {}", line(&left));
            }
            if left.state != "draining" {
                bail!(
                    "{service}/{address} is {} before it was drained: {}",
                    left.state,
                    line(&left)
                );
            }
            is_done &= left.is_nothing();
        }
        if is_done {
            if !json {
                println!("drained");
            }
            return Ok(());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn line(left: &Remaining) -> String {
    let flows = left.flows.map_or(String::new(), |flows| format!(", {flows} flows"));
    format!(
        "{}, {} requests, {} tunnels, {} connections{flows}",
        left.state, left.requests, left.tunnels, left.connections
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_one_line() {
        let left = Remaining {
            state: "draining".into(),
            requests: 2,
            tunnels: 1,
            connections: 3,
            flows: Some(7),
        };
        assert_eq!(line(&left), "draining, 2 requests, 1 tunnels, 3 connections, 7 flows");
        assert!(!left.is_nothing());
        let idle = Remaining { requests: 0, tunnels: 0, flows: None, ..left };
        assert!(idle.is_nothing(), "idle connections are no work");
    }
}
