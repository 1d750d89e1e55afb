//! What becomes of a line for every request.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Pieces of a format string.
const PIECES_MAX: usize = 128;

/// Bytes of a format string.
const FORMAT_BYTES_MAX: usize = 4096;

/// nginx's and Apache's, by the names that there are here.
const COMBINED: &str =
    "$client - - [$time_local] \"$request\" $status $response_bytes \"$referer\" \"$user_agent\"";

/// Lines about requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessLog {
    /// Where they go.
    pub path: Destination,
    /// What they say.
    pub format: Format,
    /// The share of requests that have one.
    pub sample: f64,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: Destination::Off, format: Format::Json, sample: 1.0 }
    }
}

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Destination {
    /// Nowhere: none are made.
    #[default]
    Off,
    /// The daemon's standard output.
    Output,
    /// The end of a file, or a FIFO.
    File(PathBuf),
    /// A syslog daemon's local socket.
    Syslog(PathBuf),
    /// The journal's socket, by its native protocol.
    Journal(PathBuf),
}

impl Destination {
    const SYSLOG: &str = "/dev/log";
    const JOURNAL: &str = "/run/systemd/journal/socket";
}

impl From<String> for Destination {
    fn from(text: String) -> Self {
        match text.split_once(':') {
            Some(("syslog", path)) => Self::Syslog(path.into()),
            Some(("journald", path)) => Self::Journal(path.into()),
            _ => match text.as_str() {
                "off" => Self::Off,
                "-" => Self::Output,
                "syslog" => Self::Syslog(Self::SYSLOG.into()),
                "journald" => Self::Journal(Self::JOURNAL.into()),
                _ => Self::File(text.into()),
            },
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Output => f.write_str("-"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Syslog(path) if path == Self::SYSLOG => f.write_str("syslog"),
            Self::Syslog(path) => write!(f, "syslog:{}", path.display()),
            Self::Journal(path) if path == Self::JOURNAL => f.write_str("journald"),
            Self::Journal(path) => write!(f, "journald:{}", path.display()),
        }
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Format {
    /// One JSON object: every field that has a value.
    Json,
    /// What the pieces say, one after another.
    Text {
        /// As it is written in the file.
        written: String,
        /// Its pieces.
        pieces: Vec<Piece>,
    },
}

/// A piece of a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This very text.
    Text(String),
    /// A field's value, or `-`.
    Field(Field),
}

macro_rules! fields {
    ($($(#[$doc:meta])+ $field:ident, $name:literal;)+) => {
        /// What there is to know of a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field {
            $($(#[$doc])+ $field,)+
        }

        impl Field {
            /// All fields.
            pub const ALL: &[Self] = &[$(Self::$field),+];

            /// The field's name in format strings, and its key in JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)+
                }
            }

            /// The field's key in JSON, with a comma before it and the colon after it.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self {
                    $(Self::$field => concat!(",\"", $name, "\":"),)+
                }
            }
        }
    };
}

fields! {
    /// When the request came: RFC 3339, UTC, milliseconds.
    Time, "time";
    /// The same as Apache writes it.
    TimeLocal, "time_local";
    /// The listener.
    Listener, "listener";
    /// The client's address.
    Client, "client";
    /// Its port.
    ClientPort, "client_port";
    /// The method.
    Method, "method";
    /// The host that the request names.
    Host, "host";
    /// The target as the client sent it.
    Target, "target";
    /// The version of HTTP.
    Protocol, "protocol";
    /// Method, target and version.
    Request, "request";
    /// The status that the client got; 499 if it left before there was one.
    Status, "status";
    /// Bytes of the request's body that came.
    RequestBytes, "request_bytes";
    /// Bytes of the response's body that went out.
    ResponseBytes, "response_bytes";
    /// How long it stood in line for a backend.
    Queue, "queue_ms";
    /// How long the connection to the backend took; none if there was one.
    Connect, "connect_ms";
    /// From sending the request to the beginning of the response.
    FirstByte, "first_byte_ms";
    /// From the request's head to the end of the response.
    Total, "total_ms";
    /// The service.
    Service, "service";
    /// The backend that was asked last.
    Backend, "backend";
    /// How often a backend was asked.
    Attempts, "attempts";
    /// The rule by which it was last asked again.
    Replay, "replay";
    /// Whether the connection to the backend had carried a request before.
    Reused, "reused";
    /// Why Steerage answered itself.
    Error, "error";
    /// How the exchange ended.
    Cause, "cause";
    /// The version of TLS.
    TlsVersion, "tls_version";
    /// The cipher suite.
    TlsCipher, "tls_cipher";
    /// The name that the client asked for.
    TlsSni, "tls_sni";
    /// The protocol that was agreed on.
    TlsAlpn, "tls_alpn";
    /// Whether the session was resumed.
    TlsResumed, "tls_resumed";
    /// The request's id, as the backend got it.
    RequestId, "request_id";
    /// The trace that the request is of.
    TraceId, "trace_id";
    /// Who asked.
    UserAgent, "user_agent";
    /// Where from.
    Referer, "referer";
}

impl Field {
    /// Whether it is made of others, and so has no place in JSON.
    #[must_use]
    pub const fn is_derived(self) -> bool {
        matches!(self, Self::TimeLocal | Self::Request)
    }
}

/// What is wrong with a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A name that no field has.
    #[error("there is no ${name}; there are: {}", known())]
    Unknown {
        /// The name.
        name: String,
    },
    /// A `$` without a name.
    #[error("'$' stands for nothing here; write \"$$\" for the sign itself")]
    Bare,
    /// `${` without its end.
    #[error("\"${{\" has no \"}}\"")]
    Open,
    /// A line has one end.
    #[error("a format is one line, without control characters")]
    Control,
    /// Nothing to say.
    #[error("names no field; write \"json\", \"combined\", or text with $status and the like")]
    Empty,
    /// More than a line is for.
    #[error("at most {FORMAT_BYTES_MAX} bytes and {PIECES_MAX} pieces")]
    Long,
}

fn known() -> String {
    Field::ALL.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ")
}

impl Format {
    /// Reads a format: `json`, `combined`, or text in which `$name` and `${name}` are fields.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(written: &str) -> Result<Self, FormatError> {
        let text = match written {
            "json" => return Ok(Self::Json),
            "combined" => COMBINED,
            text => text,
        };
        if text.chars().any(char::is_control) {
            return Err(FormatError::Control);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            push(&mut pieces, &rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('$') {
                push(&mut pieces, "$");
                rest = after;
                continue;
            }
            let (name, left) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or(FormatError::Open)?,
                None => {
                    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()))
                }
            };
            if name.is_empty() {
                return Err(FormatError::Bare);
            }
            let field = Field::ALL.iter().find(|field| field.name() == name);
            let field = field.ok_or_else(|| FormatError::Unknown { name: name.to_owned() })?;
            pieces.push(Piece::Field(*field));
            rest = left;
        }
        push(&mut pieces, rest);
        if !pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
            return Err(FormatError::Empty);
        }
        if pieces.len() > PIECES_MAX || text.len() > FORMAT_BYTES_MAX {
            return Err(FormatError::Long);
        }
        Ok(Self::Text { written: written.to_owned(), pieces })
    }
}

fn push(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

impl TryFrom<String> for Format {
    type Error = FormatError;

    fn try_from(text: String) -> Result<Self, FormatError> {
        Self::parse(&text)
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        match format {
            Format::Json => "json".into(),
            Format::Text { written, .. } => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_fields() {
        let text = |text: &str| Piece::Text(text.into());
        for (written, pieces) in [
            ("$status", vec![Piece::Field(Field::Status)]),
            (
                "a ${status}b$$$method.",
                vec![
                    text("a "),
                    Piece::Field(Field::Status),
                    text("b$"),
                    Piece::Field(Field::Method),
                    text("."),
                ],
            ),
        ] {
            let written = written.to_owned();
            assert_eq!(Format::parse(&written), Ok(Format::Text { written, pieces }));
        }
        assert_eq!(Format::parse("json"), Ok(Format::Json));
        let Ok(Format::Text { pieces, .. }) = Format::parse("combined") else { panic!() };
        assert!(pieces.contains(&Piece::Field(Field::Referer)));
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        let long = "$status".repeat(PIECES_MAX + 1);
        for (written, said) in [
            ("$statuss", "there is no $statuss; there are: time, "),
            ("$", "'$' stands for nothing"),
            ("$status $-", "'$' stands for nothing"),
            ("${status", "\"${\" has no \"}\""),
            ("", "names no field"),
            ("jsn", "names no field"),
            ("$$", "names no field"),
            ("$status\n", "a format is one line"),
            (&long, "at most"),
        ] {
            let error = Format::parse(written).unwrap_err().to_string();
            assert!(error.starts_with(said), "{written}: {error}");
        }
    }

    #[test]
    fn formats_and_destinations_reach_a_worker_unchanged() {
        for format in ["json", "combined", "$status $$ ${target}"] {
            let format = Format::parse(format).unwrap();
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), format);
        }
        for path in ["off", "-", "syslog", "journald", "/var/log/x", "syslog:/x", "journald:/y"] {
            assert_eq!(Destination::from(path.to_owned()).to_string(), path);
        }
    }

    #[test]
    fn every_field_has_a_name_of_its_own() {
        for field in Field::ALL {
            let same = Field::ALL.iter().filter(|other| other.name() == field.name());
            assert_eq!(same.count(), 1, "{}", field.name());
        }
    }
}
