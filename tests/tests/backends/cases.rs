//! The table.
//!
//! What holds for all of it: a response passes whole or visibly broken, never mended (RFC 9112, 8); of
//! bytes beyond it nothing passes; what is not HTTP to the letter is 502 and counts as the backend's
//! failure; a connection is used again only after a response whose end is known and behind which
//! nothing came. A response that was whole is no failure, whatever follows it.

use steerage_common::abi::FailureClass;
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_tests::scripted::{Step, play};

use self::Step::{AwaitEnd, Close, Drip, Execute, Gate, ReadHead, Reset, Send, SendMany};
use crate::seen::{Ask, Sees};
use crate::stand::{Figures, Script};

/// One misbehaviour and its outcome.
pub struct Case {
    pub name: &'static str,
    pub ask: Ask,
    pub steps: Vec<Step>,
    pub sees: Sees,
    pub pool: Pool,
    pub health: Health,
}

/// What becomes of the backend's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// It is kept for the next request.
    Kept,
    /// It is closed, for this reason.
    Closed(Cause),
}

/// What the backend's health hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    Failed(FailureClass),
}

impl Case {
    pub fn script(&self) -> Script {
        let steps = self.steps.clone();
        Script {
            serve: Box::new(move |talk, _| play(&steps, talk)),
            route: "timeouts = { first_byte = \"500ms\" }\n",
        }
    }

    /// The backend's figures after the one exchange.
    pub fn figures(&self) -> Figures {
        let one = |name: &str| vec![format!("{name} 1")];
        let is_kept = self.pool == Pool::Kept;
        Figures {
            active: 0,
            connections: u64::from(is_kept),
            idle: u64::from(is_kept),
            closed: match self.pool {
                Pool::Kept => vec![],
                Pool::Closed(reason) => one(reason.name()),
            },
            failures: match self.health {
                Health::Well => vec![],
                Health::Failed(class) => one(class.name()),
            },
        }
    }
}

/// A response with this status line and what follows it.
macro_rules! ok {
    ($rest:literal) => {
        concat!("HTTP/1.1 200 OK\r\n", $rest)
    };
}

/// The response that most cases vary.
const HELLO: &str = ok!("Content-Length: 5\r\n\r\nhello");

/// All of them.
pub fn cases() -> Vec<Case> {
    [
        right(),
        last(),
        interim(),
        slow(),
        lost(),
        cut_short(),
        framing(),
        poisoned(),
        malformed(),
        early(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn case(
    name: &'static str,
    ask: Ask,
    steps: Vec<Step>,
    sees: Sees,
    pool: Pool,
    health: Health,
) -> Case {
    Case { name, ask, steps, sees, pool, health }
}

/// Steerage's own 502 for what is no HTTP.
fn refused(name: &'static str, steps: Vec<Step>) -> Case {
    let sees = Sees::Refused(ErrorClass::Protocol);
    let health = Health::Failed(FailureClass::Protocol);
    case(name, Ask::Get, steps, sees, Pool::Closed(Cause::HttpProtocol), health)
}

/// The cause of a connection's end that the backend makes.
fn far_end(step: &Step) -> Cause {
    if matches!(step, Reset) { Cause::Reset } else { Cause::Eof }
}

/// What must work.
fn right() -> Vec<Case> {
    let right = |name, ask, answer, (status, body): (u16, &str)| {
        let sees = Sees::Whole(status, body.to_owned());
        case(name, ask, vec![Execute, answer], sees, Pool::Kept, Health::Well)
    };
    let failing =
        |name, answer, sees, health| Case { health, ..right(name, Ask::Get, Send(answer), sees) };
    let filled =
        SendMany(ok!("X-Filler: "), "0123456789", 2000, "\r\nContent-Length: 5\r\n\r\nhello");
    vec![
        right("a length", Ask::Get, Send(HELLO), (200, "hello")),
        right(
            "chunks",
            Ask::Get,
            Send(ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
            (200, "hello"),
        ),
        right(
            "chunks with extension and trailer",
            Ask::Get,
            Send(ok!("Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")),
            (200, "hello"),
        ),
        right("HEAD with a length", Ask::Head, Send(ok!("Content-Length: 5\r\n\r\n")), (200, "")),
        right("204", Ask::Get, Send("HTTP/1.1 204 No Content\r\n\r\n"), (204, "")),
        right(
            "304 with a length",
            Ask::Get,
            Send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
            (304, ""),
        ),
        right(
            "HTTP/1.0 that keeps the connection",
            Ask::Get,
            Send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"),
            (200, "hello"),
        ),
        right("a head of 20 KiB", Ask::Get, filled, (200, "hello")),
        failing(
            "500",
            "HTTP/1.1 500 Error\r\nContent-Length: 4\r\n\r\noops",
            (500, "oops"),
            Health::Well,
        ),
        failing(
            "503",
            "HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
            (503, "busy"),
            Health::Failed(FailureClass::GatewayStatus),
        ),
    ]
}

/// The connection's last response (RFC 9112, 9.3), or one that ends with it (6.3).
fn last() -> Vec<Case> {
    let last = |name, answer| {
        let sees = Sees::Whole(200, "hello".to_owned());
        let pool = Pool::Closed(Cause::Announced);
        case(name, Ask::Get, vec![Execute, Send(answer), Close], sees, pool, Health::Well)
    };
    vec![
        last("an announced end", ok!("Connection: close\r\nContent-Length: 5\r\n\r\nhello")),
        last(
            "an announced end among other options",
            ok!("Connection: x-hop, Close\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        last("HTTP/1.1 without a length", ok!("\r\nhello")),
        last("HTTP/1.0 without a length", "HTTP/1.0 200 OK\r\n\r\nhello"),
        last("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ]
}

/// Interim responses (RFC 9110, 15.2) come before the one that counts.
fn interim() -> Vec<Case> {
    let interim = |name, ask, first| {
        let sees = Sees::Whole(200, "hello".to_owned());
        case(name, ask, vec![Execute, Send(first), Send(HELLO)], sees, Pool::Kept, Health::Well)
    };
    vec![
        interim("100 that nobody asked for", Ask::Get, "HTTP/1.1 100 Continue\r\n\r\n"),
        interim("100 for a POST", Ask::Post, "HTTP/1.1 100 Continue\r\n\r\n"),
        interim("103", Ask::Get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        refused(
            "101 that nobody asked for",
            vec![
                Execute,
                Send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
                ),
                AwaitEnd,
            ],
        ),
        refused(
            "interim responses without end",
            vec![Execute, SendMany("", "HTTP/1.1 100 Continue\r\n\r\n", 1000, ""), AwaitEnd],
        ),
    ]
}

/// Slow but right, and too slow.
fn slow() -> Vec<Case> {
    let drip = |name, answer| {
        let sees = Sees::Whole(200, "hello".to_owned());
        case(name, Ask::Get, vec![Execute, Drip(answer)], sees, Pool::Kept, Health::Well)
    };
    let late = |name, steps| {
        let sees = Sees::Refused(ErrorClass::FirstByteTimeout);
        let health = Health::Failed(FailureClass::FirstByteTimeout);
        case(name, Ask::Get, steps, sees, Pool::Closed(Cause::FirstByteTimeout), health)
    };
    vec![
        drip("drip-fed", HELLO),
        drip("drip-fed chunks", ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
        late("never answers", vec![Execute, AwaitEnd]),
        late("never ends its head", vec![Execute, Send(ok!("X-")), AwaitEnd]),
    ]
}

/// Lost before a whole head: 502. After a byte of a response nothing is sent again (R7), and a POST
/// on a fresh connection is not either (R6).
fn lost() -> Vec<Case> {
    let lost = |name, ask, answer, end| {
        let sees = Sees::Refused(ErrorClass::Reset);
        let health = Health::Failed(FailureClass::Reset);
        let cause = far_end(&end);
        let steps = vec![Execute, Send(answer), end];
        case(name, ask, steps, sees, Pool::Closed(cause), health)
    };
    vec![
        lost("closes in place of an answer", Ask::Post, "", Close),
        lost("resets in place of an answer", Ask::Post, "", Reset),
        lost("closes in the status line", Ask::Get, "HTTP/1.1 20", Close),
        lost("closes in the head", Ask::Get, ok!("Content-Le"), Close),
        lost("resets in the head", Ask::Get, ok!("Content-Le"), Reset),
        lost(
            "closes after an interim response",
            Ask::Get,
            "HTTP/1.1 103 Early Hints\r\n\r\n",
            Close,
        ),
    ]
}

/// Lost within the body: the client's connection ends too, without an end of the body (RFC 9112, 8).
fn cut_short() -> Vec<Case> {
    let cut = |name, answer, end, class| {
        let sees = Sees::Broken(200, "hello".to_owned());
        let cause = match class {
            FailureClass::Protocol => Cause::HttpProtocol,
            FailureClass::Stall => Cause::BackendStall,
            _ => far_end(&end),
        };
        let steps = vec![Execute, Send(answer), end];
        case(name, Ask::Get, steps, sees, Pool::Closed(cause), Health::Failed(class))
    };
    let closes = |name, answer| cut(name, answer, Close, FailureClass::Reset);
    // Behind the gate, which opens when the client has the head: else nothing of it would pass.
    let wrong = |name, more| {
        let chunk = Send(ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
        let steps = vec![Execute, chunk, Gate, Send(more), AwaitEnd];
        Case { steps, ..cut(name, "", AwaitEnd, FailureClass::Protocol) }
    };
    vec![
        closes("closes in the body", ok!("Content-Length: 10\r\n\r\nhello")),
        closes("closes in a chunk", ok!("Transfer-Encoding: chunked\r\n\r\n9\r\nhello")),
        closes(
            "closes in a chunk's size",
            ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1"),
        ),
        closes(
            "closes before the last chunk",
            ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ),
        closes(
            "closes in the trailers",
            ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum"),
        ),
        wrong("a chunk size that is no number", "zz\r\n"),
        wrong("a chunk longer than its size", "5\r\nhello, world\r\n0\r\n\r\n"),
    ]
}

/// Two lengths, or none that one could trust (RFC 9112, 6.1, 6.3).
fn framing() -> Vec<Case> {
    let framing = |name, answer| refused(name, vec![Execute, Send(answer), AwaitEnd]);
    vec![
        framing(
            "two lengths that differ",
            ok!("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        ),
        framing("a list of lengths that differ", ok!("Content-Length: 5, 6\r\n\r\nhello")),
        framing("a length that is no number", ok!("Content-Length: five\r\n\r\nhello")),
        framing("a length with a sign", ok!("Content-Length: +5\r\n\r\nhello")),
        framing(
            "a length beyond 64 bits",
            ok!("Content-Length: 99999999999999999999\r\n\r\nhello"),
        ),
        framing("a list of lengths that agree", ok!("Content-Length: 5, 5\r\n\r\nhello")),
        framing("a coding that is not chunked", ok!("Transfer-Encoding: gzip\r\n\r\nhello")),
        framing(
            "chunked twice",
            ok!("Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        framing(
            "the same length twice",
            ok!("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        ),
        framing(
            "a length beside chunks",
            ok!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        framing(
            "chunks beside a length",
            ok!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        framing(
            "another coding before chunks",
            ok!("Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        framing(
            "a chunk longer than its size",
            ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"),
        ),
        framing(
            "a chunk's size with a sign",
            ok!("Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        ),
        framing(
            "chunks in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ]
}

/// Bytes past the response: it passes, they do not, and the connection is not used again.
fn poisoned() -> Vec<Case> {
    let poisoned = |name, ask, answer, (status, body): (u16, &str)| {
        let sees = Sees::Whole(status, body.to_owned());
        let steps = vec![Execute, Send(answer), AwaitEnd];
        case(name, ask, steps, sees, Pool::Closed(Cause::Poison), Health::Well)
    };
    vec![
        poisoned(
            "more than its length",
            Ask::Get,
            ok!("Content-Length: 5\r\n\r\nhello!"),
            (200, "hello"),
        ),
        poisoned(
            "more than its chunks",
            Ask::Get,
            ok!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n0\r\n\r\n"),
            (200, "hello"),
        ),
        poisoned(
            "two responses",
            Ask::Get,
            ok!("Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            (200, "hello"),
        ),
        poisoned("a body after HEAD", Ask::Head, ok!("Content-Length: 5\r\n\r\nhello"), (200, "")),
        poisoned("a body after 204", Ask::Get, "HTTP/1.1 204 No Content\r\n\r\nhello", (204, "")),
        poisoned(
            "a body after 304",
            Ask::Get,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
            (304, ""),
        ),
    ]
}

/// Not HTTP, not to the letter, or more than is held for a head.
fn malformed() -> Vec<Case> {
    let malformed = |name, answer| refused(name, vec![Execute, Send(answer), AwaitEnd]);
    let long = |name, again, times| {
        refused(name, vec![Execute, SendMany(ok!("X: "), again, times, "\r\n\r\n"), AwaitEnd])
    };
    vec![
        malformed("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        malformed("a version that is none", "HTTP/7.3 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        malformed("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello"),
        malformed("a status below 100", "HTTP/1.1 042 OK\r\nContent-Length: 5\r\n\r\nhello"),
        malformed("a status that is no number", "HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello"),
        malformed("a bare carriage return", ok!("X-A: b\rc\r\nContent-Length: 5\r\n\r\nhello")),
        malformed("a bare line feed", ok!("X-A: b\nContent-Length: 5\r\n\r\nhello")),
        malformed("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
        malformed("a folded header", ok!("X-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello")),
        malformed("a space before the colon", ok!("Content-Length : 5\r\n\r\nhello")),
        malformed("a line without a colon", ok!("nonsense\r\nContent-Length: 5\r\n\r\nhello")),
        malformed("a NUL", ok!("X-A: b\0c\r\nContent-Length: 5\r\n\r\nhello")),
        long("too many headers", "y\r\nX: ", 1000),
        long("huge headers", "0123456789", 20_000),
    ]
}

/// The answer comes before the request's end: it passes, and the connection is not used again.
fn early() -> Vec<Case> {
    let early = |name, answer, reason| {
        let sees = Sees::Whole(413, "no".to_owned());
        let steps = vec![ReadHead, Send(answer), AwaitEnd];
        case(name, Ask::Upload, steps, sees, Pool::Closed(reason), Health::Well)
    };
    vec![
        early(
            "answers early and waits",
            "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
            Cause::Abandoned,
        ),
        early(
            "answers early and announces the end",
            "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
            Cause::Announced,
        ),
    ]
}
