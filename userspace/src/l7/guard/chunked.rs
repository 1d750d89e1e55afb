//! A chunked body: sizes, data, trailers.
//!
//! Refused: a size that is not hexadecimal digits alone, or too large; spaces around it; a line that
//! does not end by CRLF; data that is not followed by CRLF; extensions and trailers without measure.

use steerage_common::error::ErrorClass;

use super::fields::Fields;
use super::{Outcome, Step, scan};

/// Fifteen digits are always less than 2^60.
const SIZE_DIGITS_MAX: u8 = 15;

/// Extension bytes of a whole body. Nobody needs them; they make a byte of body cost many.
const EXTENSION_BYTES_MAX: u32 = 8 * 1024;

/// Trailer bytes of a body; hyper's limit is the same.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Trailer lines of a body.
const TRAILERS_MAX: u16 = 64;

#[derive(Clone, Copy, Debug)]
enum Place {
    Size,
    Extension,
    /// The size line's CR has come.
    SizeLineFeed,
    /// So many bytes of data are to come.
    Data(u64),
    DataCarriageReturn,
    DataLineFeed,
    Trailers,
}

/// One chunked body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    place: Place,
    size: u64,
    digits: u8,
    extension_left: u32,
    trailer_left: usize,
    trailers: Fields,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Size,
            size: 0,
            digits: 0,
            extension_left: EXTENSION_BYTES_MAX,
            trailer_left: TRAILER_BYTES_MAX,
            trailers: Fields::of_trailer(TRAILERS_MAX),
        }
    }

    pub(super) fn follow(&mut self, bytes: &[u8]) -> Outcome {
        const BAD: Outcome = Err(ErrorClass::BadFraming);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                Place::Size => {
                    match (byte as char).to_digit(16) {
                        Some(digit) if self.digits < SIZE_DIGITS_MAX => {
                            self.size = self.size * 16 + u64::from(digit);
                            self.digits += 1;
                        }
                        None if self.digits != 0 && byte == b'\r' => {
                            self.place = Place::SizeLineFeed;
                        }
                        None if self.digits != 0 && byte == b';' => self.place = Place::Extension,
                        _ => return BAD,
                    }
                    at += 1;
                }
                Place::Extension => {
                    let run = scan::text(&bytes[at..]);
                    let left =
                        u32::try_from(run).ok().and_then(|r| self.extension_left.checked_sub(r));
                    self.extension_left = left.ok_or(ErrorClass::BadFraming)?;
                    at += run;
                    match bytes.get(at) {
                        None => {}
                        Some(b'\r') => {
                            self.place = Place::SizeLineFeed;
                            at += 1;
                        }
                        Some(_) => return BAD,
                    }
                }
                Place::SizeLineFeed if byte == b'\n' => {
                    self.place =
                        if self.size == 0 { Place::Trailers } else { Place::Data(self.size) };
                    self.size = 0;
                    self.digits = 0;
                    at += 1;
                }
                Place::Data(left) => {
                    let here = (bytes.len() - at) as u64;
                    if here < left {
                        self.place = Place::Data(left - here);
                        return Ok(Step::More);
                    }
                    self.place = Place::DataCarriageReturn;
                    at += left as usize;
                }
                Place::DataCarriageReturn if byte == b'\r' => {
                    self.place = Place::DataLineFeed;
                    at += 1;
                }
                Place::DataLineFeed if byte == b'\n' => {
                    self.place = Place::Size;
                    at += 1;
                }
                Place::Trailers => return self.follow_trailers(&bytes[at..], at),
                Place::SizeLineFeed | Place::DataCarriageReturn | Place::DataLineFeed => {
                    return BAD;
                }
            }
        }
        Ok(Step::More)
    }

    fn follow_trailers(&mut self, rest: &[u8], before: usize) -> Outcome {
        let part = &rest[..rest.len().min(self.trailer_left)];
        self.trailer_left -= part.len();
        match self.trailers.follow(part)? {
            Step::Done(used) => Ok(Step::Done(before + used)),
            Step::More if part.len() < rest.len() => Err(ErrorClass::HeadTooLarge),
            Step::More => Ok(Step::More),
        }
    }
}
