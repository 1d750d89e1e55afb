//! The vip that a packet is for.
//!
//! Nearly all addresses that are no vip's are told by one bit of a filter. For the others the truth is the
//! hash table `VIPS`; looking there costs about 35 ns, a third of a packet's way, and the answer changes
//! only with the configuration. So each CPU remembers answers, also that a port is nobody's, until the
//! supervisor has changed the table ([`VIP_FILTER_STAMP`]).

use core::ptr;

use steerage_common::abi::{AddressKey, VIP_FILTER_STAMP, Vip, VipKey, filter_bit};

use crate::{
    maps::{ADDRESSES, KNOWN_VIPS, KNOWN_VIPS_BITS, VIP_FILTER, VIPS},
    packet::{Address, Aligned, halves, key_of},
    parse::Packet,
};

/// What this CPU knows of a service address.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KnownVip {
    /// The address, then port, protocol and family: what `VIPS` has as a key.
    address: Address,
    rest: u64,
    /// The number of changes that this was looked up after, plus one: an unused line is never valid.
    stamp: u64,
    /// Whether there is a vip.
    is_vip: u64,
    vip: Vip,
}

/// The vip that the packet is for: one of its port, or one of all ports.
#[inline(always)]
pub fn of(packet: &Packet<'_>) -> Option<&'static Vip> {
    let address = packet.destination;
    if !may_be_vip(address) {
        return None;
    }
    // Read before the table is: an answer that is older than its stamp would be kept. That the two loads
    // change places does no harm: the supervisor counts a system call after it wrote.
    let stamp = VIP_FILTER.get(VIP_FILTER_STAMP)?;
    // SAFETY: a reference to a u64 in shared memory; the supervisor stores it whole.
    let stamp = unsafe { ptr::read_volatile(stamp) } + 1;
    let kind = u16::from_ne_bytes([packet.protocol, packet.family]);
    let rest = u64::from(halves(packet.ports.destination_be, kind));
    let mixed = (address.folded() ^ rest << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let known = KNOWN_VIPS.get_ptr_mut((mixed >> (64 - KNOWN_VIPS_BITS)) as u32)?;
    // SAFETY: this CPU's own line; programs on one CPU do not interrupt each other here.
    let known = unsafe { &mut *known };
    if known.stamp != stamp || known.address != address || known.rest != rest {
        known.address = address;
        known.rest = rest;
        known.stamp = stamp;
        let found = at(address, packet.ports.destination_be, kind).or_else(|| at(address, 0, kind));
        known.is_vip = found.is_some().into();
        if let Some(vip) = found {
            known.vip = *vip;
        }
    }
    if known.is_vip != 0 { Some(&known.vip) } else { None }
}

#[inline(always)]
fn at(address: Address, port_be: u16, kind: u16) -> Option<&'static Vip> {
    let key: Aligned<VipKey> = key_of(address, halves(port_be, kind), 0, 0);
    // SAFETY: the supervisor replaces values whole; a removed one stays readable for this run.
    unsafe { VIPS.get(&key.0) }
}

/// Whether the address has a vip of one of these protocols (`abi::serves`).
#[inline(always)]
pub fn any_at(address: Address, family: u8, protocols: u32) -> bool {
    if !may_be_vip(address) {
        return false;
    }
    let first = u32::from_ne_bytes([family, 0, 0, 0]);
    let key: Aligned<AddressKey> = key_of(address, first, 0, 0);
    // SAFETY: read at once.
    unsafe { ADDRESSES.get(&key.0) }.is_some_and(|serves| serves & protocols != 0)
}

/// Whether the address can be a vip's.
#[inline(always)]
fn may_be_vip(address: Address) -> bool {
    let bit = filter_bit(address.0, address.1);
    let Some(word) = VIP_FILTER.get(bit / 64) else { return false };
    *word >> (bit % 64) & 1 != 0
}
