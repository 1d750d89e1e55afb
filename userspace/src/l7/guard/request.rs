//! The requests of one client's connection, one after another.

use steerage_common::error::ErrorClass;

use super::chunked::Chunked;
use super::fields::{Fields, Framing, Word};
use super::{Limits, Outcome, Step, scan};

/// Empty lines that may stand before a request (RFC 9112, 2.2).
const EMPTY_LINES_MAX: u8 = 2;

/// What becomes of the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All may pass.
    Pass,
    /// So many may pass. What follows may be another protocol's, if the backend agrees to switch: keep
    /// it, until [`RequestGuard::switched`] or [`RequestGuard::stayed`] is called.
    Hold(usize),
    /// So many may pass; what follows is refused, and so is all that comes later.
    Refuse(usize, ErrorClass),
}

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before a request: none of its bytes has come.
    Between,
    /// Within a head.
    Head,
    /// Within a body.
    Body,
    /// To another protocol: after a switch, or perhaps.
    Beyond,
}

/// Follows the requests of a connection.
#[derive(Clone, Copy, Debug)]
pub struct RequestGuard {
    limits: Limits,
    state: State,
    heads: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head { head: Head, bytes: u32 },
    Body { body: Body, may_switch: bool },
    Undecided,
    Switched,
    Refused { class: ErrorClass, place: Place },
}

#[derive(Clone, Copy, Debug)]
enum Body {
    /// So many bytes are to come, at least one.
    Length(u64),
    Chunked(Chunked),
}

impl RequestGuard {
    /// The guard of a new connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::head(&limits), heads: 0 }
    }

    /// How many heads were whole and may pass.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Where the next byte belongs; once bytes were refused, where those belonged.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.state {
            State::Head { head: Head { place: HeadPlace::Start, .. }, .. } => Place::Between,
            State::Head { .. } => Place::Head,
            State::Body { .. } => Place::Body,
            State::Undecided | State::Switched => Place::Beyond,
            State::Refused { place, .. } => place,
        }
    }

    /// Whether bytes are held until the backend has decided whose they are.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// The connection speaks another protocol from the held bytes on: all passes.
    pub fn switched(&mut self) {
        self.state = State::Switched;
    }

    /// The connection did not switch: the held bytes are requests, to be inspected again.
    pub fn stayed(&mut self) {
        if matches!(self.state, State::Undecided) {
            self.state = State::head(&self.limits);
        }
    }

    /// Follows the next bytes of the connection.
    pub fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(Step::More) => return Verdict::Pass,
                // Only where everything is held.
                Ok(Step::Done(0)) => return Verdict::Hold(at),
                Ok(Step::Done(used)) => at += used,
                Err(class) => {
                    self.state = State::Refused { class, place: self.place() };
                    return Verdict::Refuse(at, class);
                }
            }
        }
        Verdict::Pass
    }

    fn step(&mut self, bytes: &[u8]) -> Outcome {
        match &mut self.state {
            State::Head { head, bytes: before } => {
                let room = self.limits.head_bytes.saturating_sub(*before) as usize;
                let part = &bytes[..bytes.len().min(room)];
                match head.follow(part, &self.limits)? {
                    Step::Done(used) => {
                        self.state = head.after(&self.limits)?;
                        self.heads += 1;
                        Ok(Step::Done(used))
                    }
                    Step::More if part.len() < bytes.len() => Err(ErrorClass::HeadTooLarge),
                    Step::More => {
                        *before += part.len() as u32;
                        Ok(Step::More)
                    }
                }
            }
            State::Body { body, may_switch } => {
                let step = body.follow(bytes)?;
                if matches!(step, Step::Done(_)) {
                    self.state =
                        if *may_switch { State::Undecided } else { State::head(&self.limits) };
                }
                Ok(step)
            }
            State::Undecided => Ok(Step::Done(0)),
            State::Switched => Ok(Step::More),
            State::Refused { class, .. } => Err(*class),
        }
    }
}

impl State {
    fn head(limits: &Limits) -> Self {
        Self::Head { head: Head::new(limits), bytes: 0 }
    }
}

impl Body {
    fn follow(&mut self, bytes: &[u8]) -> Outcome {
        match self {
            Self::Chunked(chunked) => chunked.follow(bytes),
            Self::Length(left) if (bytes.len() as u64) < *left => {
                *left -= bytes.len() as u64;
                Ok(Step::More)
            }
            Self::Length(left) => Ok(Step::Done(*left as usize)),
        }
    }
}

/// A request line and its headers.
#[derive(Clone, Copy, Debug)]
struct Head {
    place: HeadPlace,
    empty_lines: u8,
    method: Word,
    /// The target; all of it is kept only if it is short.
    target: Word,
    version: Version,
    fields: Fields,
}

#[derive(Clone, Copy, Debug)]
enum HeadPlace {
    Start,
    /// An empty line's CR has come.
    EmptyLineFeed,
    Method,
    Target,
    Version,
    /// The request line's CR has come.
    LineFeed,
    Fields,
}

impl Head {
    fn new(limits: &Limits) -> Self {
        Self {
            place: HeadPlace::Start,
            empty_lines: 0,
            method: Word::default(),
            target: Word::default(),
            version: Version::default(),
            fields: Fields::of_head(limits.fields),
        }
    }

    fn follow(&mut self, bytes: &[u8], limits: &Limits) -> Outcome {
        const MALFORMED: Outcome = Err(ErrorClass::MalformedHead);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                HeadPlace::Start if byte == b'\r' => {
                    if self.empty_lines == EMPTY_LINES_MAX {
                        return MALFORMED;
                    }
                    self.empty_lines += 1;
                    self.place = HeadPlace::EmptyLineFeed;
                    at += 1;
                }
                HeadPlace::Start => self.place = HeadPlace::Method,
                HeadPlace::EmptyLineFeed if byte == b'\n' => {
                    self.place = HeadPlace::Start;
                    at += 1;
                }
                HeadPlace::Method => {
                    let run = scan::token(&bytes[at..]);
                    self.method.push(&bytes[at..at + run]);
                    at += run;
                    match bytes.get(at) {
                        None => {}
                        Some(b' ') if self.method.len() != 0 => {
                            self.place = HeadPlace::Target;
                            at += 1;
                        }
                        Some(_) => return MALFORMED,
                    }
                }
                HeadPlace::Target => {
                    let run = scan::target(&bytes[at..]);
                    self.target.push(&bytes[at..at + run]);
                    if self.target.len() > limits.uri_bytes as usize {
                        return Err(ErrorClass::UriTooLong);
                    }
                    at += run;
                    match bytes.get(at) {
                        None => {}
                        Some(b' ') => {
                            self.check_target()?;
                            self.place = HeadPlace::Version;
                            at += 1;
                        }
                        Some(_) => return MALFORMED,
                    }
                }
                HeadPlace::Version => {
                    if self.version.push(byte)? {
                        if byte != b'\r' {
                            return MALFORMED;
                        }
                        self.place = HeadPlace::LineFeed;
                    }
                    at += 1;
                }
                HeadPlace::LineFeed if byte == b'\n' => {
                    self.place = HeadPlace::Fields;
                    at += 1;
                }
                HeadPlace::Fields => {
                    return Ok(match self.fields.follow(&bytes[at..])? {
                        Step::Done(used) => Step::Done(at + used),
                        Step::More => Step::More,
                    });
                }
                HeadPlace::EmptyLineFeed | HeadPlace::LineFeed => return MALFORMED,
            }
        }
        Ok(Step::More)
    }

    fn is_connect(&self) -> bool {
        self.method.get() == b"CONNECT"
    }

    /// The target's form (RFC 9112, 3.2). Its parts are looked at where requests are prepared.
    fn check_target(&self) -> Result<(), ErrorClass> {
        let start = self.target.start();
        let is_good = match start {
            [] => return Err(ErrorClass::MalformedHead),
            [b'/', ..] => !self.is_connect(),
            [b'*', ..] => self.target.len() == 1 && self.method.get() == b"OPTIONS",
            _ if self.is_connect() => true,
            _ => ["http://", "https://"].into_iter().any(|scheme| {
                let (name, rest) = start.split_at(start.len().min(scheme.len()));
                let names_host = rest.first().is_some_and(|first| !b"/?".contains(first));
                name.eq_ignore_ascii_case(scheme.as_bytes()) && names_host
            }),
        };
        if is_good { Ok(()) } else { Err(ErrorClass::BadTarget) }
    }

    /// What follows the head.
    fn after(&self, limits: &Limits) -> Result<State, ErrorClass> {
        let Framing { length, is_chunked, has_upgrade } = self.fields.framing();
        let is_connect = self.is_connect();
        if is_chunked && self.version.minor == b'0'
            || is_connect && (is_chunked || length.is_some())
        {
            return Err(ErrorClass::BadFraming);
        }
        let may_switch = has_upgrade || is_connect;
        Ok(match length {
            _ if is_chunked => State::Body { body: Body::Chunked(Chunked::new()), may_switch },
            Some(bytes @ 1..) => State::Body { body: Body::Length(bytes), may_switch },
            _ if may_switch => State::Undecided,
            _ => State::head(limits),
        })
    }
}

/// `HTTP/1.0` or `HTTP/1.1`, byte by byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Version {
    at: u8,
    major: u8,
    /// The digit after the dot.
    pub(super) minor: u8,
}

impl Version {
    /// Takes the next byte; whether it was the one after the version, a space or CR.
    pub(super) fn push(&mut self, byte: u8) -> Result<bool, ErrorClass> {
        const NAME: &[u8] = b"HTTP/";
        match (self.at, byte) {
            (0..=4, _) if byte == NAME[usize::from(self.at)] => {}
            (5, b'0'..=b'9') => self.major = byte,
            (6, b'.') => {}
            (7, b'0'..=b'9') => self.minor = byte,
            (8, b'\r' | b' ') if self.is_known() => return Ok(true),
            (8, b'\r' | b' ') => return Err(ErrorClass::BadVersion),
            _ => return Err(ErrorClass::MalformedHead),
        }
        self.at += 1;
        Ok(false)
    }

    fn is_known(self) -> bool {
        self.major == b'1' && matches!(self.minor, b'0' | b'1')
    }
}
