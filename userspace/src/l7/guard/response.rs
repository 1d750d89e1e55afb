//! The responses of one backend's connection, each to a request that was announced.

use steerage_common::error::ErrorClass;

use super::chunked::Chunked;
use super::fields::Fields;
use super::request::Version;
use super::{Limits, Outcome, Step, scan};

/// Informational responses before the one that counts.
const INTERIM_MAX: u8 = 32;

/// What the request was, as far as the response's framing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing of the below.
    Plain,
    /// `HEAD`: no body follows.
    Head,
    /// `CONNECT`: after a 2xx comes whatever the tunnel carries.
    Connect,
    /// With an `Upgrade` header: after a 101 comes another protocol.
    Upgrade,
}

/// What becomes of the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// All may pass.
    Pass,
    /// This is no HTTP: nothing of it may pass.
    Malformed,
    /// So many may pass; those that follow belong to no response. The connection is poisoned.
    Excess(usize),
}

/// A final response's head, whole, whose body has a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of the head: the body begins behind them.
    pub head_bytes: usize,
    /// Bytes of the body, more than none.
    pub body_bytes: u64,
    /// Where in the head the value of `Content-Length` ends.
    pub length_end: usize,
}

/// Follows the responses of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ResponseGuard {
    limits: Limits,
    asked: Asked,
    interim_left: u8,
    /// Where the value of `Content-Length` ended, in the bytes in which the last head did.
    length_end: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Head {
        head: Head,
        bytes: u32,
    },
    Length(u64),
    Chunked(Chunked),
    /// All that comes belongs to the response, or to another protocol.
    ToEnd,
    Malformed,
    Poisoned,
}

impl ResponseGuard {
    /// The guard of a new connection, which has not been asked anything yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            asked: Asked::Plain,
            interim_left: INTERIM_MAX,
            length_end: 0,
            state: State::Idle,
        }
    }

    /// Announces the next request; the former's response is whole.
    pub fn ask(&mut self, asked: Asked) {
        if matches!(self.state, State::Idle) {
            self.asked = asked;
            self.interim_left = INTERIM_MAX;
            self.state = State::head(&self.limits);
        }
    }

    /// Whether the connection can't be trusted any more: it sent what is no HTTP.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(self.state, State::Malformed)
    }

    /// Whether the connection can't be trusted any more: it sent what nobody had asked for.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        matches!(self.state, State::Poisoned)
    }

    /// Whether the next byte begins a response that has no framing of its own kind.
    #[must_use]
    pub fn is_at_plain_beginning(&self) -> bool {
        self.asked == Asked::Plain && matches!(self.state, State::Head { bytes: 0, .. })
    }

    /// Follows the next bytes of the connection.
    pub fn inspect(&mut self, bytes: &[u8]) -> Opinion {
        self.inspect_and_measure(bytes).0
    }

    /// Follows the next bytes of the connection; says how long the response is that they begin, if its
    /// head is whole in them and says so.
    pub fn inspect_and_measure(&mut self, bytes: &[u8]) -> (Opinion, Option<Measured>) {
        let begins = matches!(self.state, State::Head { bytes: 0, .. });
        let mut measured = None;
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(Step::More) => break,
                Ok(Step::Done(0)) => {
                    self.state = State::Poisoned;
                    return (Opinion::Excess(at), measured);
                }
                Ok(Step::Done(used)) => {
                    if at == 0
                        && begins
                        && let State::Length(body_bytes) = self.state
                    {
                        let length_end = self.length_end;
                        measured = Some(Measured { head_bytes: used, body_bytes, length_end });
                    }
                    at += used;
                }
                Err(_) => {
                    self.state = State::Malformed;
                    return (Opinion::Malformed, None);
                }
            }
        }
        (Opinion::Pass, measured)
    }

    /// Done with nothing if nothing is to come.
    fn step(&mut self, bytes: &[u8]) -> Outcome {
        match &mut self.state {
            State::Idle | State::Poisoned => Ok(Step::Done(0)),
            State::Head { head, bytes: before } => {
                let room = self.limits.head_bytes.saturating_sub(*before) as usize;
                let part = &bytes[..bytes.len().min(room)];
                match head.follow(part)? {
                    Step::Done(used) => {
                        self.length_end = head.fields_at + head.fields.length_end();
                        self.state =
                            head.after(self.asked, &mut self.interim_left, &self.limits)?;
                        Ok(Step::Done(used))
                    }
                    Step::More if part.len() < bytes.len() => Err(ErrorClass::Protocol),
                    Step::More => {
                        *before += part.len() as u32;
                        Ok(Step::More)
                    }
                }
            }
            State::Length(left) if (bytes.len() as u64) < *left => {
                *left -= bytes.len() as u64;
                Ok(Step::More)
            }
            State::Length(left) => {
                let used = *left as usize;
                self.state = State::Idle;
                Ok(Step::Done(used))
            }
            State::Chunked(chunked) => {
                let step = chunked.follow(bytes)?;
                if matches!(step, Step::Done(_)) {
                    self.state = State::Idle;
                }
                Ok(step)
            }
            State::ToEnd => Ok(Step::More),
            State::Malformed => Err(ErrorClass::Protocol),
        }
    }
}

impl State {
    fn head(limits: &Limits) -> Self {
        Self::Head { head: Head::new(limits), bytes: 0 }
    }
}

/// A status line and its headers.
#[derive(Clone, Copy, Debug)]
struct Head {
    place: Place,
    version: Version,
    status: u16,
    /// Where the fields began in the bytes that came last.
    fields_at: usize,
    fields: Fields,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Version,
    /// So many digits of the status have come.
    Status(u8),
    Reason,
    /// The status line's CR has come.
    LineFeed,
    Fields,
}

impl Head {
    fn new(limits: &Limits) -> Self {
        Self {
            place: Place::Version,
            version: Version::default(),
            status: 0,
            fields_at: 0,
            fields: Fields::of_head(limits.fields),
        }
    }

    fn follow(&mut self, bytes: &[u8]) -> Outcome {
        const MALFORMED: Outcome = Err(ErrorClass::Protocol);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                Place::Version => {
                    if self.version.push(byte)? {
                        if byte != b' ' {
                            return MALFORMED;
                        }
                        self.place = Place::Status(0);
                    }
                    at += 1;
                }
                Place::Status(digits) => {
                    self.place = match (digits, byte) {
                        (0..=2, b'0'..=b'9') => {
                            self.status = self.status * 10 + u16::from(byte - b'0');
                            Place::Status(digits + 1)
                        }
                        (3, b' ') if self.status >= 100 => Place::Reason,
                        // Nobody sends the space that the RFC wants before an empty reason.
                        (3, b'\r') if self.status >= 100 => Place::LineFeed,
                        _ => return MALFORMED,
                    };
                    at += 1;
                }
                Place::Reason => {
                    at += scan::text(&bytes[at..]);
                    match bytes.get(at) {
                        None => {}
                        Some(b'\r') => {
                            self.place = Place::LineFeed;
                            at += 1;
                        }
                        Some(_) => return MALFORMED,
                    }
                }
                Place::LineFeed if byte == b'\n' => {
                    self.place = Place::Fields;
                    at += 1;
                }
                Place::LineFeed => return MALFORMED,
                Place::Fields => {
                    self.fields_at = at;
                    return Ok(match self.fields.follow(&bytes[at..])? {
                        Step::Done(used) => Step::Done(at + used),
                        Step::More => Step::More,
                    });
                }
            }
        }
        Ok(Step::More)
    }

    /// What follows the head (RFC 9112, 6.3).
    fn after(
        &self,
        asked: Asked,
        interim_left: &mut u8,
        limits: &Limits,
    ) -> Result<State, ErrorClass> {
        let framing = self.fields.framing();
        if framing.is_chunked && self.version.minor == b'0' {
            return Err(ErrorClass::Protocol);
        }
        Ok(match (self.status, asked) {
            (101, Asked::Upgrade) | (200..=299, Asked::Connect) => State::ToEnd,
            (101, _) => return Err(ErrorClass::Protocol),
            (100..=199, _) => {
                *interim_left = interim_left.checked_sub(1).ok_or(ErrorClass::Protocol)?;
                State::head(limits)
            }
            (204 | 304, _) | (_, Asked::Head) => State::Idle,
            _ if framing.is_chunked => State::Chunked(Chunked::new()),
            _ => match framing.length {
                Some(0) => State::Idle,
                Some(bytes) => State::Length(bytes),
                None => State::ToEnd,
            },
        })
    }
}
