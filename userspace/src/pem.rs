//! Files of certificates and keys in PEM (RFC 7468): read, checked, and what is wrong with them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a certificate's files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", file.display())]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, and what would be right.
    pub why: Why,
}

/// See [`Fault`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It can't be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is longer than any certificate.
    #[error("has more than {FILE_BYTES_MAX} bytes: it is no certificate and no key")]
    TooLong,
    /// There is no certificate in it.
    #[error("has no certificate; it must have \"-----BEGIN CERTIFICATE-----\"")]
    NoCertificate,
    /// A certificate is none.
    #[error("certificate {at} of it cannot be parsed: {error}")]
    Certificate {
        /// Which one, from 1.
        at: usize,
        /// What is wrong.
        error: String,
    },
    /// There is no key in it.
    #[error(
        "has no private key that is understood: {0}; it must be PKCS #8, PKCS #1 or SEC1 in PEM, without a password"
    )]
    NoKey(String),
    /// The key is another one's.
    #[error("is not the key of {}", .0.display())]
    OtherKey(PathBuf),
    /// The certificate is over.
    #[error("expired at {0}")]
    Expired(String),
    /// The certificate's time has not come.
    #[error("is not valid before {0}")]
    NotYet(String),
    /// There is no OCSP answer in it.
    #[error("is no successful OCSP response in DER")]
    Ocsp,
}

impl Why {
    /// The same, of a file.
    #[must_use]
    pub fn of(self, file: &Path) -> Fault {
        Fault { file: file.to_owned(), why: self }
    }

    /// Whether time alone is what is wrong.
    #[must_use]
    pub const fn is_time(&self) -> bool {
        matches!(self, Self::Expired(_) | Self::NotYet(_))
    }
}

/// What is in a file.
///
/// # Errors
/// If it can't be read, or is too long for a certificate or a key.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Why> {
    let unreadable = |error: io::Error| Why::Unreadable(error.to_string());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(Why::TooLong) } else { Ok(bytes) }
}

/// The text in a file.
///
/// # Errors
/// As [`bytes`], and if it is no text.
pub fn text(path: &Path) -> Result<String, Why> {
    let text = String::from_utf8(bytes(path)?);
    text.map_err(|_| Why::Unreadable("it is not text; PEM is".into()))
}

/// The certificates in a text; at least one.
///
/// # Errors
/// If there is none, or one that is none.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Why> {
    let read = CertificateDer::pem_slice_iter(text.as_bytes());
    let parsed = read.enumerate().map(|(at, certificate)| {
        let error =
            |error: &dyn fmt::Display| Why::Certificate { at: at + 1, error: error.to_string() };
        let certificate = certificate.map_err(|why| error(&why))?;
        X509Certificate::from_der(&certificate).map_err(|why| error(&why))?;
        Ok(certificate)
    });
    let certificates = parsed.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() { Err(Why::NoCertificate) } else { Ok(certificates) }
}

/// The first private key in a text.
///
/// # Errors
/// If there is none.
pub fn key(text: &str) -> Result<PrivateKeyDer<'static>, Why> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        Why::NoKey(match error {
            pem::Error::NoItemsFound => "there is none".into(),
            other => other.to_string(),
        })
    })
}

/// A chain and its key, which is that of the first; `cert` is where the chain is from.
///
/// # Errors
/// If they do not belong together.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert: &Path,
) -> Result<CertifiedKey, Why> {
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    certified.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Why::OtherKey(cert.to_owned()),
        rustls::Error::InvalidCertificate(error) => {
            Why::Certificate { at: 1, error: error.to_string() }
        }
        other => Why::NoKey(other.to_string()),
    })
}
