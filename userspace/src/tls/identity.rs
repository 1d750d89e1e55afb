//! Who a client is by its certificate, as backends are told.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::config::model::ClientAuth;

/// The types of attributes that have a short name (RFC 4514, 3, and what OpenSSL calls the others).
const TYPES: [(&str, &str); 13] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.4", "SN"),
    ("2.5.4.42", "GN"),
];

/// What backends are told of a client that showed a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its subject, as RFC 4514 writes it, in ASCII.
    pub subject: HeaderValue,
    /// The SHA-256 of it, in hexadecimal digits.
    pub fingerprint: HeaderValue,
}

impl Identity {
    /// That of a certificate which was verified.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let parsed = X509Certificate::from_der(certificate);
        let subject = parsed.map(|(_, parsed)| distinguished_name(parsed.subject()));
        let value =
            |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            subject: value(subject.unwrap_or_default()),
            fingerprint: value(hex(&Sha256::digest(certificate))),
        }
    }
}

/// The headers that tell of identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    subject: Option<HeaderName>,
    fingerprint: Option<HeaderName>,
}

impl Headers {
    /// Those of a listener.
    #[must_use]
    pub fn of(auth: Option<&ClientAuth>) -> Self {
        let name = |name: Option<&String>| name.and_then(|name| name.parse().ok());
        Self {
            subject: name(auth.and_then(|auth| auth.subject_header.as_ref())),
            fingerprint: name(auth.and_then(|auth| auth.fingerprint_header.as_ref())),
        }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.subject.iter().chain(&self.fingerprint)
    }

    /// Says who the client is.
    pub fn write(&self, headers: &mut HeaderMap, identity: &Identity) {
        if let Some(name) = &self.subject {
            headers.insert(name.clone(), identity.subject.clone());
        }
        if let Some(name) = &self.fingerprint {
            headers.insert(name.clone(), identity.fingerprint.clone());
        }
    }
}

/// Removes the headers of these names that a client sent, and those that some backends take for the same
/// (CGI and its heirs do not tell `_` from `-`).
pub fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    let alike = |byte| if byte == b'_' { b'-' } else { byte };
    let is_same = |known: &HeaderName, name: &HeaderName| {
        let (known, name) = (known.as_str(), name.as_str());
        known.len() == name.len() && known.bytes().map(alike).eq(name.bytes().map(alike))
    };
    let is_spoofed = |name: &&HeaderName| names.iter().any(|known| is_same(known, name));
    while let Some(name) = headers.keys().find(is_spoofed).cloned() {
        headers.remove(name);
    }
}

/// A name as RFC 4514 writes it: the most special part first. Bytes that are not printable ASCII stand as
/// `\` and two digits.
#[must_use]
pub fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at != 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let number = attribute.attr_type().to_id_string();
    let known = TYPES.iter().find(|(known, _)| *known == number);
    text.push_str(known.map_or(number.as_str(), |(_, short)| short));
    text.push('=');
    match attribute.as_str() {
        Ok(value) => write_value(text, value),
        Err(_) => {
            text.push('#');
            text.push_str(&hex(attribute.as_slice()));
        }
    }
}

/// RFC 4514, 2.4.
fn write_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_special = matches!(byte, b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=')
            || (byte == b' ' && (at == 0 || at == last))
            || (byte == b'#' && at == 0);
        if !(0x20..0x7f).contains(&byte) {
            let _ = write!(text, "\\{byte:02X}");
            continue;
        }
        if is_special {
            text.push('\\');
        }
        text.push(char::from(byte));
    }
}

/// In hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_subject_is_written_as_rfc_4514_has_it() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "A, B \"und\" Söhne"),
            (DnType::OrganizationalUnitName, "#1 "),
            (DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "a@b.org"),
            (DnType::CustomDnType(vec![2, 5, 4, 12]), "title"),
            (DnType::CommonName, "x\r\ny=z"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let identity = Identity::of(certificate.der());
        assert_eq!(
            identity.subject,
            "CN=x\\0D\\0Ay\\=z,2.5.4.12=title,emailAddress=a@b.org,OU=\\#1\\ ,\
             O=A\\, B \\\"und\\\" S\\C3\\B6hne,C=DE"
        );
        assert_eq!(identity.fingerprint, hex(&Sha256::digest(certificate.der())).as_str());
        assert_eq!(identity.fingerprint.len(), 64);
    }

    #[test]
    fn what_clients_say_of_themselves_goes_however_it_is_spelt() {
        let mut headers = HeaderMap::new();
        for name in
            ["x-client-dn", "x-client-dn", "x_client_dn", "x-client_dn", "x-client-dns", "host"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("me"));
        }
        remove(&mut headers, &[HeaderName::from_static("x-client-dn")]);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-client-dns"]);
    }
}
