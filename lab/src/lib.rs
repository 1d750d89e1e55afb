//! A laboratory on one machine: hosts as network namespaces joined by veth links, real HTTP
//! backends, real clients, and the daemon under test.
//!
//! The demo (`cargo xtask run`), the benchmarks and the whole-system tests are built of these same
//! pieces. Three rules hold for all of them:
//!
//! * Everything made is owned by a value whose `Drop` removes it: namespaces, processes, pins,
//!   scratch directories. A process that is killed with SIGKILL can't do that; its names carry its
//!   pid, so that the next run finds and removes what the dead left ([`sweep`]).
//! * Nothing sleeps to wait for something: [`wait::until`] polls a condition with a deadline, says
//!   what it waited for, and gives up at once on SIGINT or SIGTERM ([`interrupt`]).
//! * Namespaces are entered with `nsenter --net` or `setns`, never with `ip netns exec`, which
//!   mounts a fresh `/sys` and so hides the BPF filesystem.

pub mod backend;
pub mod client;
pub mod command;
pub mod daemon;
pub mod flood;
pub mod http;
pub mod interrupt;
pub mod netns;
pub mod pattern;
pub mod poller;
pub mod process;
pub mod scratch;
pub mod sweep;
pub mod topology;
pub mod udp;
pub mod wait;
pub mod wire;
