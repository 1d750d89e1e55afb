//! What QUIC connection ids say of backends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use steerage_common::quic::SERVER_ID_BYTES_MAX;

/// How the connection ids of a QUIC vip are to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quic {
    /// Bytes of the server id, by config rotation codepoint; 0 for one that is not in use.
    pub server_id_bytes: Vec<u8>,
}

/// What a backend calls itself in the connection ids that it gives out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerId {
    bytes: [u8; SERVER_ID_BYTES_MAX],
    length: u8,
}

impl ServerId {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }
}

/// No server id was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server id is 2 to {} hexadecimal digits, two for each byte", 2 * SERVER_ID_BYTES_MAX)]
pub struct NoServerId;

impl FromStr for ServerId {
    type Err = NoServerId;

    fn from_str(text: &str) -> Result<Self, NoServerId> {
        let digits = text.as_bytes();
        let pairs = digits.chunks_exact(2);
        let is_whole = pairs.remainder().is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
        if !is_whole || !(1..=SERVER_ID_BYTES_MAX).contains(&pairs.len()) {
            return Err(NoServerId);
        }
        let mut id = Self { bytes: [0; SERVER_ID_BYTES_MAX], length: pairs.len() as u8 };
        for (byte, pair) in id.bytes.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoServerId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoServerId)?;
        }
        Ok(id)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{text:?}: {error}")))
    }
}
