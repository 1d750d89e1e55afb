//! One connection as its backend sees it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv, sockopt};
use steerage_lab::http::{self, BLOCK, Framing, Head};

use super::Ledger;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub struct Talk {
    stream: BufReader<TcpStream>,
    ledger: Arc<Ledger>,
}

/// A request that was read whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// The length of its body.
    pub body_bytes: u64,
}

impl Request {
    /// Its `X-Id`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.head.header("x-id").unwrap_or("")
    }
}

/// What waiting for a request gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A request has begun to arrive.
    Request,
    /// Nothing came.
    Nothing,
    /// The peer ended the connection.
    End,
}

impl Talk {
    pub(super) fn new(stream: TcpStream, ledger: Arc<Ledger>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(BLOCK, stream), ledger })
    }

    /// Reads a head; `None` if the peer has ended the connection.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn read_head(&mut self) -> io::Result<Option<Head>> {
        http::read_head(&mut self.stream)
    }

    /// Reads a whole request; `None` if the peer has ended the connection.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn read(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.read_head()? else { return Ok(None) };
        let framing = head.framing(Framing::Length(0))?;
        let body_bytes = http::read_body(&mut self.stream, framing, |_| {})?;
        Ok(Some(Request { head, body_bytes }))
    }

    /// Waits so long for the next request to begin.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn wait(&mut self, within: Duration) -> io::Result<Waited> {
        self.stream.get_ref().set_read_timeout(Some(within))?;
        let waited = match self.stream.fill_buf() {
            Ok([]) => Waited::End,
            Ok(_) => Waited::Request,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Waited::Nothing,
            Err(error) => return Err(error),
        };
        self.stream.get_ref().set_read_timeout(None)?;
        Ok(waited)
    }

    /// Notes that a request was executed.
    pub fn execute(&self, request: &Request) {
        self.ledger.note(request.id());
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends bytes one by one, with a pause after each.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn drip(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        for byte in bytes.chunks(1) {
            self.send(byte)?;
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Reads until the peer ends the connection.
    ///
    /// # Errors
    /// If it ends by a reset.
    pub fn await_end(&mut self) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        while self.stream.read(&mut block)? > 0 {}
        Ok(())
    }

    /// Waits until the test opens a gate.
    pub fn pass_gate(&self) {
        self.ledger.pass_gate();
    }

    /// Sends a FIN, and tells whether bytes had arrived by then; the connection is to be dropped now.
    /// What arrives from now on is answered by a reset and acknowledged by nothing (RFC 1122,
    /// 4.2.2.13), as after `close(2)`; but that would send no FIN if bytes had arrived.
    ///
    /// # Errors
    /// If the connection was broken already.
    pub fn close(&mut self) -> io::Result<bool> {
        let stream = self.stream.get_ref();
        stream.shutdown(Shutdown::Both)?;
        let (bytes, _) = recv(stream, &mut [0; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
        Ok(bytes > 0)
    }

    /// Makes the end of the connection a reset.
    ///
    /// # Errors
    /// If the connection was broken already.
    pub fn end_by_reset(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(self.stream.get_ref(), Some(Duration::ZERO))?)
    }
}
