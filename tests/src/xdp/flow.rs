//! What tests say again and again: a client's packet, its answer, where it went.

use super::packet::{ACK, Packet, SYN};
use super::{BACKEND_PORT, Family, Plane, client_socket, vip_socket};

/// The packet of a client at `port`.
#[must_use]
pub fn segment(port: u16, flags: u8) -> Packet {
    Packet::tcp(client_socket(port), vip_socket(), flags)
}

/// The backend's answer to a packet that it got.
#[must_use]
pub fn answer(got: &Packet) -> Packet {
    Packet { source: got.destination, destination: got.source, flags: ACK, ttl: 64, ..got.clone() }
}

/// The slot that a packet went to.
#[must_use]
#[track_caller]
pub fn slot_of(sent: &Packet) -> u16 {
    assert_eq!(sent.destination.port(), BACKEND_PORT);
    let is_at = |slot| Family::BOTH.iter().any(|of| of.backend(slot) == sent.destination.ip());
    let slot = (0..512).find(|slot| is_at(*slot));
    slot.expect("a backend's address")
}

/// Where a new flow from `port` goes.
#[must_use]
#[track_caller]
pub fn home_of(plane: &Plane, port: u16) -> u16 {
    slot_of(&plane.from_client(&segment(port, SYN)).sent())
}
