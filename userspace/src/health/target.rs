//! Who is asked, and who wants to know.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use steerage_common::health::Policy;

use crate::config::model::Check;
use crate::region::{Group, Tenant};

/// A backend, as one service sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The service.
    pub group: Arc<Group>,
    /// The backend's address.
    pub backend: SocketAddr,
    /// The backend's hold on its slot.
    pub tenant: Tenant,
    /// The service's numbers.
    pub policy: Policy,
}

/// One address and, unless its services do without, one check of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address that is asked.
    pub address: SocketAddr,
    /// The check; `None` for ticks only.
    pub check: Option<Arc<Check>>,
    /// All who want to know.
    pub subscribers: Vec<Subscriber>,
}

/// Gathers the backends of all services: one target for each (address, check).
#[must_use]
pub fn targets<'a>(
    backends: impl IntoIterator<Item = (Option<Cow<'a, Check>>, Subscriber)>,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut checks: HashSet<Arc<Check>> = HashSet::new();
    let mut index: HashMap<(SocketAddr, Option<Arc<Check>>), usize> = HashMap::new();
    for (check, subscriber) in backends {
        let check = check.map(|check| match checks.get(check.as_ref()) {
            Some(known) => known.clone(),
            None => {
                let shared = Arc::new(check.into_owned());
                checks.insert(shared.clone());
                shared
            }
        });
        let backend = subscriber.backend;
        let address = check.as_ref().map_or(backend, |check| check.target(backend));
        let at = *index.entry((address, check)).or_insert_with_key(|(address, check)| {
            let (address, check) = (*address, check.clone());
            targets.push(Target { address, check, subscribers: Vec::new() });
            targets.len() - 1
        });
        targets[at].subscribers.push(subscriber);
    }
    targets
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use steerage_common::slot::Slot;

    use super::*;
    use crate::config::model::CheckKind;

    pub fn check(interval: Duration) -> Check {
        let timeout = Duration::from_secs(10);
        Check {
            kind: CheckKind::Tcp,
            address: None,
            port: None,
            proxy_protocol: None,
            interval,
            timeout,
        }
    }

    pub fn subscriber(slot: u16, backend: SocketAddr) -> Subscriber {
        let tenant = Tenant::new(Slot::new(slot).unwrap(), 0);
        Subscriber {
            group: Arc::new(Group::without_rules("api", &[tenant], 0)),
            backend,
            tenant,
            policy: Policy { fall: 2, ..Policy::DEFAULT },
        }
    }

    #[test]
    fn services_that_share_a_backend_share_its_check() {
        let backend: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let (one, other) = (check(Duration::from_secs(1)), check(Duration::from_secs(2)));
        let gathered = targets([
            (Some(Cow::Borrowed(&one)), subscriber(0, backend)),
            (Some(Cow::Borrowed(&one)), subscriber(1, backend)),
            (Some(Cow::Borrowed(&other)), subscriber(2, backend)),
            (None, subscriber(3, backend)),
        ]);
        assert_eq!(gathered.iter().map(|t| t.subscribers.len()).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn it_is_the_address_asked_that_counts() {
        let address = "127.0.0.2".parse().ok();
        let aside = Check { address, port: Some(8081), ..check(Duration::from_secs(1)) };
        let backends = ["127.0.0.1:9", "127.0.0.1:10"].map(|text| text.parse().unwrap());
        let gathered = targets([
            (Some(Cow::Borrowed(&aside)), subscriber(0, backends[0])),
            (Some(Cow::Borrowed(&aside)), subscriber(1, backends[1])),
        ]);
        assert_eq!(gathered.len(), 1);
        assert_eq!(gathered[0].address, "127.0.0.2:8081".parse().unwrap());
    }
}
