//! Header lines and trailer lines, to the empty line that ends them.
//!
//! Refused: a name that is empty, no token, or followed by a space; a folded line; a control character
//! in a value; a line that ends otherwise than by CRLF; a `Content-Length` that is not digits alone, or
//! stands twice; a `Transfer-Encoding` that is not `chunked` alone, or stands twice; in trailers, every
//! field that says how to frame or route a message.

use steerage_common::error::ErrorClass;

use super::{Outcome, Step, scan};

/// Nineteen digits are always less than 2^63, and more bytes than any body has.
const LENGTH_DIGITS_MAX: u8 = 19;

const CHUNKED: &[u8] = b"chunked";

/// What the headers say about what follows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    pub(super) length: Option<u64>,
    pub(super) is_chunked: bool,
    /// Whether there is an `Upgrade` header.
    pub(super) has_upgrade: bool,
}

/// The beginning of a word that may come in pieces; what is too long is none of those that matter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Word {
    bytes: [u8; 18],
    len: usize,
}

impl Word {
    pub(super) fn push(&mut self, more: &[u8]) {
        let end = (self.len + more.len()).min(self.bytes.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(&more[..room.len()]);
        }
        self.len += more.len();
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The whole word; empty if it is too long.
    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// What is kept of it.
    pub(super) fn start(&self) -> &[u8] {
        &self.bytes[..self.len.min(self.bytes.len())]
    }

    fn is(&self, name: &str) -> bool {
        self.len == name.len() && self.get().eq_ignore_ascii_case(name.as_bytes())
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    LineStart,
    Name,
    Value,
    /// A line's CR has come.
    LineFeed,
    /// The empty line's CR has come.
    LastLineFeed,
}

/// Whose value it is that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Length,
    Coding,
}

/// The lines of one head, or of one body's trailers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    place: Place,
    kind: Kind,
    /// Bytes of a value that matters, without the spaces around it.
    matched: u8,
    /// Whether such a value's last byte has come, and only spaces may follow.
    is_value_over: bool,
    is_trailer: bool,
    left: u16,
    name: Word,
    number: u64,
    /// Where the value of `Content-Length` ended, in the bytes in which it did.
    length_end: usize,
    framing: Framing,
}

impl Fields {
    /// The lines of a head with at most `max` fields.
    pub(super) fn of_head(max: u16) -> Self {
        Self {
            place: Place::LineStart,
            kind: Kind::Plain,
            matched: 0,
            is_value_over: false,
            is_trailer: false,
            left: max,
            name: Word::default(),
            number: 0,
            length_end: 0,
            framing: Framing::default(),
        }
    }

    /// Trailers, at most `max`.
    pub(super) fn of_trailer(max: u16) -> Self {
        Self { is_trailer: true, ..Self::of_head(max) }
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn length_end(&self) -> usize {
        self.length_end
    }

    pub(super) fn follow(&mut self, bytes: &[u8]) -> Outcome {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                Place::LineStart if byte == b'\r' => {
                    self.place = Place::LastLineFeed;
                    at += 1;
                }
                Place::LineStart => {
                    self.left = self.left.checked_sub(1).ok_or(ErrorClass::TooManyHeaders)?;
                    self.name = Word::default();
                    self.place = Place::Name;
                }
                Place::Name => {
                    let run = scan::token(&bytes[at..]);
                    self.name.push(&bytes[at..at + run]);
                    at += run;
                    match bytes.get(at) {
                        None => {}
                        Some(b':') => {
                            self.begin_value()?;
                            at += 1;
                        }
                        Some(_) => return Err(ErrorClass::MalformedHead),
                    }
                }
                Place::Value => {
                    let run = scan::text(&bytes[at..]);
                    match self.kind {
                        Kind::Plain => {}
                        Kind::Length => {
                            self.read_length(&bytes[at..at + run])?;
                            self.length_end = at + run;
                        }
                        Kind::Coding => self.read_coding(&bytes[at..at + run])?,
                    }
                    at += run;
                    match bytes.get(at) {
                        None => {}
                        Some(b'\r') => {
                            self.place = Place::LineFeed;
                            at += 1;
                        }
                        Some(_) => return Err(ErrorClass::MalformedHead),
                    }
                }
                Place::LineFeed if byte == b'\n' => {
                    self.end_value()?;
                    self.place = Place::LineStart;
                    at += 1;
                }
                Place::LastLineFeed if byte == b'\n' => return Ok(Step::Done(at + 1)),
                Place::LineFeed | Place::LastLineFeed => return Err(ErrorClass::MalformedHead),
            }
        }
        Ok(Step::More)
    }

    fn begin_value(&mut self) -> Result<(), ErrorClass> {
        self.place = Place::Value;
        self.kind = Kind::Plain;
        let name = &self.name;
        match name.len() {
            0 => return Err(ErrorClass::MalformedHead),
            _ if self.is_trailer => {
                let refused = [
                    "content-length",
                    "transfer-encoding",
                    "host",
                    "connection",
                    "te",
                    "trailer",
                    "upgrade",
                ];
                if refused.into_iter().any(|refused| name.is(refused)) {
                    return Err(ErrorClass::BadFraming);
                }
            }
            7 if name.is("upgrade") => self.framing.has_upgrade = true,
            14 if name.is("content-length") => {
                if self.framing.length.is_some() {
                    return Err(ErrorClass::BadFraming);
                }
                self.begin_known(Kind::Length);
            }
            17 if name.is("transfer-encoding") => {
                if self.framing.is_chunked {
                    return Err(ErrorClass::BadFraming);
                }
                self.begin_known(Kind::Coding);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_known(&mut self, kind: Kind) {
        self.kind = kind;
        self.matched = 0;
        self.is_value_over = false;
        self.number = 0;
    }

    fn read_length(&mut self, text: &[u8]) -> Result<(), ErrorClass> {
        for byte in text {
            match byte {
                b' ' | b'\t' => self.is_value_over = self.matched != 0,
                b'0'..=b'9' if !self.is_value_over && self.matched < LENGTH_DIGITS_MAX => {
                    self.number = self.number * 10 + u64::from(byte - b'0');
                    self.matched += 1;
                }
                _ => return Err(ErrorClass::BadFraming),
            }
        }
        Ok(())
    }

    fn read_coding(&mut self, text: &[u8]) -> Result<(), ErrorClass> {
        for byte in text {
            let wanted = CHUNKED.get(usize::from(self.matched));
            match byte {
                b' ' | b'\t' => self.is_value_over = self.matched != 0,
                byte if !self.is_value_over && wanted == Some(&byte.to_ascii_lowercase()) => {
                    self.matched += 1;
                }
                _ => return Err(ErrorClass::BadFraming),
            }
        }
        Ok(())
    }

    fn end_value(&mut self) -> Result<(), ErrorClass> {
        match self.kind {
            Kind::Plain => {}
            Kind::Length if self.matched == 0 => return Err(ErrorClass::BadFraming),
            Kind::Length => self.framing.length = Some(self.number),
            Kind::Coding if usize::from(self.matched) == CHUNKED.len() => {
                self.framing.is_chunked = true;
            }
            Kind::Coding => return Err(ErrorClass::BadFraming),
        }
        if self.framing.is_chunked && self.framing.length.is_some() {
            return Err(ErrorClass::BadFraming);
        }
        Ok(())
    }
}
