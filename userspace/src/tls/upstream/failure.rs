//! Why there is no trusted connection to a backend.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::{CertificateError, Error, InvalidMessage};

use crate::tls::alert::{cause_of, registered};

/// Why there is no trusted connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The certificate's time is over.
    #[error("certificate expired{0}")]
    Expired(String),
    /// The certificate's time has not come.
    #[error("certificate not valid yet")]
    NotValidYet,
    /// The certificate is somebody else's.
    #[error("certificate is not for {0}")]
    Name(String),
    /// Nobody who is trusted signed the certificate.
    #[error("certificate of an unknown issuer")]
    Issuer,
    /// The backend refused, and said why.
    #[error("alert {0}")]
    Alert(String),
    /// The answer was none of TLS.
    #[error("the backend speaks no TLS")]
    NoTls,
    /// It did not take HTTP/2.
    #[error("the backend does not take HTTP/2")]
    NoHttp2,
    /// The backend ended the connection in the handshake.
    #[error("closed in the handshake")]
    Closed,
    /// Anything else that TLS has against the backend.
    #[error("{0}")]
    Other(Error),
    /// The connection broke.
    #[error("{0}")]
    Io(io::Error),
}

impl Failure {
    /// What the error of a handshake means; `name` is who was to be there.
    #[must_use]
    pub fn of(error: io::Error, name: &str) -> Self {
        let Some(cause) = cause_of(&error) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::Closed,
                _ => Self::Io(error),
            };
        };
        match cause {
            Error::InvalidCertificate(CertificateError::NotValidForName) => {
                Self::Name(name.to_owned())
            }
            Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }) => {
                let whom = if presented.is_empty() {
                    "nobody".into()
                } else {
                    presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
                };
                Self::Name(format!("{name}, but for {whom}"))
            }
            other => Self::from_cause(other),
        }
    }

    /// What an error of TLS means, wherever in an exchange it came up.
    #[must_use]
    pub fn from_cause(cause: &Error) -> Self {
        match cause {
            Error::InvalidCertificate(CertificateError::Expired) => Self::Expired(String::new()),
            Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                let at = UNIX_EPOCH + Duration::from_secs(not_after.as_secs());
                Self::Expired(format!(" at {}", humantime::format_rfc3339_seconds(at)))
            }
            Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => Self::NotValidYet,
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => Self::Issuer,
            Error::AlertReceived(alert) => match alert.as_str() {
                Some(name) => Self::Alert(registered(name)),
                None => Self::Alert(u8::from(*alert).to_string()),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            other => Self::Other(other.clone()),
        }
    }
}

/// A name as people write it: `DnsName("a.org")` is `a.org`.
fn bare(presented: &str) -> &str {
    let inner = presented.split_once('(').map_or(presented, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}
