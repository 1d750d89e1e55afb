//! The backend that a QUIC packet names in its connection id (`steerage_common::quic`).
//!
//! Sixteen bytes are read, whatever the length of the server id: a packet that carries one is never so short
//! that they are not there, as what follows the id is encrypted and has a tag of 16 bytes.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use steerage_common::{
    abi::{ServerIdKey, Vip},
    quic::{Lengths, connection_id_at, has_length, prefix},
    steer::NOBODY,
};

use crate::{
    balance::{self, Snapshot},
    maps::SERVER_IDS,
    packet::{Address, Aligned, Frame, Header, Ports, Udp, key_of},
    parse::Packet,
};

/// A connection id's first octet and what follows, with the byte before it: in a packet with a short
/// header its first byte, in one with a long header the id's length.
#[repr(C, packed)]
struct ConnectionId {
    before: u8,
    octet: u8,
    beginning: [u64; 2],
}

// SAFETY: packed integers.
unsafe impl Header for ConnectionId {}

/// What [`named`] gives for a packet that names nobody and belongs to a handshake: the first packets of a
/// connection, as later ones of it carry an id of the server's choice.
pub const OPENING: u16 = NOBODY - 1;

/// The slot of the backend that the packet names, if it keeps what it has; else [`OPENING`] or [`NOBODY`].
#[inline(always)]
pub fn named(context: &XdpContext, packet: &Packet<'_>, vip: &Vip) -> u16 {
    let at = (packet.transport_at() + size_of::<Ports>() + size_of::<Udp>()) as u64;
    let vip_words = u64::from(vip.generation) << 32 | u64::from(vip.server_id_lengths);
    // SAFETY: the run's own context.
    unsafe { quic_named(context.ctx, at, vip_words, vip.service.into()) as u16 }
}

/// As [`named`], for the payload at `at`.
///
/// # Safety
/// The context is the run's own.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn quic_named(
    context: *mut xdp_md,
    at: u64,
    vip_words: u64,
    service: u64,
) -> u64 {
    let frame = Frame::of(&XdpContext::new(context));
    let at = at as usize & 0xff;
    // SAFETY: nothing else refers to the payload.
    let Some(id) = (unsafe { frame.header::<ConnectionId>(at) }) else { return NOBODY.into() };
    let first = id.before;
    let unnamed = if has_length(first) { OPENING } else { NOBODY };
    find(frame, at, first, vip_words, service as u16).unwrap_or(unnamed).into()
}

#[inline(always)]
fn find(frame: Frame, at: usize, first: u8, vip_words: u64, service: u16) -> Option<u16> {
    // SAFETY: nothing else refers to the payload.
    let id = unsafe { frame.header::<ConnectionId>(at + connection_id_at(first) - 1)? };
    let bytes = Lengths(vip_words as u32).in_id(id.octet);
    if bytes == 0 || has_length(first) && u32::from(id.before) <= bytes {
        return None;
    }
    let [a, b] = prefix(id.beginning, bytes);
    let generation = (vip_words >> 32) as u32;
    let key: Aligned<ServerIdKey> = key_of(Address(a, b), generation, bytes as u16, 0);
    // SAFETY: the supervisor replaces values whole; a removed one stays readable for this run.
    let id = unsafe { SERVER_IDS.get(&key.0)? };
    let now = Snapshot::take()?;
    let is_there = now.backend(id.slot).epoch == id.epoch;
    (is_there && balance::standing(service, id.slot).keeps_flows).then_some(id.slot)
}
