//! Connections that are passed on as they are.
//!
//! - [`proxy_protocol`]: who the client is, told by a proxy before us or to a backend behind.
//! - [`client_hello`]: which host a TLS client wants.

pub mod client_hello;
pub mod proxy_protocol;
