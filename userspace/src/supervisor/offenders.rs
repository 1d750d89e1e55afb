//! From what workers report of their clients to what the packet programs hold back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steerage_common::abi::{Offender, Rate, Report};
use steerage_common::limits::{OFFENDER_HOLD_MS_MAX, WORKERS};
use tracing::{info, warn};

use crate::config::model::address_of;
use crate::kernel::Kernel;
use crate::region::Region;

/// Between two looks at the workers' reports.
const LOOK: Duration = Duration::from_millis(100);

/// Has the programs hold back whom workers report from now on, for ever.
pub async fn hold_back(kernel: Arc<Mutex<Kernel>>, region: Arc<Region>) {
    let mut read: Vec<u64> = (0..WORKERS).map(|line| region.reports(line).written()).collect();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        for (line, read) in read.iter_mut().enumerate() {
            let reports = region.reports(line);
            let written = reports.written();
            if written == *read {
                continue;
            }
            for report in reports.since(*read) {
                take(&kernel, &report);
            }
            *read = written;
        }
    }
}

fn take(kernel: &Mutex<Kernel>, report: &Report) {
    // A worker may be anybody's by now: what it says is looked at.
    let Some(address) = u8::try_from(report.family)
        .ok()
        .and_then(|family| address_of(&report.address, family))
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    else {
        return;
    };
    let hold_ms = report.hold_ms.min(OFFENDER_HOLD_MS_MAX);
    let now_ns = crate::sys::monotonic().as_nanos() as u64;
    let offender = Offender {
        until_ns: now_ns + hold_ms * 1_000_000,
        packets: match report.packets {
            0 => Rate::default(),
            packets => {
                let interval_ns = (1_000_000_000 / u64::from(packets)).max(1);
                Rate { interval_ns, burst_ns: 1_000_000_000 }
            }
        },
        bucket: 0,
    };
    let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
    match kernel.hold_back(address, &offender) {
        Ok(()) => info!(%address, hold_ms, packets = report.packets, "offender held back"),
        Err(error) => warn!(%address, %error, "an offender is not held back"),
    }
}
