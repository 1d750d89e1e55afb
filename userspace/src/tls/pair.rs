//! A certificate and its key: read by the supervisor, checked, and handed to the workers.
//!
//! What is checked before anything shows it to clients: the files are there and of sane size, every
//! certificate of the chain can be parsed, the key is the first one's, its time has come and is not over,
//! and what its authority says of it (`ocsp`) is an answer.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::identity;
use super::names::Names;
use crate::config::model::CertificateFiles;
use crate::pem::{self, Fault, Why};
use crate::stats::table::date;

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

impl Pair {
    /// Reads the files and checks all but the time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(files: &CertificateFiles) -> Result<(Self, Facts), Fault> {
        let text = |file: &Path| pem::text(file).map_err(|why| why.of(file));
        let (chain, key) = (text(&files.cert)?, Zeroizing::new(text(&files.key)?));
        let ocsp = files.ocsp.as_deref();
        let ocsp = ocsp.map(|file| pem::bytes(file).map_err(|why| why.of(file))).transpose()?;
        let pair = Self { chain, key, ocsp };
        let facts = pem::certificates(&pair.chain).and_then(|chain| Facts::of(&chain));
        let facts = facts.map_err(|why| why.of(&files.cert))?;
        pair.certified(&files.cert).map_err(|why| match why {
            Why::OtherKey(_) | Why::NoKey(_) => why.of(&files.key),
            why => why.of(&files.cert),
        })?;
        if let (Some(file), Some(answer)) = (&files.ocsp, &pair.ocsp)
            && !is_successful(answer)
        {
            return Err(Why::Ocsp.of(file));
        }
        Ok((pair, facts))
    }

    /// As rustls has it; `cert` is where it is from.
    fn certified(&self, cert: &Path) -> Result<CertifiedKey, Why> {
        let chain = pem::certificates(&self.chain)?;
        let mut certified = pem::certified(chain, pem::key(&self.key)?, cert)?;
        certified.ocsp.clone_from(&self.ocsp);
        Ok(certified)
    }

    /// The same for a worker, with the names that it is for.
    ///
    /// # Errors
    /// If it is not a certificate and its key.
    pub fn open(&self) -> Result<(Arc<CertifiedKey>, Names), Why> {
        let certified = self.certified(Path::new(""))?;
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

fn is_successful(answer: &[u8]) -> bool {
    // The head of the sequence is of two to five bytes.
    answer.first() == Some(&0x30)
        && (2..=5).any(|head| answer.get(head..head + 3) == Some(&OCSP_SUCCESSFUL[..]))
}
