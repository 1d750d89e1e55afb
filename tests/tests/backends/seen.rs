//! One exchange, and what the client sees of it.

use std::io::BufReader;
use std::net::TcpStream;
use std::time::Duration;

use steerage_common::error::ErrorClass;
use steerage_lab::http::{self, Framing, Head};

use crate::stand::Stand;

/// What the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Get,
    Head,
    /// With a body of five bytes.
    Post,
    /// A body is announced, and its beginning sent; the rest never comes.
    Upload,
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sees {
    /// A whole response.
    Whole(u16, String),
    /// A response that the connection's end cuts short.
    Broken(u16, String),
    /// Steerage's own answer.
    Refused(ErrorClass),
    /// Something else.
    Nonsense(String),
}

impl Ask {
    fn bytes(self, number: usize) -> String {
        let (method, framing, body) = match self {
            Self::Get => ("GET", "", ""),
            Self::Head => ("HEAD", "", ""),
            Self::Post => ("POST", "Content-Length: 5\r\n", "hello"),
            Self::Upload => ("POST", "Content-Length: 1000000\r\n", "hello"),
        };
        format!("{method} /{number} HTTP/1.1\r\nHost: a\r\nX-Id: {number}\r\n{framing}\r\n{body}")
    }
}

/// Asks the `number`th backend over a connection of its own.
pub fn exchange(stand: &Stand, number: usize, ask: Ask) -> Sees {
    let mut connection = stand.connect();
    connection.send(ask.bytes(number).as_bytes()).unwrap();
    read(&mut connection.into_stream(), ask, || stand.backends[number].open_gate())
}

/// Reads a response; `begun` is called when its head is there.
fn read(stream: &mut BufReader<TcpStream>, ask: Ask, begun: impl FnOnce()) -> Sees {
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let head = loop {
        match http::read_head(stream) {
            // What interim responses pass is hyper's to say.
            Ok(Some(head)) if head.word(1).starts_with('1') => {}
            Ok(Some(head)) => break head,
            other => return Sees::Nonsense(format!("{other:?}")),
        }
    };
    begun();
    let status = head.word(1).parse().unwrap();
    let framing = match (status, ask) {
        (204 | 304, _) | (_, Ask::Head) => Ok(Framing::Length(0)),
        _ => head.framing(Framing::ToEnd),
    };
    let lengths =
        |name: &str| head.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
    if lengths("content-length") + lengths("transfer-encoding") > 1 {
        return Sees::Nonsense(format!("{head:?}"));
    }
    let mut body = Vec::new();
    let read = framing
        .and_then(|framing| http::read_body(stream, framing, |part| body.extend_from_slice(part)));
    if let Some(class) = own(&head, status) {
        return Sees::Refused(class);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    match read {
        Ok(_) => Sees::Whole(status, body),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Sees::Nonsense(format!("{head:?}, {body:?} and nothing more"))
        }
        Err(_) => Sees::Broken(status, body),
    }
}

/// The class of Steerage's own answers.
fn own(head: &Head, status: u16) -> Option<ErrorClass> {
    let name = head.header("x-steerage-error")?;
    let class = ErrorClass::ALL.iter().find(|class| class.name() == name)?;
    (class.status() == status).then_some(*class)
}
