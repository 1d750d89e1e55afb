//! As much of HTTP/1.1 as an honest test backend and client need: heads, and bodies that are never
//! whole in memory.

use std::io::{self, BufRead, Write};

/// Bytes moved at a time.
pub const BLOCK: usize = 64 * 1024;

/// The first line and the headers of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line.
    pub start: String,
    /// Names as they came, values trimmed.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The `index`th word of the start line.
    #[must_use]
    pub fn word(&self, index: usize) -> &str {
        self.start.split(' ').nth(index).unwrap_or("")
    }

    /// How the body is framed. `default` is what holds without a header: nothing for a request, to
    /// the end of the connection for a response.
    ///
    /// # Errors
    /// If the length is no number.
    pub fn framing(&self, default: Framing) -> io::Result<Framing> {
        if self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return Ok(Framing::Chunked);
        }
        match self.header("content-length") {
            Some(text) => text.parse().map(Framing::Length).map_err(|_| invalid("content-length")),
            None => Ok(default),
        }
    }

    /// Whether the connection ends after this message.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection.
    ToEnd,
}

/// Reads a head; `None` if the connection ended before its first byte.
///
/// # Errors
/// If the connection breaks or what comes is no head.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Head>> {
    let Some(start) = read_line(stream)? else { return Ok(None) };
    let mut head = Head { start, headers: Vec::new() };
    loop {
        let line = read_line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(head));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header"))?;
        head.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| invalid("line"))
}

/// Reads a body to its end, passing each piece to `sink`; gives its length.
///
/// # Errors
/// If the connection breaks or ends too early.
pub fn read_body(
    stream: &mut impl BufRead,
    framing: Framing,
    mut sink: impl FnMut(&[u8]),
) -> io::Result<u64> {
    match framing {
        Framing::Length(length) => {
            copy_exactly(stream, length, &mut sink)?;
            Ok(length)
        }
        Framing::Chunked => {
            let mut total = 0;
            loop {
                let line = read_line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = line.split(';').next().unwrap_or("").trim();
                let size = u64::from_str_radix(size, 16).map_err(|_| invalid("chunk size"))?;
                copy_exactly(stream, size, &mut sink)?;
                total += size;
                if size == 0 {
                    // Trailers, to the empty line.
                    while !read_line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {}
                    return Ok(total);
                }
                read_line(stream)?;
            }
        }
        Framing::ToEnd => {
            let mut buffer = vec![0; BLOCK];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(total),
                    n => {
                        sink(&buffer[..n]);
                        total += n as u64;
                    }
                }
            }
        }
    }
}

fn copy_exactly(
    stream: &mut impl BufRead,
    mut left: u64,
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    while left > 0 {
        let ready = stream.fill_buf()?;
        if ready.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(ready.len());
        sink(&ready[..take]);
        stream.consume(take);
        left -= take as u64;
    }
    Ok(())
}

/// Writes one chunk; an empty one ends the body.
///
/// # Errors
/// If the connection breaks.
pub fn write_chunk(stream: &mut impl Write, data: &[u8]) -> io::Result<()> {
    write!(stream, "{:x}\r\n", data.len())?;
    stream.write_all(data)?;
    stream.write_all(b"\r\n")
}

/// An error about something that is not as HTTP wants it.
#[must_use]
pub fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_the_next_message_is_left_alone() {
        let mut written = Vec::new();
        for piece in ["hello, ", "world", ""] {
            write_chunk(&mut written, piece.as_bytes()).unwrap();
        }
        written.extend_from_slice(b"next");
        let mut rest = &written[..];
        let mut body = Vec::new();
        let length =
            read_body(&mut rest, Framing::Chunked, |part| body.extend_from_slice(part)).unwrap();
        assert_eq!((length, &body[..], rest), (12, &b"hello, world"[..], &b"next"[..]));
    }

    #[test]
    fn a_short_body_is_an_error() {
        let mut short = &b"abc"[..];
        assert!(read_body(&mut short, Framing::Length(4), |_| ()).is_err());
    }

    #[test]
    fn heads_are_read_one_by_one() {
        let mut text = &b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length:  3\r\n\r\nabc"[..];
        let head = read_head(&mut text).unwrap().unwrap();
        assert_eq!((head.word(1), head.header("host")), ("/x", Some("a")));
        assert_eq!(head.framing(Framing::ToEnd).unwrap(), Framing::Length(3));
        assert_eq!(read_head(&mut &b""[..]).unwrap(), None);
    }
}
