use std::sync::atomic::Ordering;
use std::time::Duration;

use steerage_common::abi::FailureClass;
use steerage_common::candidates;
use steerage_common::health::{Event, State};
use steerage_common::limits::RING_ENTRIES;
use steerage_common::maglev::{Cursor, Member, populate};
use steerage_common::slot::Slot;
use steerage_common::steer::NOBODY;

use super::*;

/// A service of unprobed backends that are up, seen by `workers` workers.
fn workers(weights: &[u16], balance: Balance, workers: usize) -> Vec<Service> {
    workers_with(weights, balance, workers, |_| {})
}

fn workers_with(
    weights: &[u16],
    balance: Balance,
    workers: usize,
    adapt: impl FnOnce(&mut model::Service),
) -> Vec<Service> {
    let region = Rc::new(Region::in_memory(workers).unwrap());
    let backends = weights.iter().zip(1u16..).map(|(weight, port)| model::Backend {
        host: None,
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        weight: *weight,
        tier: 0,
        max_connections: None,
        server_ids: [None; 2],
        max_requests: None,
    });
    let mut model = model::Service {
        upstream_tls: None,
        name: "web".into(),
        balance,
        hash_key: model::HashKey::Source,
        sticky_cookie: None,
        discover: None,
        slow_start: Duration::ZERO,
        panic_percent: 0,
        queue_timeout: Duration::from_secs(1),
        probe: None,
        ejection: model::Ejection {
            consecutive: 3,
            ratio: 1.0,
            window: Duration::from_secs(10),
            least_requests: u32::MAX,
            server_errors: false,
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
            max_percent: 50,
        },
        upstream: model::Upstream {
            proxy_protocol: None,
            protocol: UpstreamProtocol::Http1,
            streams: 1,
            idle: Duration::from_secs(1),
            ping: Duration::from_secs(1),
        },
        pool: model::Pool {
            max_idle: 1,
            idle: Duration::from_secs(1),
            max_age: Duration::from_secs(1),
            max_requests: 1,
        },
        stale_replay: model::StaleReplay::Proven,
        retry: model::Retry { attempts: 1, budget_percent: 20, lost: true },
        backends: backends.collect(),
    };
    adapt(&mut model);
    // Slots on both sides of a word's end.
    let tenants: Vec<Tenant> =
        (60..).take(weights.len()).map(|index| Tenant::new(Slot::new(index).unwrap(), 0)).collect();
    for tenant in &tenants {
        region.apply(*tenant, Event::Assigned, &model.policy());
    }
    (0..workers)
        .map(|worker| Service::new(&model, &tenants, 3, worker, region.clone(), worker as u64))
        .collect()
}

fn drain(service: &Service, backend: usize) {
    service.region.apply(service.backends[backend].tenant, Event::Drain, &service.policy);
}

fn picked(service: &Service, tried: &[usize]) -> Option<usize> {
    service.pick(&Criteria { tried, ..Criteria::ANY }).map(|pick| pick.backend)
}

fn eject(service: &Service, backend: usize) {
    for _ in 0..3 {
        service.failed(backend, FailureClass::Connect);
    }
}

fn state(service: &Service, backend: usize) -> State {
    service.region.word(service.backends[backend].tenant.slot()).state()
}

#[test]
fn turns_are_exact_over_all_workers_together() {
    let workers = workers(&[5, 1], Balance::RoundRobin, 3);
    let mut counts = [0; 2];
    for request in 0..6000 {
        counts[picked(&workers[request * 7 % 3], &[]).unwrap()] += 1;
    }
    assert_eq!(counts, [5000, 1000]);
}

#[test]
fn a_backend_that_takes_no_work_is_skipped_at_once_and_by_everyone() {
    let workers = workers(&[1, 1, 1, 1, 1, 0], Balance::RoundRobin, 2);
    for service in &workers {
        picked(service, &[]);
    }
    drain(&workers[0], 4);
    drain(&workers[0], 0);
    for service in &workers {
        let mut turns: Vec<_> = (0..3).filter_map(|_| picked(service, &[])).collect();
        turns.sort_unstable();
        assert_eq!(turns, [1, 2, 3]);
    }
}

#[test]
fn there_is_no_backend_when_none_takes_work() {
    for balance in [Balance::RoundRobin, Balance::LeastRequests] {
        let service = &workers(&[1, 0], balance, 1)[0];
        assert_eq!(picked(service, &[]), Some(0));
        assert_eq!(picked(service, &[0]), None);
        drain(service, 0);
        assert_eq!(picked(service, &[]), None);
    }
}

#[test]
fn a_second_attempt_goes_elsewhere_and_takes_no_turn() {
    for balance in [Balance::RoundRobin, Balance::LeastRequests] {
        let service = &workers(&[256, 1, 1], balance, 1)[0];
        let position = &service.region.service(3).position;
        let before = position.load(Ordering::Relaxed);
        for _ in 0..20 {
            assert!(matches!(picked(service, &[0]), Some(1 | 2)));
            assert_eq!(picked(service, &[0, 2]), Some(1));
            assert_eq!(picked(service, &[0, 1, 2]), None);
        }
        assert_eq!(position.load(Ordering::Relaxed), before);
    }
}

#[test]
fn the_less_loaded_for_its_weight_is_picked() {
    let workers = workers(&[4, 1], Balance::LeastRequests, 2);
    let active = |worker: usize, backend: usize, requests| {
        let slot = workers[0].backends[backend].tenant.slot();
        workers[0].region.cell(worker, slot).active.store(requests, Ordering::Relaxed);
    };
    active(0, 0, 2);
    active(0, 1, 1);
    assert_eq!(picked(&workers[0], &[]), Some(0), "2/4 against 1/1");
    active(1, 0, 4);
    assert_eq!(picked(&workers[0], &[]), Some(1), "6/4 against 1/1: the other worker's count");
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_forgives() {
    let service = &workers(&[1, 1, 1], Balance::RoundRobin, 1)[0];
    for _ in 0..5 {
        service.failed(0, FailureClass::Reset);
        service.failed(0, FailureClass::Reset);
        service.succeeded(0);
    }
    assert_eq!(state(service, 0), State::Up);
    eject(service, 0);
    assert_eq!(state(service, 0), State::Ejected);
    assert!(!service.accepts_new(0));
    let cell = service.region.cell(0, service.backends[0].tenant.slot());
    assert_eq!(cell.ejections.load(Ordering::Relaxed), 1);
}

#[test]
fn neither_too_many_nor_the_last_one_are_ejected() {
    let service = &workers(&[1, 1, 1, 1, 1], Balance::RoundRobin, 1)[0];
    for backend in 0..5 {
        eject(service, backend);
    }
    let ejected = |service: &Service| {
        (0..service.backends.len()).filter(|index| state(service, *index) == State::Ejected).count()
    };
    assert_eq!(ejected(service), 2, "half of five");
    let service = &workers(&[1, 1, 0], Balance::RoundRobin, 1)[0];
    drain(service, 0);
    eject(service, 1);
    assert_eq!(ejected(service), 0, "it was the last one with a weight");
}

#[test]
fn one_request_decides_over_a_backend_in_probation() {
    let workers = workers(&[1, 1, 1], Balance::RoundRobin, 2);
    eject(&workers[0], 0);
    // Until the ejection's 100 ms are over by the real clock.
    while state(&workers[0], 0) == State::Ejected {
        workers[0].tick();
    }
    workers[1].tick();
    assert_eq!(workers[0].pick(&Criteria::ANY), Some(Pick { backend: 0, is_trial: true }));
    for _ in 0..9 {
        assert!(matches!(
            workers[1].pick(&Criteria::ANY),
            Some(Pick { backend: 1 | 2, is_trial: false })
        ));
        workers[0].tick();
        assert!(matches!(
            workers[0].pick(&Criteria::ANY),
            Some(Pick { backend: 1 | 2, is_trial: false })
        ));
    }
    workers[0].succeeded(0);
    assert_eq!(state(&workers[0], 0), State::Up);
    assert!((0..3).any(|_| picked(&workers[1], &[]) == Some(0)));
}

const ALL: [Balance; 5] = [
    Balance::RoundRobin,
    Balance::LeastRequests,
    Balance::PeakEwma,
    Balance::Random,
    Balance::Maglev,
];

fn counts(service: &Service, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; service.backends.len()];
    for hash in 0..picks {
        let hash = steerage_common::hash::mix(hash as u64 + 1);
        counts[service.pick(&Criteria { hash, ..Criteria::ANY }).unwrap().backend] += 1;
    }
    counts
}

#[test]
fn no_balance_gives_work_to_weight_0_or_to_the_dead() {
    for balance in ALL {
        let service = &workers(&[3, 0, 2, 1], balance, 1)[0];
        drain(service, 3);
        let counts = counts(service, 1000);
        assert!(counts[0] > 0 && counts[2] > 0, "{balance:?}: {counts:?}");
        assert_eq!((counts[1], counts[3]), (0, 0), "{balance:?}");
    }
}

#[test]
fn without_a_difference_shares_are_by_weight() {
    for balance in [Balance::Random, Balance::Maglev, Balance::LeastRequests, Balance::PeakEwma] {
        let service = &workers(&[5, 1, 4, 2], balance, 1)[0];
        let counts = counts(service, 60_000);
        assert!(counts[0].abs_diff(25_000) < 800, "{balance:?}: {counts:?}");
    }
}

#[test]
fn the_next_tier_serves_when_the_former_has_none() {
    for balance in ALL {
        let service = &workers_with(&[1, 1, 1], balance, 1, |model| {
            model.backends[1].tier = 1;
            model.backends[2].tier = 2;
        })[0];
        assert_eq!(counts(service, 100), [100, 0, 0], "{balance:?}");
        drain(service, 0);
        assert_eq!(counts(service, 100), [0, 100, 0], "{balance:?}");
    }
}

#[test]
fn in_a_panic_health_is_ignored_but_not_the_operator() {
    for balance in ALL {
        let service = &workers_with(&[1; 6], balance, 1, |model| {
            model.panic_percent = 50;
            model.probe = None;
            model.ejection.max_percent = 100;
            model.ejection.base = Duration::from_secs(60);
            model.ejection.max = Duration::from_secs(60);
        })[0];
        for backend in 0..3 {
            eject(service, backend);
        }
        assert_eq!(counts(service, 600)[..3], [0; 3], "{balance:?}: half is enough");
        eject(service, 3);
        let all = counts(service, 6000);
        assert!(all.iter().all(|count| *count > 0), "{balance:?}: {all:?}");
        assert_eq!(service.region.service(3).panicking.load(Ordering::Relaxed), 1);
        drain(service, 0);
        service.tick();
        assert_eq!(counts(service, 6000)[0], 0, "{balance:?}");
        drain(service, 1);
        drain(service, 2);
        drain(service, 3);
        service.tick();
        assert!(counts(service, 100)[4..].iter().all(|count| *count > 0));
        assert_eq!(
            service.region.service(3).panicking.load(Ordering::Relaxed),
            0,
            "all that are left work"
        );
    }
}

#[test]
fn a_dead_tier_is_no_panic_while_the_next_one_serves() {
    for balance in ALL {
        let service = &workers_with(&[1; 6], balance, 1, |model| {
            model.panic_percent = 50;
            model.ejection.max_percent = 100;
            model.backends[4..].iter_mut().for_each(|backend| backend.tier = 1);
        })[0];
        (0..4).for_each(|backend| eject(service, backend));
        let counts = counts(service, 600);
        assert_eq!(counts[..4], [0; 4], "{balance:?}");
        assert!(counts[4] > 0 && counts[5] > 0, "{balance:?}: {counts:?}");
        assert_eq!(service.region.service(3).panicking.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn the_dead_of_a_former_tier_have_no_part_in_the_panic_of_the_next() {
    for balance in ALL {
        let service = &workers_with(&[1; 7], balance, 1, |model| {
            model.panic_percent = 50;
            model.ejection.max_percent = 100;
            model.ejection.base = Duration::from_secs(60);
            model.ejection.max = Duration::from_secs(60);
            model.backends[4..].iter_mut().for_each(|backend| backend.tier = 1);
        })[0];
        (0..6).for_each(|backend| eject(service, backend));
        let counts = counts(service, 900);
        assert_eq!(counts[..4], [0; 4], "{balance:?}");
        assert!(counts[4..].iter().all(|count| *count > 0), "{balance:?}: {counts:?}");
        assert_eq!(service.region.service(3).panicking.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn a_share_of_failures_in_the_window_ejects_though_successes_come_between() {
    let adapt = |model: &mut model::Service| {
        model.ejection.ratio = 0.5;
        model.ejection.least_requests = 20;
    };
    let workers = workers_with(&[1, 1, 1], Balance::RoundRobin, 2, adapt);
    for request in 0..18 {
        let service = &workers[request % 2];
        if request % 4 < 2 { service.failed(0, FailureClass::Reset) } else { service.succeeded(0) }
    }
    assert_eq!(state(&workers[0], 0), State::Up, "too few to say");
    for service in &workers {
        service.failed(0, FailureClass::Reset);
    }
    assert_eq!(state(&workers[0], 0), State::Ejected, "10 of 20, seen by two workers");
}

#[test]
fn peak_ewma_avoids_the_slow_and_the_failing() {
    let service = &workers(&[1; 10], Balance::PeakEwma, 1)[0];
    for backend in 0..10 {
        let latency = if backend == 7 { 20_000 } else { 1000 };
        service.responded(backend, latency, false);
    }
    // Fast, but with errors only.
    service.responded(3, 100, true);
    let counts = counts(service, 10_000);
    assert!(counts[3] + counts[7] < 300, "{counts:?}");
}

/// A minute of 2,000 requests a second, in made-up time: nine answer within a millisecond, one fails at
/// once, and no ejection helps.
fn share_of_the_failing(balance: Balance, fail: impl Fn(&Service)) -> f64 {
    const FAILING: usize = 3;
    let service = &workers_with(&[1; 10], balance, 1, |model| model.ejection.max_percent = 0)[0];
    let mut under_way = std::collections::VecDeque::new();
    let mut failures = 0;
    const REQUESTS: u64 = 120_000;
    for request in 0..REQUESTS {
        let now_us = 1_000_000 + request * 500;
        crate::net::clock::set_us(now_us);
        while let Some((_, backend)) = under_way.pop_front_if(|(end, _)| *end <= now_us) {
            service.responded(backend, 1000, false);
            service.succeeded(backend);
            service.end(backend);
        }
        if request % 200 == 0 {
            service.tick();
        }
        let backend = picked(service, &[]).unwrap();
        assert!(service.begin(backend));
        if backend == FAILING {
            failures += 1;
            fail(service);
            service.end(backend);
        } else {
            under_way.push_back((now_us + 1000, backend));
        }
    }
    assert_eq!(state(service, FAILING), State::Up, "nobody is ejected");
    f64::from(failures) / REQUESTS as f64
}

#[test]
fn a_backend_that_fails_at_once_attracts_nothing_under_peak_ewma() {
    let gateway = |service: &Service| service.failed(3, FailureClass::GatewayStatus);
    let application = |service: &Service| {
        service.responded(3, 50, true);
        service.succeeded(3);
    };
    let share = share_of_the_failing(Balance::PeakEwma, gateway);
    assert!(share < 0.02, "{share}");
    let share = share_of_the_failing(Balance::PeakEwma, application);
    assert!(share < 0.02, "{share}");
    let share = share_of_the_failing(Balance::LeastRequests, gateway);
    assert!(share > 0.1, "it looks idle to those who count requests alone: {share}");
}

#[test]
fn a_recovered_backend_gets_a_small_share_at_first() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequests, Balance::PeakEwma]
    {
        let service = &workers_with(&[1, 1, 1], balance, 1, |model| {
            model.slow_start = Duration::from_secs(600);
            model.ejection.base = Duration::from_millis(100);
        })[0];
        eject(service, 0);
        while state(service, 0) == State::Ejected {
            service.tick();
        }
        assert_eq!(service.pick(&Criteria::ANY).map(|pick| pick.is_trial), Some(true));
        service.succeeded(0);
        service.latencies[0].observe(1, crate::net::clock::now_us());
        service.tick();
        let counts = counts(service, 9000);
        assert!((100..900).contains(&counts[0]), "{balance:?}: {counts:?}");
    }
}

#[test]
fn a_backend_gets_no_more_requests_than_it_may_have() {
    for balance in ALL {
        let workers = workers_with(&[1, 1], balance, 2, |model| {
            model.backends[0].max_requests = Some(3);
            model.backends[1].max_connections = Some(2);
        });
        let mut begun = Vec::new();
        for request in 0..5 {
            let service = &workers[request % 2];
            let backend = picked(service, &[]).unwrap();
            assert!(service.begin(backend));
            begun.push((request % 2, backend));
        }
        assert_eq!(picked(&workers[0], &[]), None, "{balance:?}");
        assert!(workers[0].has_only_full(&Criteria::ANY));
        assert!(!workers[0].begin(0), "a late one is turned away");
        let (worker, backend) = begun[0];
        workers[worker].end(backend);
        assert_eq!(picked(&workers[1], &[]), Some(backend), "{balance:?}");
    }
}

#[test]
fn a_client_comes_back_to_its_backend_while_that_lives() {
    let sticky = |model: &mut model::Service| model.sticky_cookie = Some("S".into());
    let service = &workers_with(&[1, 1, 1], Balance::RoundRobin, 1, sticky)[0];
    let token = service.token(1);
    assert_eq!(token.len(), 16);
    assert_eq!(service.of_token(token.as_bytes()), Some(1));
    assert_eq!(service.of_token(b"0123456789abcdef"), None);
    let criteria = Criteria { sticky: Some(1), ..Criteria::ANY };
    let stays = |service: &Service| (0..9).all(|_| service.pick(&criteria).unwrap().backend == 1);
    assert!(stays(service));
    drain(service, 1);
    assert!(stays(service), "one that drains keeps its clients");
    service.region.apply(service.backends[1].tenant, Event::Maintain, &service.policy);
    assert!(!stays(service));
}

/// A tier as the packet program sees it: slots on a ring, and their bits.
struct Slots<'a> {
    region: &'a Region,
    members: &'a [Member],
    ring: &'a [u16],
}

impl candidates::Tier for Slots<'_> {
    fn at(&self, position: u32) -> u16 {
        self.ring[position as usize]
    }

    fn takes(&self, slot: u16) -> bool {
        self.region.accepts_new(Slot::new(slot).unwrap())
    }

    fn is_eager(&self, _: u16) -> bool {
        true
    }
}

impl Slots<'_> {
    fn pick(&self, hash: u64) -> Option<u16> {
        let takers = |word: u32| {
            let slots = self.members.iter().map(|member| member.slot.raw());
            let here = slots.filter(|slot| u32::from(*slot) / 64 == word);
            let takers = here.filter(|slot| candidates::Tier::takes(self, *slot));
            takers.fold(0, |bits, slot| bits | 1 << (slot % 64))
        };
        match candidates::next(hash, self) {
            NOBODY => Some(candidates::any(hash, takers)).filter(|slot| *slot != NOBODY),
            slot => Some(slot),
        }
    }
}

/// The packet program's tables and the workers' are the same, entry by entry, and so are the ways
/// around whoever takes no work, in each tier.
#[test]
fn both_planes_name_the_same_backend() {
    let service = &workers_with(&[3, 0, 1, 2, 1, 5, 1], Balance::Maglev, 1, |model| {
        model.backends[4..].iter_mut().for_each(|backend| backend.tier = 3);
    })[0];
    let rings = [0, 3].map(|tier| {
        let all = service.backends.iter();
        let members = all.filter(|backend| backend.weight > 0 && backend.tier == tier);
        let mut members: Vec<_> = members
            .map(|backend| Member {
                identity: identity::backend_identity("web", backend.address),
                slot: backend.tenant.slot(),
                weight: backend.weight,
            })
            .collect();
        let mut ring = vec![0; RING_ENTRIES];
        let mut cursors = vec![Cursor::default(); members.len()];
        assert!(populate([0, 0], &mut members, &mut cursors, &mut ring));
        (members, ring)
    });
    for gone in [None, Some(2), Some(0), Some(3), Some(5), Some(4), Some(6)] {
        if let Some(gone) = gone {
            drain(service, gone);
        }
        let region = &service.region;
        let tiers = rings.each_ref().map(|(members, ring)| Slots { region, members, ring });
        for hash in (0..2_000).map(steerage_common::hash::mix) {
            let by_packet = tiers.iter().find_map(|tier| tier.pick(hash));
            let picked = service.pick(&Criteria { hash, ..Criteria::ANY });
            let by_request = picked.map(|pick| service.backends[pick.backend].tenant.slot().raw());
            assert_eq!(by_request, by_packet, "after {gone:?}");
        }
    }
}

#[test]
fn keys_whose_sequence_misses_the_few_that_are_left_are_shared_out_among_them() {
    let service = &workers(&[1; 400], Balance::Maglev, 1)[0];
    let left = [17, 180, 399];
    (0..400).filter(|backend| !left.contains(backend)).for_each(|backend| drain(service, backend));
    let mut counts = [0; 400];
    for hash in (0..6000).map(steerage_common::hash::mix) {
        let criteria = Criteria { hash, ..Criteria::ANY };
        let first = service.pick(&criteria).unwrap();
        assert_eq!(service.pick(&criteria), Some(first), "a key keeps its backend");
        counts[first.backend] += 1;
    }
    assert_eq!(left.map(|backend| counts[backend]).iter().sum::<usize>(), 6000);
    assert!(left.iter().all(|backend| counts[*backend] > 1700), "{:?}", left.map(|b| counts[b]));
}

#[test]
fn a_busy_backend_passes_its_share_on() {
    let service = &workers(&[1, 1, 1], Balance::Maglev, 1)[0];
    let criteria = Criteria { hash: 7, ..Criteria::ANY };
    let home = service.pick(&criteria).unwrap().backend;
    let mut others = 0;
    for _ in 0..30 {
        let backend = service.pick(&criteria).unwrap().backend;
        assert!(service.begin(backend));
        others += usize::from(backend != home);
    }
    assert!((15..=20).contains(&others), "a third and a quarter of it stay: {others} moved");
}
