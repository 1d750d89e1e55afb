//! The admin socket and the metrics listener: what the outside may ask of the daemon.
//!
//! `GET /v1/status` on the admin socket (HTTP over a unix socket that only root opens), `GET
//! /metrics` on the metrics address. [`client`] is what the command line asks with.

pub mod client;
pub mod order;
pub mod server;
