use std::sync::atomic::Ordering;
use std::time::Duration;

use steerage_common::abi::FailureClass;
use steerage_common::health::{Event, State};
use steerage_common::slot::Slot;

use super::*;

/// A service of unprobed backends that are up, seen by `workers` workers.
fn workers(weights: &[u16], balance: Balance, workers: usize) -> Vec<Service> {
    let region = Rc::new(Region::in_memory(workers).unwrap());
    let backends = weights.iter().zip(1u16..).map(|(weight, port)| model::Backend {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        weight: *weight,
    });
    let model = model::Service {
        name: "web".into(),
        balance,
        probe: None,
        ejection: model::Ejection {
            consecutive: 3,
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
            max_percent: 50,
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
    service.pick(tried).map(|pick| pick.backend)
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
    assert_eq!(picked(&workers[0], &[]), Some(0), "3/4 against 1/1");
    active(1, 0, 4);
    assert_eq!(picked(&workers[0], &[]), Some(1), "7/4 against 1/1: the other worker's count");
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
        workers[0].look_for_trials();
    }
    workers[1].look_for_trials();
    assert_eq!(workers[0].pick(&[]), Some(Pick { backend: 0, is_trial: true }));
    for _ in 0..9 {
        assert!(matches!(workers[1].pick(&[]), Some(Pick { backend: 1 | 2, is_trial: false })));
        workers[0].look_for_trials();
        assert!(matches!(workers[0].pick(&[]), Some(Pick { backend: 1 | 2, is_trial: false })));
    }
    workers[0].succeeded(0);
    assert_eq!(state(&workers[0], 0), State::Up);
    assert!((0..3).any(|_| picked(&workers[1], &[]) == Some(0)));
}
