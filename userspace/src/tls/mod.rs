//! TLS: what lies between the configuration and a handshake.
//!
//! - [`upstream`]: to backends.

pub mod upstream;
