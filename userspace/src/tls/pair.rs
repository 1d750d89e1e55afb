//! A certificate and its key: read by the supervisor, checked, and handed to the workers.
//!
//! What is checked before anything shows it to clients: the files are there and of sane size, every
//! certificate of the chain can be parsed, the key is the first one's, its time has come and is not over,
//! and what its authority says of it (`ocsp`) is an answer.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::identity;
use super::names::Names;
use crate::config::model::CertificateFiles;
use crate::stats::table::date;

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How an OCSP answer begins that is one: a sequence whose first member is the status "successful"
/// (RFC 6960, 4.2.1).
const OCSP_SUCCESSFUL: [u8; 3] = [0x0a, 1, 0];

/// What files of a certificate hold. Only what [`Pair::read`] has checked is in force.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// As it was read, in PEM.
    chain: String,
    /// As it was read, in PEM. Cleared when it is dropped.
    key: Zeroizing<String>,
    ocsp: Option<Vec<u8>>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is for; none if it names nothing.
    pub names: Names,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// The SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// When its time begins, in seconds since 1970.
    pub not_before: i64,
    /// When its time ends, in seconds since 1970.
    pub not_after: i64,
}

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
    /// Whether time alone is what is wrong.
    #[must_use]
    pub const fn is_time(&self) -> bool {
        matches!(self, Self::Expired(_) | Self::NotYet(_))
    }
}

impl Pair {
    /// Reads the files and checks all but the time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(files: &CertificateFiles) -> Result<(Self, Facts), Fault> {
        let chain = text(&files.cert)?;
        let key = Zeroizing::new(text(&files.key)?);
        let ocsp = files.ocsp.as_deref().map(bytes).transpose()?;
        let pair = Self { chain, key, ocsp };
        let fault = |file: &Path, why| Fault { file: file.to_owned(), why };
        let facts = Facts::of(&pair.certificates().map_err(|why| fault(&files.cert, why))?);
        let facts = facts.map_err(|why| fault(&files.cert, why))?;
        pair.certified().map_err(|why| match why {
            Why::OtherKey(_) => fault(&files.key, Why::OtherKey(files.cert.clone())),
            Why::NoKey(_) => fault(&files.key, why),
            why => fault(&files.cert, why),
        })?;
        if let (Some(file), Some(answer)) = (&files.ocsp, &pair.ocsp)
            && !is_successful(answer)
        {
            return Err(fault(file, Why::Ocsp));
        }
        Ok((pair, facts))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Why> {
        let read = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let parsed = read.enumerate().map(|(at, certificate)| {
            let error = |error: &dyn fmt::Display| Why::Certificate {
                at: at + 1,
                error: error.to_string(),
            };
            let certificate = certificate.map_err(|why| error(&why))?;
            X509Certificate::from_der(&certificate).map_err(|why| error(&why))?;
            Ok(certificate)
        });
        let certificates = parsed.collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() { Err(Why::NoCertificate) } else { Ok(certificates) }
    }

    /// As rustls has it.
    ///
    /// # Errors
    /// If it is not a certificate and its key.
    pub fn certified(&self) -> Result<CertifiedKey, Why> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| {
            Why::NoKey(match error {
                pem::Error::NoItemsFound => "there is none".into(),
                other => other.to_string(),
            })
        })?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(self.certificates()?, key, &provider);
        let mut certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Why::OtherKey(PathBuf::new()),
            rustls::Error::InvalidCertificate(error) => {
                Why::Certificate { at: 1, error: error.to_string() }
            }
            other => Why::NoKey(other.to_string()),
        })?;
        certified.ocsp.clone_from(&self.ocsp);
        Ok(certified)
    }

    /// The same for a worker, with the names that it is for.
    ///
    /// # Errors
    /// If it is not a certificate and its key.
    pub fn open(&self) -> Result<(Arc<CertifiedKey>, Names), Why> {
        let certified = self.certified()?;
        let facts = Facts::of(&certified.cert)?;
        Ok((Arc::new(certified), facts.names))
    }
}

impl Facts {
    /// What the first of a chain says.
    fn of(chain: &[CertificateDer<'_>]) -> Result<Self, Why> {
        let leaf = chain.first().ok_or(Why::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| Why::Certificate { at: 1, error: error.to_string() })?;
        let alternative = parsed.subject_alternative_name().ok().flatten();
        let alternative = alternative.map(|names| &names.value.general_names[..]);
        let names = alternative.unwrap_or_default().iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Ok(Self {
            names: Names::new(names),
            subject: identity::distinguished_name(parsed.subject()),
            issuer: identity::distinguished_name(parsed.issuer()),
            serial: parsed.serial.to_str_radix(16),
            fingerprint: identity::hex(&Sha256::digest(leaf)),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    /// What is wrong with a certificate at a time, in seconds since 1970.
    ///
    /// # Errors
    /// If its time is over or has not come.
    pub fn check_time(&self, now: i64) -> Result<(), Why> {
        if now > self.not_after {
            return Err(Why::Expired(date(self.not_after)));
        }
        if now < self.not_before {
            return Err(Why::NotYet(date(self.not_before)));
        }
        Ok(())
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable =
        |error: io::Error| Fault { file: path.to_owned(), why: Why::Unreadable(error.to_string()) };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault { file: path.to_owned(), why: Why::TooLong });
    }
    Ok(bytes)
}

fn text(path: &Path) -> Result<String, Fault> {
    String::from_utf8(bytes(path)?).map_err(|_| Fault {
        file: path.to_owned(),
        why: Why::Unreadable("it is not text; PEM is".into()),
    })
}

fn is_successful(answer: &[u8]) -> bool {
    // The head of the sequence is of two to five bytes.
    answer.first() == Some(&0x30)
        && (2..=5).any(|head| answer.get(head..head + 3) == Some(&OCSP_SUCCESSFUL[..]))
}
