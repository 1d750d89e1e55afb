//! The admin socket and the metrics listener: what the outside may ask of the daemon.
//!
//! [`routes`] on the admin socket (HTTP over a unix socket, for root alone), which `openapi.json` describes;
//! metrics and a page ([`page`]) on the metrics address. [`client`] is what the command line asks with.

mod answer;
pub mod client;
pub mod order;
mod page;
pub mod routes;
pub mod server;
pub mod show;
