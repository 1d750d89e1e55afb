//! Clients: curl, and a keep-alive connection of our own for long runs of requests.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command;
use crate::http::{self, BLOCK, Framing};
use crate::netns::Netns;
use crate::pattern::{Pattern, Sum};

/// No answer takes longer in any test.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a response's body that are kept for [`Response::text`].
const KEPT: usize = 64 * 1024;

/// A response that was read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub head: http::Head,
    /// The first bytes of the body.
    pub body: Vec<u8>,
    /// Length of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub digest: String,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that carries one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    /// Whether a byte of the latest response has come.
    has_heard: bool,
}

impl Connection {
    /// Connects, from inside `netns` if one is given.
    ///
    /// # Errors
    /// As the connect call.
    pub fn open(netns: Option<&Netns>, address: SocketAddr) -> io::Result<Self> {
        let connect = || Self::open_here(address, PATIENCE);
        match netns {
            Some(netns) => netns.enter(connect).map_err(io::Error::other)?,
            None => connect(),
        }
    }

    /// Connects from where the calling thread is; each step may take as long as `patience`.
    ///
    /// # Errors
    /// As the connect call.
    pub fn open_here(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::with_capacity(BLOCK, stream),
            host: address.to_string(),
            has_heard: false,
        })
    }

    /// Our own address.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Makes a GET request.
    ///
    /// # Errors
    /// If the connection breaks before the response is whole.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.response()
    }

    /// Posts a body in chunks.
    ///
    /// # Errors
    /// If the connection breaks before the response is whole.
    pub fn post(&mut self, path: &str, mut body: Pattern) -> io::Result<Response> {
        let mut writer = io::BufWriter::with_capacity(BLOCK, self.stream.get_ref());
        write!(
            writer,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            self.host
        )?;
        while let Some(piece) = body.next_piece() {
            http::write_chunk(&mut writer, piece)?;
        }
        http::write_chunk(&mut writer, b"")?;
        writer.flush()?;
        drop(writer);
        self.response()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The connection itself, to be read byte by byte.
    #[must_use]
    pub fn into_stream(self) -> BufReader<TcpStream> {
        self.stream
    }

    /// Whether a byte of the response read last has come, whole or not.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// Reads one response.
    ///
    /// # Errors
    /// If the connection breaks before it is whole.
    pub fn response(&mut self) -> io::Result<Response> {
        self.has_heard = false;
        self.has_heard = !self.stream.fill_buf()?.is_empty();
        let head = http::read_head(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.word(1).parse().map_err(|_| http::invalid("status"))?;
        let framing = match status {
            204 | 304 => Framing::Length(0),
            _ => head.framing(Framing::ToEnd)?,
        };
        let (mut sum, mut body) = (Sum::default(), Vec::new());
        let length = http::read_body(&mut self.stream, framing, |part| {
            sum.add(part);
            body.extend_from_slice(&part[..part.len().min(KEPT - body.len())]);
        })?;
        Ok(Response { status, head, body, length, digest: sum.hex() })
    }
}

/// What curl said.
#[derive(Clone, Debug)]
pub struct Curl {
    /// The response's status, 0 if there was none.
    pub status: u16,
    /// What it wrote: the body, and with `-i` the head.
    pub text: String,
    /// curl's exit status: 0 for a whole response.
    pub exit: i32,
    /// curl's own words about a failure.
    pub error: String,
}

/// Runs curl in a namespace with more arguments; a failed transfer is a result, not an error.
///
/// # Errors
/// If curl can't be run.
pub fn curl(netns: &Netns, arguments: &[&str]) -> Result<Curl> {
    let mut command = netns.command("curl");
    command.args(["-sS", "--max-time", "30", "-w", "\n%{http_code}"]).args(arguments);
    let output = command::finish(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok(Curl {
        status: status.trim().parse().unwrap_or(0),
        text: body.to_owned(),
        exit: output.status.code().context("curl was killed")?,
        error: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
