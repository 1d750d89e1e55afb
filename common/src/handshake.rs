//! How a TLS handshake with a client ended: each end has a place in [`crate::abi::WorkerLine`].

use crate::cause::Cause;

/// Room for ends in the shared region.
pub const HANDSHAKES_MAX: usize = 64;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Well, with everything that belongs to it.
    Full,
    /// Well, by a ticket of a former session.
    Resumed,
    /// Not in time.
    Timeout,
    /// The client closed before it was done.
    Closed,
    /// The connection broke before it was done.
    Reset,
    /// What came was no TLS.
    NotTls,
    /// It was not begun: its address has begun too many.
    RateLimited,
    /// It was cut off: the worker ended.
    Drained,
    /// Steerage refused with this alert.
    Sent(u8),
    /// The client refused with this alert.
    Received(u8),
}

/// The ends without an alert, in index order.
const PLAIN: [(Handshake, &str); 8] = [
    (Handshake::Full, "full"),
    (Handshake::Resumed, "resumed"),
    (Handshake::Timeout, "timeout"),
    (Handshake::Closed, "closed"),
    (Handshake::Reset, "reset"),
    (Handshake::NotTls, "not_tls"),
    (Handshake::RateLimited, "rate_limited"),
    (Handshake::Drained, "drained"),
];

/// Alerts (RFC 8446, 6) that end handshakes: their numbers, and the names of the ends that they make when
/// they are sent and when they are received. New ones go to the end; the last stands for all others.
const ALERTS: [(u8, &str, &str); 28] = [
    (0, "sent_close_notify", "received_close_notify"),
    (10, "sent_unexpected_message", "received_unexpected_message"),
    (20, "sent_bad_record_mac", "received_bad_record_mac"),
    (22, "sent_record_overflow", "received_record_overflow"),
    (40, "sent_handshake_failure", "received_handshake_failure"),
    (42, "sent_bad_certificate", "received_bad_certificate"),
    (43, "sent_unsupported_certificate", "received_unsupported_certificate"),
    (44, "sent_certificate_revoked", "received_certificate_revoked"),
    (45, "sent_certificate_expired", "received_certificate_expired"),
    (46, "sent_certificate_unknown", "received_certificate_unknown"),
    (47, "sent_illegal_parameter", "received_illegal_parameter"),
    (48, "sent_unknown_ca", "received_unknown_ca"),
    (49, "sent_access_denied", "received_access_denied"),
    (50, "sent_decode_error", "received_decode_error"),
    (51, "sent_decrypt_error", "received_decrypt_error"),
    (70, "sent_protocol_version", "received_protocol_version"),
    (71, "sent_insufficient_security", "received_insufficient_security"),
    (80, "sent_internal_error", "received_internal_error"),
    (86, "sent_inappropriate_fallback", "received_inappropriate_fallback"),
    (90, "sent_user_canceled", "received_user_canceled"),
    (100, "sent_no_renegotiation", "received_no_renegotiation"),
    (109, "sent_missing_extension", "received_missing_extension"),
    (110, "sent_unsupported_extension", "received_unsupported_extension"),
    (112, "sent_unrecognized_name", "received_unrecognized_name"),
    (113, "sent_bad_certificate_status_response", "received_bad_certificate_status_response"),
    (116, "sent_certificate_required", "received_certificate_required"),
    (120, "sent_no_application_protocol", "received_no_application_protocol"),
    (255, "sent_other", "received_other"),
];

/// How many ends there are.
pub const HANDSHAKES: usize = PLAIN.len() + 2 * ALERTS.len();

const _: () = assert!(HANDSHAKES <= HANDSHAKES_MAX);

impl Handshake {
    /// Its place among the counters.
    #[must_use]
    pub fn index(self) -> usize {
        let of = |alert| {
            let known = ALERTS.iter().position(|(number, ..)| *number == alert);
            PLAIN.len() + 2 * known.unwrap_or(ALERTS.len() - 1)
        };
        match self {
            Self::Sent(alert) => of(alert),
            Self::Received(alert) => of(alert) + 1,
            // All others are in the table.
            plain => PLAIN.iter().position(|(known, _)| *known == plain).unwrap_or(0),
        }
    }

    /// Why the connection ended with it; `None` if a session began.
    #[must_use]
    pub const fn cause(self) -> Option<Cause> {
        Some(match self {
            Self::Full | Self::Resumed => return None,
            Self::Timeout => Cause::HandshakeTimeout,
            Self::Reset => Cause::Reset,
            Self::RateLimited => Cause::TooMany,
            Self::Drained => Cause::Drained,
            Self::Closed | Self::NotTls | Self::Sent(_) | Self::Received(_) => Cause::Handshake,
        })
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        name(self.index())
    }
}

/// The name of the end at a place.
///
/// # Panics
/// If `index` is not below [`HANDSHAKES`].
#[must_use]
pub const fn name(index: usize) -> &'static str {
    if index < PLAIN.len() {
        return PLAIN[index].1;
    }
    let (_, sent, received) = ALERTS[(index - PLAIN.len()) / 2];
    if (index - PLAIN.len()).is_multiple_of(2) { sent } else { received }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_place_and_a_name_of_its_own() {
        let alerts = ALERTS
            .iter()
            .flat_map(|(number, ..)| [Handshake::Sent(*number), Handshake::Received(*number)]);
        let all: Vec<Handshake> = PLAIN.iter().map(|(plain, _)| *plain).chain(alerts).collect();
        for (index, end) in all.iter().enumerate() {
            assert_eq!(end.index(), index);
            let same = (0..HANDSHAKES).filter(|other| name(*other) == end.name());
            assert_eq!(same.count(), 1, "{}", end.name());
        }
        assert_eq!(all.len(), HANDSHAKES);
        let good = all.iter().filter(|end| end.cause().is_none());
        assert!(good.eq(&[Handshake::Full, Handshake::Resumed]));
        assert_eq!(Handshake::Sent(48).name(), "sent_unknown_ca");
        assert_eq!(Handshake::Received(46).name(), "received_certificate_unknown");
        assert_eq!(Handshake::Received(77).name(), "received_other");
    }
}
