//! Every bound of the shared region, with its reason.

/// Backends that one host can know at a time. A power of two, so that a masked index is in range
/// and the BPF verifier can see it.
pub const SLOTS: usize = 4096;

/// Slots in one word of the health bitmap.
pub const SLOTS_PER_WORD: usize = 64;

/// Words of the health bitmap.
pub const HEALTH_WORDS: usize = SLOTS / SLOTS_PER_WORD;

/// Services that one host can know at a time.
pub const SERVICES: usize = 1024;

/// Tiers of a service's backends: each has rings of its own.
pub const TIERS: usize = 8;

/// L4 service addresses that one host can serve.
pub const VIPS: usize = 512;

/// Guards that the packet programs know at a time: one for each vip, as many again while a reload
/// replaces them, and 0 for none.
pub const GUARDS: usize = 2 * VIPS + 1;

/// Prefixes of each family in the lists of all guards, the replaced ones among them during a reload.
pub const ACL_PREFIXES: usize = 1 << 16;

/// Addresses that L7 has reported and that are held back at a time.
pub const OFFENDERS: usize = 1 << 14;

/// Server ids of the backends of all QUIC vips, those of backends that leave among them.
pub const SERVER_IDS: usize = 4 * SLOTS;

/// Packets that came in pieces and of which the L4 programs know where the first piece went. At most
/// as many are reassembled at a time, however they interleave.
pub const FRAGMENTS: usize = 1 << 13;

/// For how long L7 may have an address held back, in milliseconds.
pub const OFFENDER_HOLD_MS_MAX: u64 = 60_000;

/// Worker processes of one host, and so lines in the worker table; twice the cores of a large
/// machine, because old workers drain beside new ones.
pub const WORKERS: usize = 256;

/// Addresses of listeners whose connections the kernel program gives to workers: each has a row of
/// [`WORKERS`] places of 8 bytes. The connections of further ones are spread by hash.
pub const LISTENERS: usize = 256;

/// Listeners that have figures of their own.
pub const LISTENER_LINES: usize = 256;

/// Routes, of all listeners, that have figures of their own.
pub const ROUTE_LINES: usize = 4096;

/// Entries of a Maglev ring: a prime over 100 times the usual number of backends (Eisenbud et al.,
/// "Maglev", NSDI 2016, section 3.4).
pub const RING_ENTRIES: usize = 65_537;

/// The greatest weight of a backend.
pub const WEIGHT_MAX: u16 = 256;

const _: () = {
    assert!(SLOTS.is_power_of_two());
    assert!(SLOTS.is_multiple_of(SLOTS_PER_WORD));
    assert!(SLOTS < 1 << 15, "a ring entry holds a slot in 15 bits");
};
