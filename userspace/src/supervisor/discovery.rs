//! Backends by name: DNS says who they are.
//!
//! Each service with `discover` has a task that asks again whenever the answer's time to live is over,
//! within the service's bounds. An answer that differs from the one before is told; what follows is a
//! reload like any other, so that who stays keeps slot, state and connections, and who goes drains.
//!
//! A name that does not exist, an answer without records, and a server that does not answer change
//! nothing: the last answer holds, and the question is asked again. An outage of DNS takes nobody out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use steerage_common::limits::{TIERS, WEIGHT_MAX};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use crate::config::Model;
use crate::config::model::{Backend, Discover, Records, Service};

/// How long a question may take, with all its repetitions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Backends of one answer; more are left out.
const BACKENDS_MAX: usize = 512;

/// Answers that wait for the steward.
const FOUND_MAX: usize = 64;

/// What is looked up for whom.
pub type Question = (String, Discover);

/// An answer that differs from the one before.
#[derive(Debug)]
pub struct Found {
    /// The question.
    pub question: Question,
    /// Its backends, by address.
    pub backends: Vec<Backend>,
}

/// All tasks that ask.
#[derive(Debug)]
pub struct Discovery {
    tasks: HashMap<Question, AbortHandle>,
    set: JoinSet<()>,
    found: mpsc::Sender<Found>,
}

/// What was found so far.
pub type Answers = HashMap<Question, Vec<Backend>>;

/// Everything that a model wants looked up.
pub fn questions(model: &Model) -> impl Iterator<Item = Question> {
    let wanted = |service: &Service| Some((service.name.clone(), service.discover.clone()?));
    model.services.iter().filter_map(wanted)
}

/// The model with the backends that were found, beside those that it names itself. A vip leads to those
/// of its own address family alone.
#[must_use]
pub fn with_found(model: &Model, answers: &Answers) -> Model {
    let mut model = model.clone();
    for (index, service) in model.services.iter_mut().enumerate() {
        let Some(discover) = service.discover.clone() else { continue };
        let question = (service.name.clone(), discover);
        let vip = model.vips.iter().find(|vip| vip.service == index);
        let suits = |backend: &Backend| {
            vip.is_none_or(|vip| vip.address.is_ipv4() == backend.address.is_ipv4())
        };
        for backend in answers.get(&question).into_iter().flatten().filter(|found| suits(found)) {
            if service.backends.iter().all(|known| known.address != backend.address) {
                service.backends.push(backend.clone());
            }
        }
    }
    model
}

/// Asks all questions that have no answer yet, once: so that what begins to serve has somebody to serve
/// it. Who does not answer in time is asked again later.
pub async fn ask_first(model: &Model, answers: &mut Answers) {
    let mut asked = JoinSet::new();
    for question in questions(model).filter(|question| !answers.contains_key(question)) {
        asked.spawn(async move {
            let answer = look_up(&question.1).await;
            (question, answer)
        });
    }
    while let Some(Ok((question, answer))) = asked.join_next().await {
        if let Ok(Answer { backends, .. }) = answer {
            answers.insert(question, backends);
        }
    }
}

impl Discovery {
    /// Asks nothing yet. Answers come out of the receiver.
    pub fn new() -> (Self, mpsc::Receiver<Found>) {
        let (found, answers) = mpsc::channel(FOUND_MAX);
        (Self { tasks: HashMap::new(), set: JoinSet::new(), found }, answers)
    }

    /// Asks what this model wants, and nothing else; what was asked before goes on.
    pub fn turn_to(&mut self, model: &Model, answers: &Answers) {
        let mut former = std::mem::take(&mut self.tasks);
        for question in questions(model) {
            let task = former.remove(&question).unwrap_or_else(|| {
                let known = answers.get(&question).cloned().unwrap_or_default();
                self.set.spawn(follow(question.clone(), known, self.found.clone()))
            });
            self.tasks.insert(question, task);
        }
        for task in former.into_values() {
            task.abort();
        }
        while self.set.try_join_next().is_some() {}
    }
}

/// Asks again and again.
async fn follow(question: Question, mut known: Vec<Backend>, found: mpsc::Sender<Found>) {
    let (service, discover) = &question;
    let mut is_failing = false;
    loop {
        let pause = match look_up(discover).await {
            Ok(Answer { backends, ttl }) => {
                if is_failing {
                    info!(service, name = discover.name, "DNS answers again");
                }
                is_failing = false;
                if backends != known {
                    known.clone_from(&backends);
                    let found = found.send(Found { question: question.clone(), backends }).await;
                    if found.is_err() {
                        return;
                    }
                }
                ttl.clamp(discover.ttl_min, discover.ttl_max)
            }
            Err(error) => {
                if !is_failing {
                    warn!(service, name = discover.name, %error, "DNS: the last answer holds");
                }
                is_failing = true;
                discover.ttl_min
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[derive(Debug)]
struct Answer {
    backends: Vec<Backend>,
    ttl: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the host's resolv.conf: {0}")]
    Setup(NetError),
    #[error("{0}")]
    Lookup(#[from] NetError),
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    #[error("the answer has no address")]
    Empty,
}

async fn look_up(discover: &Discover) -> Result<Answer, Failure> {
    // Made anew: the host's servers may have changed since.
    let resolver = resolver(&discover.servers).map_err(Failure::Setup)?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(&resolver, discover));
    let mut answer = answer.await.map_err(|_| Failure::Timeout)??;
    answer.backends.sort_by_key(|backend| (backend.tier, backend.address));
    answer.backends.dedup_by_key(|backend| backend.address);
    answer.backends.truncate(BACKENDS_MAX);
    if answer.backends.is_empty() { Err(Failure::Empty) } else { Ok(answer) }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        Resolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            config
                .connections
                .iter_mut()
                .for_each(|c: &mut ConnectionConfig| c.port = server.port());
            config
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // Every question is to be asked: when the answer is over is known here.
    builder.options_mut().cache_size = 0;
    builder.build()
}

async fn ask(resolver: &TokioResolver, discover: &Discover) -> Result<Answer, Failure> {
    let mut ttl = discover.ttl_max;
    let mut backends = Vec::new();
    if discover.records != Records::Srv {
        for ip in addresses(resolver, &discover.name, discover.records, &mut ttl).await? {
            let address = SocketAddr::new(ip, discover.port);
            backends.push(backend(&discover.name, address, discover.weight, 0));
        }
        return Ok(Answer { backends, ttl });
    }
    let mut services = Vec::new();
    let lookup = resolver.lookup(discover.name.as_str(), RecordType::SRV).await?;
    for record in lookup.answers() {
        ttl = ttl.min(Duration::from_secs(record.ttl.into()));
        if let RData::SRV(service) = &record.data {
            services.push(service.clone());
        }
    }
    // The lowest number is the first tier.
    let mut priorities: Vec<u16> = services.iter().map(|service| service.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let greatest = services.iter().map(|service| service.weight).max().unwrap_or(0);
    for service in services {
        let tier = priorities.iter().position(|priority| *priority == service.priority);
        // More priorities than there are tiers share the last one.
        let tier = tier.unwrap_or(0).min(TIERS - 1) as u8;
        let weight = scaled(service.weight, greatest);
        let target = service.target.to_utf8();
        for ip in addresses(resolver, &target, Records::Any, &mut ttl).await? {
            backends.push(backend(&target, SocketAddr::new(ip, service.port), weight, tier));
        }
    }
    Ok(Answer { backends, ttl })
}

/// The addresses of a name: none, if it has no records of the kind.
async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    records: Records,
    ttl: &mut Duration,
) -> Result<Vec<IpAddr>, NetError> {
    let kinds: &[RecordType] = match records {
        Records::A => &[RecordType::A],
        Records::Aaaa => &[RecordType::AAAA],
        Records::Any | Records::Srv => &[RecordType::A, RecordType::AAAA],
    };
    let mut addresses = Vec::new();
    for kind in kinds {
        let lookup = match resolver.lookup(name, *kind).await {
            Ok(lookup) => lookup,
            Err(error) if error.is_no_records_found() && !error.is_nx_domain() => continue,
            Err(error) => return Err(error),
        };
        for record in lookup.answers() {
            // Those of aliases on the way count as well.
            *ttl = (*ttl).min(Duration::from_secs(record.ttl.into()));
            match &record.data {
                RData::A(a) => addresses.push(a.0.into()),
                RData::AAAA(aaaa) => addresses.push(aaaa.0.into()),
                _ => {}
            }
        }
    }
    Ok(addresses)
}

/// The weight of an SRV record in our range. Where all have 0, none is preferred; beside others 0 is the
/// least share (RFC 2782).
fn scaled(weight: u16, greatest: u16) -> u16 {
    if greatest <= WEIGHT_MAX {
        return weight.max(1);
    }
    let scaled = u32::from(weight) * u32::from(WEIGHT_MAX) / u32::from(greatest);
    u16::try_from(scaled).unwrap_or(WEIGHT_MAX).max(1)
}

fn backend(name: &str, address: SocketAddr, weight: u16, tier: u8) -> Backend {
    Backend {
        address,
        // A name is the same with and without the root's dot; in certificates it has none.
        host: Some(name.trim_end_matches('.').to_owned()),
        weight,
        tier,
        max_connections: None,
        max_requests: None,
        server_ids: [None; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportions_and_nobody_gets_nothing() {
        let scale = |weights: [u16; 3]| {
            weights.map(|weight| scaled(weight, *weights.iter().max().unwrap()))
        };
        assert_eq!(scale([0, 0, 0]), [1, 1, 1]);
        assert_eq!(scale([10, 60, 0]), [10, 60, 1]);
        assert_eq!(scale([1000, 500, 1]), [256, 128, 1]);
        assert_eq!(scale([u16::MAX, u16::MAX / 2, 0]), [256, 127, 1]);
    }

    #[test]
    fn what_is_found_comes_after_what_is_named_and_suits_the_vip() {
        let text = "[[vip]]\nname = 'v'\naddress = '192.0.2.1:80'\nprotocol = 'tcp'\nmode = 'nat'\n\
            interface = 'eth0'\nservice = 'a'\n[[service]]\nname = 'a'\n\
            discover = { dns = 'a.test:80' }\n[[service.backend]]\naddress = '10.0.0.1:80'\nweight = 3\n\
            [[service]]\nname = 'b'\ndiscover = { dns = 'a.test:80' }\n";
        let model = crate::config::parse(std::path::Path::new("test"), text).unwrap();
        let found = ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"];
        let found = found.map(|address| backend("a.test", address.parse().unwrap(), 1, 0));
        let answers: Answers =
            questions(&model).map(|question| (question, found.to_vec())).collect();
        let both = with_found(&model, &answers);
        let of = |service: usize| {
            let backends = both.services[service].backends.iter();
            backends.map(|b| (b.address.to_string(), b.weight)).collect::<Vec<_>>()
        };
        assert_eq!(of(0), [("10.0.0.1:80".into(), 3), ("10.0.0.2:80".into(), 1)]);
        assert_eq!(of(1).len(), 3);
        assert_eq!(with_found(&model, &Answers::new()), model);
    }
}
