//! The snapshot for Prometheus: its text (exposition format 0.0.4), or OpenMetrics 1.0 for who asks for it.
//!
//! What is exported is a table ([`family::Metric`]) of names, kinds, labels and meanings for each kind of
//! subject: the daemon, listeners, routes, workers, services, backends, vips. `docs/metrics.md` is that
//! table written out.
//!
//! Every subject has every metric, with two exceptions that keep thousands of backends scrapeable:
//! counters by one of many causes or rules are there once they have counted ([`family::Read::Sparse`]),
//! and so are histograms.

mod accept;
mod backend;
mod daemon;
mod family;
mod listener;
mod page;
#[cfg(test)]
mod tests;
mod worker;

use super::status::Status;
use family::Described;
use page::Page;

pub use accept::Format;

/// Renders every metric.
#[must_use]
pub fn render(status: &Status, format: Format) -> String {
    let mut page = Page::new(format);
    daemon::write(&mut page, status);
    listener::write(&mut page, status);
    worker::write(&mut page, status);
    backend::write(&mut page, status);
    page.end()
}

/// All that there is.
#[must_use]
pub fn families() -> Vec<Described> {
    [daemon::families(), listener::families(), worker::families(), backend::families()].concat()
}
