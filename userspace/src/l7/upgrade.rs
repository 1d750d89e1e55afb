//! Requests that ask for a tunnel, and whether the backend's answer opens it.
//!
//! Three kinds. `Upgrade` over HTTP/1.1 (WebSocket above all): passed on, one protocol by name, and never
//! to HTTP/2 in clear text: an `h2c` tunnel would carry requests past every rule here. `CONNECT`, where
//! the route allows it. And extended `CONNECT` over HTTP/2 (RFC 8441). Either of the two forms
//! becomes the other where the backend's version is not the client's; for a WebSocket they differ by the
//! key and its answer, which HTTP/2 has not. What one side lacks of them is made, or checked, here.
//!
//! A tunnel opens by the backend's 101, or 2xx to `CONNECT` (over HTTP/2, 200: of others hyper makes no
//! tunnel), and by nothing else; any other answer is a plain response. A 101 that nobody asked for is no
//! valid response.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use sha1::{Digest as _, Sha1};
use steerage_common::error::ErrorClass;

use crate::service::Random;

const WEBSOCKET: &str = "websocket";

/// A tunnel that a client asked for.
#[derive(Debug)]
pub(super) struct Wish {
    kind: Kind,
    /// The client's side, if it speaks HTTP/2: a stream of its own.
    stream: Option<OnUpgrade>,
}

#[derive(Debug)]
enum Kind {
    Connect,
    Upgrade {
        protocol: HeaderValue,
        /// The answer to the WebSocket key: what an HTTP/1 backend must say to the one that was made
        /// here, or what an HTTP/1 client is told because the backend got none.
        accept: Option<HeaderValue>,
    },
}

/// What a response means for the wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: it is a response like any other.
    Plain,
    /// The tunnel opens.
    Open,
    /// It is none that could be given.
    Invalid,
}

impl Wish {
    /// The wish of a request, if it has one. An extended `CONNECT` becomes a `GET`.
    pub(super) fn of(head: &mut Parts, random: &Random) -> Result<Option<Self>, ErrorClass> {
        // hyper's mark on a request that may become a tunnel.
        let Some(stream) = head.extensions.remove::<OnUpgrade>() else { return Ok(None) };
        let stream = (head.version == Version::HTTP_2).then_some(stream);
        if head.method != Method::CONNECT {
            let Some(protocol) = asked_protocol(&head.headers) else { return Ok(None) };
            return Ok(Some(Self { kind: Kind::Upgrade { protocol, accept: None }, stream }));
        }
        let Some(protocol) = head.extensions.remove::<Protocol>() else {
            return Ok(Some(Self { kind: Kind::Connect, stream }));
        };
        let protocol = protocol.as_str();
        if !may_pass(protocol) {
            return Err(ErrorClass::ConnectRefused);
        }
        head.method = Method::GET;
        let accept = protocol.eq_ignore_ascii_case(WEBSOCKET).then(|| {
            let key = websocket_key(random);
            let accept = websocket_accept(key.as_bytes());
            head.headers.insert(SEC_WEBSOCKET_KEY, value(&key));
            value(&accept)
        });
        let protocol = HeaderValue::from_str(protocol).map_err(|_| ErrorClass::ConnectRefused)?;
        Ok(Some(Self { kind: Kind::Upgrade { protocol, accept }, stream }))
    }

    pub(super) fn is_connect(&self) -> bool {
        matches!(self.kind, Kind::Connect)
    }

    /// Whether the request is nothing without its tunnel. Others go on without it where there is none
    /// (RFC 9110, 7.8).
    fn is_all(&self) -> bool {
        match &self.kind {
            Kind::Connect => true,
            Kind::Upgrade { protocol, .. } => self.stream.is_some() || is_websocket(protocol),
        }
    }

    /// What is left of the wish at a backend that has no tunnel for it.
    pub(super) fn give_up(&self) -> Result<(), ErrorClass> {
        if self.is_all() { Err(ErrorClass::NoTunnel) } else { Ok(()) }
    }

    /// Makes the wish one for a backend that speaks HTTP/2. A tunnel there has no body before it, and a
    /// WebSocket no key (RFC 8441, 5): its answer is made here.
    pub(super) fn over_http2(
        mut self,
        head: &mut Parts,
        has_body: bool,
    ) -> Result<Option<Self>, ErrorClass> {
        let is_plain = head.method == Method::GET || self.is_connect();
        if has_body || !is_plain {
            return self.give_up().map(|()| None);
        }
        if let Kind::Upgrade { protocol, accept } = &mut self.kind
            && is_websocket(protocol)
        {
            let mut keys = head.headers.get_all(SEC_WEBSOCKET_KEY).iter();
            let (Some(key), None) = (keys.next(), keys.next()) else {
                return Err(ErrorClass::MalformedHead);
            };
            *accept = Some(value(&websocket_accept(key.as_bytes())));
            head.headers.remove(SEC_WEBSOCKET_KEY);
        }
        Ok(Some(self))
    }

    /// Makes a request over HTTP/2 one for the tunnel.
    pub(super) fn extend<B>(&self, request: &mut Request<B>) {
        let Kind::Upgrade { protocol, .. } = &self.kind else { return };
        // A token: it was looked at when it was asked for.
        let Ok(protocol) = protocol.to_str() else { return };
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(protocol));
    }

    /// Gives the request the headers that its hop has.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        if let Kind::Upgrade { protocol, .. } = &self.kind {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
    }

    /// Makes the headers of the response that opens the tunnel those that the client gets, and gives its
    /// status.
    pub(super) fn grant(&self, status: StatusCode, headers: &mut HeaderMap) -> StatusCode {
        headers.remove(CONTENT_LENGTH);
        let Kind::Upgrade { protocol, accept } = &self.kind else { return status };
        if self.stream.is_some() {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            return StatusCode::OK;
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        if let Some(accept) = accept {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        }
        // An HTTP/2 backend's is 200.
        StatusCode::SWITCHING_PROTOCOLS
    }

    pub(super) fn into_stream(self) -> Option<OnUpgrade> {
        self.stream
    }
}

/// What a backend's response means.
pub(super) fn answer<B>(wish: Option<&Wish>, response: &Response<B>) -> Answer {
    let (status, headers) = (response.status(), response.headers());
    let is_switching = status == StatusCode::SWITCHING_PROTOCOLS;
    if let (Some(wish), Version::HTTP_2) = (wish, response.version()) {
        return match response.extensions().get::<OnUpgrade>() {
            Some(_) => Answer::Open,
            None if wish.is_all() && status.is_success() => Answer::Invalid,
            None => Answer::Plain,
        };
    }
    match wish.map(|wish| &wish.kind) {
        Some(Kind::Connect) if status.is_success() => Answer::Open,
        Some(Kind::Upgrade { protocol, accept }) if is_switching => {
            let same = |name, wanted: &HeaderValue| {
                headers.get(name).is_some_and(|given: &HeaderValue| {
                    given.as_bytes().eq_ignore_ascii_case(wanted.as_bytes())
                })
            };
            let is_accepted = accept
                .as_ref()
                .is_none_or(|accept| headers.get(SEC_WEBSOCKET_ACCEPT) == Some(accept));
            if same(UPGRADE, protocol) && is_accepted { Answer::Open } else { Answer::Invalid }
        }
        _ if is_switching => Answer::Invalid,
        _ => Answer::Plain,
    }
}

/// The one protocol that `Upgrade` names, if `Connection` names `Upgrade` and it may pass.
fn asked_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut connection = headers.get_all(CONNECTION).iter();
    let names_upgrade = connection.any(|value| {
        let mut names = value.as_bytes().split(|byte| *byte == b',');
        names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let mut protocols = headers.get_all(UPGRADE).iter();
    let (first, second) = (protocols.next()?, protocols.next());
    let may_pass = first.to_str().is_ok_and(may_pass);
    (names_upgrade && second.is_none() && may_pass).then(|| first.clone())
}

/// Whether a tunnel of this protocol carries no HTTP that is to be looked at here.
fn may_pass(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    !name.is_empty()
        && protocol.bytes().all(is_token)
        && !["h2c", "h2", "http", "tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// A key for a WebSocket request (RFC 6455, 4.1).
fn websocket_key(random: &Random) -> String {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&random.next().to_ne_bytes());
    nonce[8..].copy_from_slice(&random.next().to_ne_bytes());
    base64(&nonce)
}

/// What a WebSocket server says to a key (RFC 6455, 4.2.2).
fn websocket_accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(&hash.finalize())
}

/// Base64 (RFC 4648, 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let name = HeaderName::from_static;
        lines.iter().map(|(key, value)| (name(key), HeaderValue::from_static(value))).collect()
    }

    fn response(status: StatusCode, headers: &HeaderMap) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        response
    }

    fn wish(kind: Kind) -> Wish {
        Wish { kind, stream: None }
    }

    fn websocket(accept: Option<&'static str>) -> Wish {
        let protocol = HeaderValue::from_static(WEBSOCKET);
        wish(Kind::Upgrade { protocol, accept: accept.map(HeaderValue::from_static) })
    }

    #[test]
    fn one_protocol_that_is_not_http_may_be_asked_for() {
        let asked = |lines: &[_]| asked_protocol(&headers(lines)).is_some();
        assert!(asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(asked(&[("connection", "x"), ("connection", "upgrade"), ("upgrade", "IRC/6.9")]));
        assert!(!asked(&[("upgrade", "websocket")]), "Connection does not name it");
        assert!(!asked(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
        for http in ["h2c", "H2C", "HTTP/2.0", "h2", "TLS/1.0", ""] {
            assert!(!asked(&[("connection", "upgrade"), ("upgrade", http)]), "{http}");
        }
        let twice = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")];
        assert!(!asked(&twice));
    }

    #[test]
    fn only_the_right_answer_opens_a_tunnel() {
        let switching = StatusCode::SWITCHING_PROTOCOLS;
        let answer = |wish, status, headers: &_| answer(wish, &response(status, headers));
        let right = headers(&[("upgrade", "WebSocket")]);
        let asked = websocket(None);
        assert_eq!(answer(Some(&asked), switching, &right), Answer::Open);
        assert_eq!(answer(Some(&asked), switching, &HeaderMap::new()), Answer::Invalid);
        assert_eq!(answer(Some(&asked), switching, &headers(&[("upgrade", "x")])), Answer::Invalid);
        for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::UPGRADE_REQUIRED] {
            assert_eq!(answer(Some(&asked), status, &right), Answer::Plain);
        }
        assert_eq!(answer(None, switching, &right), Answer::Invalid);
        assert_eq!(answer(None, StatusCode::OK, &right), Answer::Plain);
        let connect = wish(Kind::Connect);
        assert_eq!(answer(Some(&connect), StatusCode::OK, &HeaderMap::new()), Answer::Open);
        assert_eq!(answer(Some(&connect), StatusCode::FORBIDDEN, &right), Answer::Plain);
        assert_eq!(answer(Some(&connect), switching, &right), Answer::Invalid);
    }

    #[test]
    fn a_websocket_key_has_its_answer() {
        // RFC 6455, 1.3.
        let accept = websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(websocket_key(&Random::new(1)).len(), 24);
        let asked = websocket(Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let (key, switching) = ("sec-websocket-accept", StatusCode::SWITCHING_PROTOCOLS);
        let right = headers(&[("upgrade", "websocket"), (key, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]);
        assert_eq!(answer(Some(&asked), &response(switching, &right)), Answer::Open);
        let wrong = headers(&[("upgrade", "websocket"), (key, "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]);
        assert_eq!(answer(Some(&asked), &response(switching, &wrong)), Answer::Invalid);
    }

    #[test]
    fn an_extended_connect_becomes_an_upgrade_with_a_key() {
        let extended = |protocol| {
            let request = Request::connect("http://a.test/chat").version(Version::HTTP_2);
            let mut head = request.body(()).unwrap().into_parts().0;
            head.extensions.insert(hyper::upgrade::on(Request::new(())));
            head.extensions.insert(Protocol::from_static(protocol));
            head
        };
        let random = Random::new(1);
        let mut head = extended(WEBSOCKET);
        let wish = Wish::of(&mut head, &random).unwrap().unwrap();
        assert_eq!(head.method, Method::GET);
        wish.ask(&mut head.headers);
        assert_eq!(head.headers[CONNECTION], "upgrade");
        assert_eq!(head.headers[UPGRADE], WEBSOCKET);
        let accept = websocket_accept(head.headers[SEC_WEBSOCKET_KEY].as_bytes());
        let mut told = HeaderMap::new();
        told.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        told.insert(SEC_WEBSOCKET_ACCEPT, value(&accept));
        let switching = StatusCode::SWITCHING_PROTOCOLS;
        assert_eq!(answer(Some(&wish), &response(switching, &told)), Answer::Open);
        assert_eq!(wish.grant(switching, &mut told), StatusCode::OK);
        assert!(!told.contains_key(SEC_WEBSOCKET_ACCEPT));
        assert!(wish.into_stream().is_some());
        assert!(Wish::of(&mut extended("h2c"), &random).is_err());
    }

    #[test]
    fn an_upgrade_becomes_an_extended_connect_and_its_key_is_answered() {
        let get = |lines: &[_]| {
            let mut head = Request::get("/chat").body(()).unwrap().into_parts().0;
            head.headers = headers(lines);
            head
        };
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut head = get(&[key]);
        let asked = websocket(None).over_http2(&mut head, false).unwrap().unwrap();
        assert!(head.headers.is_empty(), "{:?}", head.headers);
        let mut request = Request::from_parts(head, ());
        asked.extend(&mut request);
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), WEBSOCKET);
        let mut told = HeaderMap::new();
        assert_eq!(asked.grant(StatusCode::OK, &mut told), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(told[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(told[UPGRADE], WEBSOCKET);
        assert_eq!(told[CONNECTION], "upgrade");

        let refused =
            |lines: &[_], has_body| websocket(None).over_http2(&mut get(lines), has_body).err();
        assert_eq!(refused(&[key], true), Some(ErrorClass::NoTunnel));
        assert_eq!(refused(&[], false), Some(ErrorClass::MalformedHead));
        assert_eq!(refused(&[key, key], false), Some(ErrorClass::MalformedHead));
        // What can do without its tunnel does.
        let protocol = HeaderValue::from_static("irc");
        let other = wish(Kind::Upgrade { protocol, accept: None });
        assert!(other.over_http2(&mut get(&[]), true).unwrap().is_none());
    }

    #[test]
    fn over_http2_hypers_mark_opens_a_tunnel() {
        let of = |status, is_marked| {
            let mut response = response(status, &HeaderMap::new());
            *response.version_mut() = Version::HTTP_2;
            if is_marked {
                response.extensions_mut().insert(hyper::upgrade::on(Request::new(())));
            }
            answer(Some(&websocket(None)), &response)
        };
        assert_eq!(of(StatusCode::OK, true), Answer::Open);
        assert_eq!(of(StatusCode::NO_CONTENT, false), Answer::Invalid);
        assert_eq!(of(StatusCode::FORBIDDEN, false), Answer::Plain);
    }

    #[test]
    fn base64_of_every_length() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
