//! One connection as its backend sees it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv, sockopt};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use steerage_lab::http::{self, BLOCK, Framing, Head};

use super::Ledger;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub struct Talk {
    stream: BufReader<Wire>,
    ledger: Arc<Ledger>,
}

/// What a connection is made of.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl io::Read for Wire {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(space),
            Self::Tls(tls) => tls.read(space),
        }
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// A record that nobody has sealed.
const FORGED: [u8; 37] = {
    let mut record = [7; 37];
    [record[0], record[1], record[2], record[3], record[4]] = [23, 3, 3, 0, 32];
    record
};

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
        Ok(Self { stream: BufReader::with_capacity(BLOCK, Wire::Plain(stream)), ledger })
    }

    /// Goes on over TLS, as its server.
    ///
    /// # Errors
    /// If the handshake fails.
    pub fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut tcp = self.stream.get_ref().tcp().try_clone()?;
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        let wire = Wire::Tls(Box::new(StreamOwned::new(session, tcp)));
        self.stream = BufReader::with_capacity(BLOCK, wire);
        Ok(())
    }

    /// Says `close_notify`, over TLS; to be followed by [`close`](Self::close).
    ///
    /// # Errors
    /// If the connection was broken already.
    pub fn say_goodbye(&mut self) -> io::Result<()> {
        if let Wire::Tls(tls) = self.stream.get_mut() {
            tls.conn.send_close_notify();
            tls.flush()?;
        }
        Ok(())
    }

    /// Sends a fatal alert, over TLS: by feeding this end what nobody has sealed.
    ///
    /// # Errors
    /// If the connection was broken already.
    pub fn send_alert(&mut self) -> io::Result<()> {
        let Wire::Tls(tls) = self.stream.get_mut() else { return Ok(()) };
        tls.conn.read_tls(&mut &FORGED[..])?;
        if tls.conn.process_new_packets().is_ok() {
            return Err(io::Error::other("the forged record was taken"));
        }
        while tls.conn.wants_write() {
            tls.conn.write_tls(&mut tls.sock)?;
        }
        Ok(())
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
        self.stream.get_ref().tcp().set_read_timeout(Some(within))?;
        let waited = match self.stream.fill_buf() {
            Ok([]) => Waited::End,
            Ok(_) => Waited::Request,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Waited::Nothing,
            Err(error) => return Err(error),
        };
        self.stream.get_ref().tcp().set_read_timeout(None)?;
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
        let wire = self.stream.get_mut();
        wire.write_all(bytes)?;
        wire.flush()
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
        let stream = self.stream.get_ref().tcp();
        stream.shutdown(Shutdown::Both)?;
        let (bytes, _) = recv(stream, &mut [0; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
        Ok(bytes > 0)
    }

    /// Makes the end of the connection a reset.
    ///
    /// # Errors
    /// If the connection was broken already.
    pub fn end_by_reset(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(self.stream.get_ref().tcp(), Some(Duration::ZERO))?)
    }
}
