use std::borrow::Cow;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use steerage_common::health::{Cause, Event, Policy, State};

use super::*;
use crate::health::target::tests::{check, subscriber};
use crate::health::target::{Subscriber, targets};
use crate::region::{Group, Tenant};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(7 * 24 * 3600);

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        thread::yield_now();
    }
}

/// Waits until the state is reached and its bits are published: the one follows the other.
#[track_caller]
fn wait_for(region: &Region, tenant: Tenant, state: State) {
    wait_until(state.name(), || {
        let word = region.word(tenant.slot());
        let bits = (region.accepts_new(tenant.slot()), region.keeps_flows(tenant.slot()));
        word.state() == state && bits == (word.accepts_new(), word.keeps_flows())
    });
}

fn eject(region: &Region, tenant: Tenant, policy: &Policy) {
    let event = Event::Eject { cause: Cause::Share, jitter: 0 };
    let change = region.apply(tenant, event, policy).unwrap();
    assert_eq!(change.to.state(), State::Ejected);
}

fn assign(region: &Region, subscriber: &Subscriber) -> Tenant {
    region.apply(subscriber.tenant, Event::Assigned, &subscriber.policy).unwrap();
    subscriber.tenant
}

/// A server on every address of 127/8, which counts connections by the address they came to.
struct Counting {
    port: u16,
    counts: Arc<[AtomicUsize; 256]>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Counting {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts: Arc<[AtomicUsize; 256]> =
            Arc::new(std::array::from_fn(|_| AtomicUsize::new(0)));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (counts, is_over) = (counts.clone(), is_over.clone());
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    // One that the prober has reset since does not know its address.
                    if let Ok(SocketAddr::V4(own)) = stream.local_addr() {
                        counts[usize::from(own.ip().octets()[3])].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { port, counts, is_over, thread: Some(thread) }
    }

    fn address(&self, last: u8) -> SocketAddr {
        SocketAddr::from(([127, 77, 0, last], self.port))
    }

    fn count(&self, last: u8) -> usize {
        self.counts[usize::from(last)].load(Ordering::Relaxed)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address(1));
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn a_backend_is_known_before_the_start_and_followed_after_it() {
    let region = Arc::new(Region::in_memory(1).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let check = check(Duration::from_millis(20));
    let subscribers = [subscriber(0, address), subscriber(1, address)];
    let tenants = subscribers.each_ref().map(|subscriber| assign(&region, subscriber));
    let gathered = targets(subscribers.map(|subscriber| (Some(Cow::Borrowed(&check)), subscriber)));
    let prober = Prober::start(region.clone(), gathered, Arc::default()).unwrap();
    assert!(tenants.iter().all(|tenant| region.accepts_new(tenant.slot())));
    drop(listener);
    for tenant in tenants {
        wait_for(&region, tenant, State::Down);
        assert!(!region.accepts_new(tenant.slot()) && !region.keeps_flows(tenant.slot()));
    }
    let report = prober.report(address, &check).unwrap();
    assert!(report.failure.unwrap().starts_with("connect: "));
    assert!(report.ok >= 1 && report.failed >= 2);
    let _again = TcpListener::bind(address).unwrap();
    for tenant in tenants {
        wait_for(&region, tenant, State::Up);
    }
    let (_, checks) = prober.lag().cumulative();
    assert!(checks >= 4, "{checks}");
}

/// It was leaving, and is wanted again before it was gone.
#[test]
fn a_backend_that_comes_back_is_known_at_once_however_long_the_interval() {
    let region = Arc::new(Region::in_memory(1).unwrap());
    let server = Counting::start();
    let known = subscriber(3, server.address(1));
    let (tenant, policy) = (assign(&region, &known), known.policy);
    let asked = || targets([(Some(Cow::Owned(check(NEVER))), known.clone())]);
    let prober = Prober::start(region.clone(), asked(), Arc::default()).unwrap();
    wait_for(&region, tenant, State::Up);
    region.apply(tenant, Event::Drain, &policy);
    // Taken, before the backend is wanted again: else it would hear of the check too soon.
    prober.update(asked(), Arc::default()).wait();
    region.apply(tenant, Event::Enable, &policy);
    assert_eq!(region.word(tenant.slot()).state(), State::Unknown);
    prober.update(asked(), Arc::default()).wait();
    wait_for(&region, tenant, State::Up);
    // A connection that is made need not be accepted yet.
    while server.count(1) == 0 {
        thread::yield_now();
    }
    assert_eq!(server.count(1), 1, "its last check said so");
}

#[test]
fn ticks_end_an_ejection() {
    let region = Arc::new(Region::in_memory(1).unwrap());
    let mut subscriber = subscriber(5, "127.0.0.1:9".parse().unwrap());
    subscriber.policy =
        Policy { probed: false, consecutive: 1, ejection_ticks: 1, ..subscriber.policy };
    let (tenant, policy) = (assign(&region, &subscriber), subscriber.policy);
    eject(&region, tenant, &policy);
    assert!(!region.accepts_new(tenant.slot()));
    let _prober =
        Prober::start(region.clone(), targets([(None, subscriber)]), Arc::default()).unwrap();
    wait_for(&region, tenant, State::Probation);
}

#[test]
fn ten_services_that_share_a_hundred_addresses_send_a_hundred_checks() {
    let server = Counting::start();
    let region = Arc::new(Region::in_memory(1).unwrap());
    let check = check(NEVER);
    let mut subscribers = Vec::new();
    for service in 0..10 {
        for host in 1..=100 {
            let backend = server.address(host);
            let mut subscriber = subscriber(service * 100 + u16::from(host), backend);
            // Their opinions of a result may differ; the question is one.
            subscriber.policy.rise = service as u8 + 1;
            subscribers.push(subscriber);
        }
    }
    let tenants: Vec<_> = subscribers.iter().map(|s| assign(&region, s)).collect();
    let gathered = targets(
        subscribers.into_iter().map(|subscriber| (Some(Cow::Borrowed(&check)), subscriber)),
    );
    let prober = Prober::start(region.clone(), gathered, Arc::default()).unwrap();
    assert!(tenants.iter().all(|tenant| region.accepts_new(tenant.slot())), "not all 1,000 are up");
    wait_until("a connection to each", || (1..=100).all(|host| server.count(host) > 0));
    drop(prober);
    // What comes now came after all that the prober had sent.
    std::net::TcpStream::connect(server.address(200)).unwrap();
    wait_until("a last connection", || server.count(200) > 0);
    assert!((1..=100).all(|host| server.count(host) == 1), "an address was asked twice");
}

#[test]
fn a_failed_request_makes_the_next_check_immediate_and_only_of_its_backend() {
    let server = Counting::start();
    let region = Arc::new(Region::in_memory(1).unwrap());
    let check = check(NEVER);
    let subscribers = [1, 2].map(|host| subscriber(host.into(), server.address(host)));
    let policy = Policy { consecutive: 3, ..subscribers[0].policy };
    let [first, _] = subscribers.each_ref().map(|subscriber| assign(&region, subscriber));
    let gathered = targets(subscribers.map(|subscriber| (Some(Cow::Borrowed(&check)), subscriber)));
    let prober = Prober::start(region.clone(), gathered, Arc::default()).unwrap();
    let reports = || [1, 2].map(|host| prober.report(server.address(host), &check).unwrap().ok);
    assert_eq!(reports(), [1, 1]);
    // As a worker does it: through the mapped word.
    let failed = Event::RequestFailed { jitter: 128 };
    region.apply(first, failed, &policy).unwrap();
    wait_until("a check after a failure", || reports() == [2, 1]);
    assert_eq!(region.word(first.slot()).request_failures(), 1, "a probe is no answer to it");
    eject(&region, first, &policy);
    wait_until("a check after an ejection", || reports() == [3, 1]);
}

#[test]
fn a_backend_that_died_is_down_soon_after_its_requests_fail_however_long_the_interval() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let region = Arc::new(Region::in_memory(1).unwrap());
    let check = check(NEVER);
    let subscriber = subscriber(0, address);
    let (tenant, policy) = (assign(&region, &subscriber), subscriber.policy);
    let _prober = Prober::start(
        region.clone(),
        targets([(Some(Cow::Borrowed(&check)), subscriber)]),
        Arc::default(),
    )
    .unwrap();
    assert_eq!(region.word(tenant.slot()).state(), State::Up);
    drop(listener);
    region.apply(tenant, Event::RequestFailed { jitter: 128 }, &policy).unwrap();
    wait_for(&region, tenant, State::Down);
}

#[test]
fn a_backend_whose_ejection_is_over_is_asked_at_once_however_long_the_interval() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let region = Arc::new(Region::in_memory(1).unwrap());
    let check = check(NEVER);
    let mut subscriber = subscriber(0, listener.local_addr().unwrap());
    subscriber.policy.ejection_ticks = 1;
    let (tenant, policy) = (assign(&region, &subscriber), subscriber.policy);
    let _prober = Prober::start(
        region.clone(),
        targets([(Some(Cow::Borrowed(&check)), subscriber)]),
        Arc::default(),
    )
    .unwrap();
    eject(&region, tenant, &policy);
    wait_for(&region, tenant, State::Up);
    assert_eq!(region.word(tenant.slot()).ejections(), 1);
}

#[test]
fn a_service_without_any_worker_panics_too_and_calms_down() {
    const LINE: u16 = 7;
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let text = format!(
        "[[listener]]\nname = 'web'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n\
         [[listener.route]]\nservice = 'a'\n[[service]]\nname = 'a'\npanic_percent = 60\n\
         [[service.backend]]\naddress = '{}'\n[[service.backend]]\naddress = '{}'\n",
        addresses[0], addresses[1]
    );
    let model = crate::config::parse(std::path::Path::new("test"), &text).unwrap();
    let region = Arc::new(Region::in_memory(1).unwrap());
    let check = check(Duration::from_millis(20));
    let mut subscribers = [subscriber(0, addresses[0]), subscriber(1, addresses[1])];
    let tenants = subscribers.each_ref().map(|subscriber| assign(&region, subscriber));
    let group = Arc::new(Group::new(&model.services[0], &tenants, LINE));
    subscribers.iter_mut().for_each(|subscriber| subscriber.group = group.clone());
    let gathered = targets(subscribers.map(|subscriber| (Some(Cow::Borrowed(&check)), subscriber)));
    let _prober = Prober::start(region.clone(), gathered, Arc::default()).unwrap();
    let panics = || region.service(LINE).panicking.load(Ordering::Acquire) == 1;
    assert!(!panics());
    let [gone, _stays] = listeners;
    drop(gone);
    wait_until("a panic", panics);
    assert_eq!(region.word(tenants[0].slot()).state(), State::Down);
    let _again = TcpListener::bind(addresses[0]).unwrap();
    wait_until("calm", || !panics());
    assert_eq!(region.word(tenants[0].slot()).state(), State::Up);
}
