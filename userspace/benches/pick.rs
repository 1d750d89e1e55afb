//! What it costs to pick a backend, by balance and number of backends; and that nothing is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use steerage::config;
use steerage::config::model::Balance;
use steerage::region::{Region, Tenant};
use steerage::service::{Criteria, Service};
use steerage_common::hash::mix;
use steerage_common::health::Event;
use steerage_common::slot::Slot;

const BALANCES: [Balance; 5] = [
    Balance::RoundRobin,
    Balance::LeastRequests,
    Balance::PeakEwma,
    Balance::Random,
    Balance::Maglev,
];

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: the system's allocator, with a counter beside it.
#[allow(unsafe_code, reason = "a counting allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn service(balance: Balance, backends: usize) -> Service {
    let mut text = String::from(
        "[[listener]]\nname = 'web'\nprotocol = 'http'\nbind = ['127.0.0.1:1']\n\
         [[listener.route]]\nservice = 'a'\n[[service]]\nname = 'a'\n",
    );
    for number in 0..backends {
        let (high, low) = (number / 250, number % 250 + 1);
        text += &format!("[[service.backend]]\naddress = '10.0.{high}.{low}:80'\n");
    }
    let mut model = config::parse(Path::new("bench.toml"), &text).expect("it is valid");
    model.services[0].balance = balance;
    let region = Rc::new(Region::in_memory(2).expect("there is memory"));
    let tenants: Vec<Tenant> =
        (0..backends as u16).filter_map(Slot::new).map(|slot| Tenant::new(slot, 0)).collect();
    for tenant in &tenants {
        region.apply(*tenant, Event::Assigned, &model.services[0].policy());
    }
    let service = Service::new(&model.services[0], &tenants, 0, 0, region, 7);
    for backend in 0..backends {
        service.responded(backend, 1000 + backend as u64, false);
    }
    service.tick();
    service
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for balance in BALANCES {
        for backends in [3, 64, 4096] {
            let service = service(balance, backends);
            let mut hash = 0;
            let mut once = || {
                hash = mix(hash + 1);
                black_box(service.pick(&Criteria { hash, ..Criteria::ANY }))
            };
            once();
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..1000).for_each(|_| {
                once();
            });
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{balance:?} allocates");
            let id = BenchmarkId::new(balance.name(), backends);
            group.bench_function(id, |bencher| bencher.iter(&mut once));
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = pick
}
criterion_main!(benches);
