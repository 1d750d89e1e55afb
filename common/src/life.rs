//! When a flow is over, so that its source port may serve another one, or its place on a ring settle.
//!
//! [`crate::abi::Nat::life`] and [`crate::abi::Flow::life`] hold a coarse time and what was seen of the
//! flow's end. Nothing sweeps the table of `nat`: a new flow that finds its candidate ports taken takes
//! over one whose flow is over ([`Life::is_over`]). Updates race between CPUs without a lock; a lost one
//! only delays a takeover or dates a flow a second too old, which no limit here is near enough to
//! notice.

use crate::abi::PROTOCOL_TCP;

/// Units of time in one second, nearly: a unit is 2³⁰ ns, so that the kernel needs no division.
const UNIT_SHIFT: u32 = 30;
const TIME_BITS: u32 = 28;
const TIME_MASK: u32 = (1 << TIME_BITS) - 1;

/// How long a flow may be silent and live, in units of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleLimits {
    /// A TCP connection.
    pub segments: u32,
    /// A flow of UDP datagrams.
    pub datagrams: u32,
}

impl IdleLimits {
    /// One hour for TCP, one minute for UDP (S7).
    pub const DEFAULT: Self = Self { segments: units(3_600), datagrams: units(60) };
}

/// Whole units of time that these seconds have.
#[must_use]
pub const fn units(seconds: u64) -> u32 {
    (seconds.saturating_mul(1_000_000_000) >> UNIT_SHIFT) as u32
}

/// A TCP handshake that takes longer than this is over: what a SYN flood leaves behind.
pub const HANDSHAKE: u32 = 5;

/// The packed word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u32);

/// What a packet tells about the life of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sign {
    /// The client will send no more.
    ClientFin = 1 << TIME_BITS,
    /// The backend will send no more.
    BackendFin = 1 << (TIME_BITS + 1),
    /// One side gave up.
    Reset = 1 << (TIME_BITS + 2),
    /// The connection got further than its handshake.
    Established = 1 << (TIME_BITS + 3),
}

impl Life {
    /// A flow that begins at this monotonic time.
    #[inline(always)]
    #[must_use]
    pub const fn begun(now_ns: u64) -> Self {
        Self(unit(now_ns))
    }

    /// The word as the table stores it.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// The word that the table stores.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// After a packet at this time.
    #[inline(always)]
    #[must_use]
    pub const fn heard(self, now_ns: u64) -> Self {
        Self(self.0 & !TIME_MASK | unit(now_ns))
    }

    /// After a packet with this sign.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, sign: Sign) -> Self {
        Self(self.0 | sign as u32)
    }

    /// With what `other` says of the flow's end.
    #[inline(always)]
    #[must_use]
    pub const fn with_end_of(self, other: Self) -> Self {
        let signs = Sign::ClientFin as u32 | Sign::BackendFin as u32 | Sign::Reset as u32;
        Self(self.0 | other.0 & signs)
    }

    /// The life of a flow that begins at the time of this one.
    #[inline(always)]
    #[must_use]
    pub const fn at_beginning(self) -> Self {
        Self(self.0 & TIME_MASK)
    }

    /// Whether the flow will have no more packets, or is taken not to.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self, now_ns: u64, protocol: u8) -> bool {
        self.is_over_by(now_ns, protocol, &IdleLimits::DEFAULT)
    }

    /// [`Life::is_over`] by other limits.
    #[inline(always)]
    #[must_use]
    pub const fn is_over_by(self, now_ns: u64, protocol: u8, limits: &IdleLimits) -> bool {
        let idle = age(unit(now_ns), self.0);
        if protocol != PROTOCOL_TCP {
            return idle > limits.datagrams;
        }
        let both = Sign::ClientFin as u32 | Sign::BackendFin as u32;
        let closed = self.0 & Sign::Reset as u32 != 0 || self.0 & both == both;
        let is_begun = self.0 & Sign::Established as u32 != 0;
        closed || idle > if is_begun { limits.segments } else { HANDSHAKE }
    }
}

/// A monotonic time in units.
#[inline(always)]
#[must_use]
pub const fn unit(ns: u64) -> u32 {
    (ns >> UNIT_SHIFT) as u32 & TIME_MASK
}

/// Units from one [`unit`] to another.
#[inline(always)]
#[must_use]
pub const fn age(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then) & TIME_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::PROTOCOL_UDP;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_live_connection_keeps_its_port_for_an_hour() {
        let life = Life::begun(0).with(Sign::Established);
        assert!(!life.is_over(3_590 * SECOND, PROTOCOL_TCP));
        assert!(life.is_over(3_610 * SECOND, PROTOCOL_TCP));
        assert!(!life.heard(3_000 * SECOND).is_over(6_000 * SECOND, PROTOCOL_TCP));
    }

    #[test]
    fn a_closed_connection_gives_its_port_up() {
        let life = Life::begun(0).with(Sign::Established);
        assert!(!life.with(Sign::ClientFin).is_over(0, PROTOCOL_TCP), "half closed is not closed");
        assert!(!life.with(Sign::BackendFin).is_over(0, PROTOCOL_TCP));
        assert!(life.with(Sign::ClientFin).with(Sign::BackendFin).is_over(0, PROTOCOL_TCP));
        assert!(life.with(Sign::Reset).is_over(0, PROTOCOL_TCP));
    }

    #[test]
    fn what_never_was_a_connection_is_over_soon() {
        assert!(!Life::begun(0).is_over(4 * SECOND, PROTOCOL_TCP));
        assert!(Life::begun(0).is_over(8 * SECOND, PROTOCOL_TCP));
    }

    #[test]
    fn datagrams_keep_their_port_for_a_minute() {
        assert!(!Life::begun(0).is_over(58 * SECOND, PROTOCOL_UDP));
        assert!(Life::begun(0).is_over(62 * SECOND, PROTOCOL_UDP));
        assert!(!Life::begun(0).heard(60 * SECOND).is_over(100 * SECOND, PROTOCOL_UDP));
    }

    #[test]
    fn time_comes_round_without_ending_flows() {
        let last = (u64::from(TIME_MASK)) << UNIT_SHIFT;
        assert!(!Life::begun(last).is_over(last + 2 * SECOND, PROTOCOL_UDP));
    }
}
