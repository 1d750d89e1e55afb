//! What the kernel programs and the userspace of Steerage share.
//!
//! Everything here is a value or a function of values: no I/O, no allocation, no clock, no
//! randomness. The same code is compiled for the BPF target and for the host, so what the tests
//! prove on the host is what the kernel runs.
//!
//! - [`abi`]: the layout of every shared map, byte for byte.
//! - [`health`]: the one state machine that probes and requests feed.
//! - [`census`]: what a service's backends come to together: panic, and how many may be ejected.
//! - [`publish`]: how a state change reaches the bitmap that XDP and the workers read.
//! - [`maglev`] and [`ring`]: the consistent-hashing table, how it is filled and read.
//! - [`steer`]: which backend a packet goes to, and what is remembered of it.
//! - [`candidates`]: who takes work that its home can't take, tier by tier.
//! - [`capture`]: what is copied of packets for whoever captures, and of which.
//! - [`crew`]: which worker a connection goes to.
//! - [`crowd`]: how many connections an address has, over all workers.
//! - [`quic`]: the backend that a QUIC packet names.
//! - [`life`]: when a flow is over.
//! - [`guard`]: what a source may do, and how it proves itself.
//! - [`error`]: why a request is answered by Steerage itself.
//! - [`latency`]: how long things took, in buckets.
//! - [`replay`]: whether a request may be sent again.
//! - [`start`]: why a worker process was started.
//! - [`hash`], [`checksum`], [`slot`], [`limits`]: the small parts.
#![cfg_attr(not(any(test, loom)), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod candidates;
pub mod capture;
pub mod cause;
pub mod census;
pub mod checksum;
pub mod crew;
pub mod crowd;
pub mod error;
pub mod guard;
pub mod handshake;
pub mod hash;
pub mod health;
pub mod latency;
pub mod life;
pub mod limits;
pub mod maglev;
pub mod publish;
pub mod quic;
pub mod replay;
pub mod ring;
pub mod slot;
pub mod start;
pub mod steer;
