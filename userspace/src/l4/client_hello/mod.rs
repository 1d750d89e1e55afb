//! What a TLS client says first: which host it wants and which protocols it speaks, read without
//! decrypting anything.
//!
//! A [`Reader`] takes bytes as they come, however they are cut, and reassembles the ClientHello over
//! records (RFC 8446, 5.1): up to [`MESSAGE_BYTES_MAX`], in no more than [`BYTES_MAX`] of the stream.
//! Every byte is looked at once until the message is whole. The message is then read to its end: every
//! length must fit to the byte, and what is read of it ([`ClientHello`]) must be right. What is not read
//! (versions, keys, the inner hello of ECH) is for the server behind.
//!
//! Names are those of RFC 6066: one host name, ASCII, compared in lower case.

mod message;

pub use message::ClientHello;

/// The longest ClientHello, with its header.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The most of a stream that one may take: records cost five bytes each, and may be short.
pub const BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// The longest record of plain text (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;

/// A record's type, version and length.
const RECORD_HEAD_BYTES: usize = 5;

/// A message's type and length.
const MESSAGE_HEAD_BYTES: usize = 4;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Why a TLS client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins with something else than a handshake.
    #[error("no TLS handshake")]
    NoHandshake,
    /// A record is longer than a record may be.
    #[error("a TLS record of {0} bytes")]
    RecordTooLong(usize),
    /// The message, or what it is spread over, is longer than is taken.
    #[error("a ClientHello longer than is taken")]
    TooLong,
    /// Lengths do not fit, or a name or protocol is none.
    #[error("a ClientHello is not as it must be")]
    Message,
}

/// Descriptions of fatal alerts (RFC 8446, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The message is not one that may come now.
    UnexpectedMessage = 10,
    /// A record is too long.
    RecordOverflow = 22,
    /// A message can't be read.
    DecodeError = 50,
    /// Something on this side failed.
    InternalError = 80,
    /// Nobody here has the name that the client wants.
    UnrecognizedName = 112,
    /// Nobody who has the name speaks any of the client's protocols.
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The alert as a record.
    #[must_use]
    pub const fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

impl Malformed {
    /// What the client is told.
    #[must_use]
    pub const fn alert(self) -> Alert {
        match self {
            Self::NoHandshake => Alert::UnexpectedMessage,
            Self::RecordTooLong(_) => Alert::RecordOverflow,
            Self::TooLong | Self::Message => Alert::DecodeError,
        }
    }
}

/// A ClientHello on its way.
#[derive(Debug, Default)]
pub struct Reader {
    /// All that came.
    bytes: Vec<u8>,
    /// How far that has been looked at.
    at: usize,
    /// Bytes of the record that are still to come.
    record_left: usize,
    /// The message so far.
    message: Vec<u8>,
}

impl Reader {
    /// Takes the next bytes; gives the message when it is whole.
    ///
    /// # Errors
    /// As soon as it is certain that there will be none.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, Malformed> {
        self.bytes.extend_from_slice(bytes);
        loop {
            if let Some(message) = whole(&self.message)? {
                return ClientHello::parse(message).map(Some).ok_or(Malformed::Message);
            }
            let rest = &self.bytes[self.at..];
            if self.record_left == 0 {
                self.record_left = match record(rest)? {
                    Some(length) => length,
                    None => return Ok(None),
                };
                if self.at + RECORD_HEAD_BYTES + self.record_left > BYTES_MAX {
                    return Err(Malformed::TooLong);
                }
                self.at += RECORD_HEAD_BYTES;
                continue;
            }
            let taken = rest.len().min(self.record_left);
            if taken == 0 {
                return Ok(None);
            }
            self.message.extend_from_slice(&rest[..taken]);
            self.record_left -= taken;
            self.at += taken;
        }
    }

    /// All that came: for whoever is to see it as the client sent it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The length of the record that begins here; `None` if its head is not whole yet.
fn record(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let is_handshake = bytes.first().is_none_or(|kind| *kind == HANDSHAKE);
    let is_tls = bytes.get(1).is_none_or(|major| *major == 3);
    if !is_handshake || !is_tls {
        return Err(Malformed::NoHandshake);
    }
    let Some(head) = bytes.first_chunk::<RECORD_HEAD_BYTES>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([head[3], head[4]])) {
        // A handshake's records are not empty (RFC 8446, 5.1).
        0 => Err(Malformed::Message),
        length if length > RECORD_BYTES_MAX => Err(Malformed::RecordTooLong(length)),
        length => Ok(Some(length)),
    }
}

/// The body of the message that begins `bytes`, if it is whole.
fn whole(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Malformed::NoHandshake);
    }
    let Some(head) = bytes.first_chunk::<MESSAGE_HEAD_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    if MESSAGE_HEAD_BYTES + length > MESSAGE_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    Ok(bytes.get(MESSAGE_HEAD_BYTES..MESSAGE_HEAD_BYTES + length))
}

#[cfg(test)]
pub(crate) mod tests;
