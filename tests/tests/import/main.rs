//! `steerage import`: what comes of another proxy's configuration does with requests what that proxy does.
//!
//! Each configuration here is run by the proxy that it was written for, and its translation by Steerage; both
//! are asked the same, and must answer the same, from the same backend, which must have seen the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ask;
mod haproxy;
mod nginx;
mod peers;
