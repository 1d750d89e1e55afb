//! What the daemon shows of itself: one snapshot, three faces.
//!
//! [`status::Status`] is read from the shared region and the kernel's counters; it is the admin
//! API's JSON, [`table`] prints it for people and [`metrics`] for Prometheus. All three always agree.
//! [`board`] is the snapshot in motion, which the page and `steerage top` show.

pub mod board;
mod meter;
pub mod metrics;
pub mod row;
pub mod status;
pub mod table;
