//! Steerage: an L4 and L7 load balancer on one health truth.
//!
//! The kernel half is in the `steerage-ebpf` crate, what both halves share in `steerage-common`.
//! Layers, from below: `addresses`, `clock`, `sys`, `pem`, `net` < `config`, `access`, `log`, `stats`, `import` < `region` < `tls` < `service`, `health` <
//! `l4`, `l7` < `kernel`, `worker`, `admin` < `supervisor` < `doctor`. Nothing imports upward.

pub mod access;
mod addresses;
pub mod admin;
#[cfg(test)]
pub(crate) mod cases;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod health;
pub mod import;
pub mod kernel;
pub mod l4;
pub mod l7;
pub mod log;
pub mod net;
pub mod pem;
pub mod region;
pub mod service;
pub mod stats;
pub mod supervisor;
pub mod sys;
pub mod tls;
pub mod worker;
