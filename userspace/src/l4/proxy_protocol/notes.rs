//! Notes on a connection (TLVs, section 2.2.1 to 2.2.7).

use super::{Malformed, crc32c};

/// What a note is about. Others are looked at and dropped: who passes them on vouches for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The protocol that the client chose over TLS.
    Alpn = 0x01,
    /// The host that the client named: TLS's server name.
    Authority = 0x02,
    /// A name for the connection.
    UniqueId = 0x05,
    /// How the client's TLS is ([`Tls`]).
    Tls = 0x20,
}

impl Kind {
    const fn of(number: u8) -> Option<Self> {
        match number {
            0x01 => Some(Self::Alpn),
            0x02 => Some(Self::Authority),
            0x05 => Some(Self::UniqueId),
            0x20 => Some(Self::Tls),
            _ => None,
        }
    }
}

const CRC32C: u8 = 0x03;

/// The longest unique id (2.2.5).
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// The client has come over TLS (2.2.6).
const CLIENT_SSL: u8 = 0x01;
/// It has shown a certificate on this connection.
const CLIENT_CERT_CONN: u8 = 0x02;
/// It has shown a certificate in this session.
const CLIENT_CERT_SESS: u8 = 0x04;

const TLS_VERSION: u8 = 0x21;
const TLS_COMMON_NAME: u8 = 0x22;
const TLS_CIPHER: u8 = 0x23;

/// The notes of a header, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(Vec<(Kind, Box<[u8]>)>);

/// How a client's TLS is, as [`Kind::Tls`] tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// As OpenSSL names it: `TLSv1.3`.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// Whether the client has shown a certificate, which was verified.
    pub has_certificate: bool,
    /// Whose that is: its common name.
    pub common_name: Option<String>,
}

impl Notes {
    /// Reads the notes at the end of `header`.
    pub(super) fn parse(notes: &[u8], header: &[u8]) -> Result<Self, Malformed> {
        let mut kept = Vec::new();
        let mut has_checksum = false;
        for note in each(notes) {
            let (kind, value, left) = note?;
            if kind == CRC32C {
                let told = value.try_into().map_err(|_| Malformed::Notes)?;
                let from = header.len() - left - value.len();
                if has_checksum || !is_right(header, from, u32::from_be_bytes(told)) {
                    return Err(Malformed::Checksum);
                }
                has_checksum = true;
            }
            let Some(kind) = Kind::of(kind) else { continue };
            let is_known = kept.iter().any(|(known, _)| *known == kind);
            if is_known || !is_proper(kind, value) {
                return Err(Malformed::Notes);
            }
            kept.push((kind, value.into()));
        }
        Ok(Self(kept))
    }

    /// What a note says.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, value)| &**value)
    }

    /// Adds a note, or says another thing in one.
    pub fn set(&mut self, kind: Kind, value: &[u8]) {
        if !is_proper(kind, value) {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, said)) => *said = value.into(),
            None => self.0.push((kind, value.into())),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Tls {
    /// The value of a note.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let shown = if self.has_certificate { CLIENT_CERT_CONN | CLIENT_CERT_SESS } else { 0 };
        let mut bytes = vec![CLIENT_SSL | shown];
        // Zero: a certificate that was shown has been verified.
        bytes.extend_from_slice(&u32::from(!self.has_certificate).to_be_bytes());
        let name = self.common_name.as_deref().unwrap_or_default();
        let parts =
            [(TLS_VERSION, &*self.version), (TLS_CIPHER, &*self.cipher), (TLS_COMMON_NAME, name)];
        for (kind, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
            write_one(kind, text.as_bytes(), &mut bytes);
        }
        bytes
    }
}

/// The notes in `bytes`, which they must fill: kind, value, and how many bytes follow.
fn each(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8], usize), Malformed>> {
    std::iter::from_fn(move || {
        let (kind, rest) = bytes.split_first()?;
        let note = rest.split_first_chunk().and_then(|(length, rest)| {
            let value = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
            bytes = &rest[value.len()..];
            Some((*kind, value, bytes.len()))
        });
        if note.is_none() {
            bytes = &[];
        }
        Some(note.ok_or(Malformed::Notes))
    })
}

/// Whether a value has the format of its kind.
fn is_proper(kind: Kind, value: &[u8]) -> bool {
    match kind {
        Kind::Alpn => !value.is_empty() && value.len() <= 255,
        Kind::Authority => !value.is_empty() && std::str::from_utf8(value).is_ok(),
        Kind::UniqueId => (1..=UNIQUE_ID_BYTES_MAX).contains(&value.len()),
        // Flags, the result of the verification, and notes in the note.
        Kind::Tls => value.get(5..).is_some_and(|parts| each(parts).all(|part| part.is_ok())),
    }
}

/// Whether the checksum that stands at `from` is that of the header with zeros in its place.
fn is_right(header: &[u8], from: usize, told: u32) -> bool {
    let Some((before, rest)) = header.split_at_checked(from) else { return false };
    let after = rest.get(4..).unwrap_or_default();
    crc32c::checksum([before, &[0; 4], after]) == told
}

/// Writes as many of the notes as there is room for.
pub(super) fn write(notes: &Notes, room: usize, to: &mut Vec<u8>) {
    let most = to.len() + room;
    for (kind, value) in &notes.0 {
        if to.len() + 3 + value.len() <= most {
            write_one(*kind as u8, value, to);
        }
    }
}

fn write_one(kind: u8, value: &[u8], to: &mut Vec<u8>) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    to.push(kind);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(value);
}
