//! The whole worker over real sockets: a client and backends of the test's own, an in-memory region.

mod bodies;
mod failures;
mod harness;
mod http2;
mod life;
mod replay;
mod requests;
mod routing;
mod streaming;
mod tunnels;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn gauge(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}
