//! What ended a handshake, in the words of TLS.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};
use steerage_common::handshake::Handshake;

/// What TLS has to say of an error, if it is the reason of it.
pub fn cause_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        // An `io::Error` gives its inner error's source, not that error itself.
        let inner = inner.and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(cause) = inner.or_else(|| error.downcast_ref()) {
            return Some(cause);
        }
        next = error.source();
    }
    None
}

/// An alert's name as RFC 8446 has it: `UnknownCA` is `unknown_ca`.
pub fn registered(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut registered = String::with_capacity(name.len() + 4);
    for (at, letter) in letters.iter().enumerate() {
        let follows_lower = at > 0 && letters[at - 1].is_lowercase();
        let begins_word = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (follows_lower || begins_word) {
            registered.push('_');
        }
        registered.push(letter.to_ascii_lowercase());
    }
    registered
}

/// How a handshake with a client ended that failed so.
#[must_use]
pub fn end_of(error: &io::Error) -> Handshake {
    match cause_of(error) {
        Some(Error::AlertReceived(alert)) => Handshake::Received(u8::from(*alert)),
        Some(Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )) => Handshake::NotTls,
        Some(cause) => Handshake::Sent(u8::from(sent(cause))),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof => Handshake::Closed,
            _ => Handshake::Reset,
        },
    }
}

/// The alert that rustls has sent for an error: it does not tell, but what it sends follows from the error.
fn sent(cause: &Error) -> AlertDescription {
    match cause {
        Error::InvalidMessage(message) => AlertDescription::from(*message),
        Error::InvalidCertificate(certificate) => AlertDescription::from(certificate.clone()),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerIncompatible(why) => match why {
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic => AlertDescription::ProtocolVersion,
            _ => AlertDescription::HandshakeFailure,
        },
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        // Without a certificate to show there is nothing to agree on.
        Error::General(_) => AlertDescription::AccessDenied,
        _ => AlertDescription::InternalError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_their_registered_names() {
        for (name, expected) in [
            ("HandshakeFailure", "handshake_failure"),
            ("UnknownCA", "unknown_ca"),
            ("UnknownPSKIdentity", "unknown_psk_identity"),
            ("CloseNotify", "close_notify"),
        ] {
            assert_eq!(registered(name), expected);
        }
    }

    #[test]
    fn ends_are_told_apart_by_what_broke_the_handshake() {
        let of = |cause: Error| end_of(&io::Error::new(io::ErrorKind::InvalidData, cause)).name();
        for (cause, name) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), "received_unknown_ca"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "not_tls"),
            (Error::InvalidMessage(InvalidMessage::InvalidCcs), "sent_decode_error"),
            (Error::NoCertificatesPresented, "sent_certificate_required"),
            (
                Error::InvalidCertificate(rustls::CertificateError::Expired),
                "sent_certificate_expired",
            ),
            (Error::NoApplicationProtocol, "sent_no_application_protocol"),
            (
                Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled),
                "sent_protocol_version",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "sent_handshake_failure",
            ),
        ] {
            assert_eq!(of(cause), name);
        }
        let plain = |kind| end_of(&io::Error::from(kind));
        assert_eq!(plain(io::ErrorKind::UnexpectedEof), Handshake::Closed);
        assert_eq!(plain(io::ErrorKind::ConnectionReset), Handshake::Reset);
    }
}
