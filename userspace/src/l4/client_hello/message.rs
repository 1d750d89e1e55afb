//! The message itself (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2).

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The one type of server name.
const HOST_NAME: u8 = 0;

/// The longest host name.
const NAME_BYTES_MAX: usize = 255;

/// What is read of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host that the client wants, in lower case; `None` if it does not say.
    pub server_name: Option<String>,
    /// The protocols that it speaks, best first; empty if it does not say.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// Reads the message's body; `None` if it is malformed.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut body = Fields(body);
        let _version_and_random = body.take(2 + 32)?;
        let session = body.vector8()?;
        let suites = body.vector16()?;
        let compressions = body.vector8()?;
        let is_proper = session.len() <= 32
            && !suites.is_empty()
            && suites.len().is_multiple_of(2)
            && !compressions.is_empty();
        if !is_proper {
            return None;
        }
        let mut hello = Self::default();
        if body.is_empty() {
            // TLS 1.2 and before may have no extensions at all.
            return Some(hello);
        }
        let mut extensions = Fields(body.vector16()?);
        if !body.is_empty() {
            return None;
        }
        let (mut has_name, mut has_alpn) = (false, false);
        while !extensions.is_empty() {
            let kind = extensions.number16()?;
            let extension = Fields(extensions.vector16()?);
            // There is one of each (RFC 8446, 4.2).
            match kind {
                SERVER_NAME if std::mem::replace(&mut has_name, true) => return None,
                SERVER_NAME => hello.server_name = Some(server_name(extension)?),
                ALPN if std::mem::replace(&mut has_alpn, true) => return None,
                ALPN => hello.alpn = protocols(extension)?,
                _ => {}
            }
        }
        Some(hello)
    }

    /// Whether the client speaks one of these protocols.
    #[must_use]
    pub fn speaks(&self, protocols: &[String]) -> bool {
        self.alpn.iter().any(|spoken| protocols.iter().any(|wanted| wanted.as_bytes() == spoken))
    }
}

/// The one host name of the extension (RFC 6066, 3).
fn server_name(mut extension: Fields<'_>) -> Option<String> {
    let mut names = Fields(extension.vector16()?);
    let kind = names.number8()?;
    let name = names.vector16()?;
    if kind != HOST_NAME || !names.is_empty() || !extension.is_empty() {
        return None;
    }
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.iter().all(allowed)
        && !name.starts_with(b".")
        && !name.ends_with(b".");
    if !is_name {
        return None;
    }
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

/// The protocols of the extension (RFC 7301, 3.1).
fn protocols(mut extension: Fields<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = Fields(extension.vector16()?);
    if !extension.is_empty() || list.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.vector8()?;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.to_vec());
    }
    Some(protocols)
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of one byte is followed by.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.number8()?;
        self.take(length.into())
    }

    /// What a length of two bytes is followed by.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(length.into())
    }
}
