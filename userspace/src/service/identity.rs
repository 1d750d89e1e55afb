//! Names that outlive indices: what a backend or service is, whatever its place in the configuration.

use std::net::SocketAddr;

use steerage_common::hash::sip13_bytes;

/// The key of identities: fixed, because they are compared over restarts and between hosts.
const IDENTITY_KEY: [u64; 2] = [0x5374_6565_7261_6765, 0x6964_656e_7469_7479];

/// The identity of a backend of a service.
#[must_use]
pub fn backend_identity(service: &str, address: SocketAddr) -> u64 {
    nonzero(sip13_bytes(IDENTITY_KEY, format!("{service}\0{address}").as_bytes()))
}

/// The identity of a service.
#[must_use]
pub fn service_identity(name: &str) -> u64 {
    nonzero(sip13_bytes(IDENTITY_KEY, name.as_bytes()))
}

/// The identity of a listener.
#[must_use]
pub fn listener_identity(name: &str) -> u64 {
    nonzero(sip13_bytes(IDENTITY_KEY, format!("listener\0{name}").as_bytes()))
}

/// The identity of a listener's route, by what it asks for.
#[must_use]
pub fn route_identity(listener: &str, title: &str) -> u64 {
    nonzero(sip13_bytes(IDENTITY_KEY, format!("route\0{listener}\0{title}").as_bytes()))
}

/// Zero marks an unused line.
fn nonzero(hash: u64) -> u64 {
    hash.max(1)
}
