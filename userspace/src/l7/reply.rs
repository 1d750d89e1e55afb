//! The answers that Steerage gives itself: all of them, and each says why.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use steerage_common::abi::{FailureClass, ReplyClass};

use super::body::Body;

/// Why a request is not answered by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// HTTP/1.1 without `Host`, or with several.
    Host,
    /// `CONNECT`.
    Connect,
    /// A request target without a path.
    Target,
    /// No route matches.
    Route,
    /// The headers or the body did not come in time.
    TooSlow,
    /// No backend takes new work.
    Unavailable,
    /// This host has no ports, descriptors or memory left for a connection.
    Exhausted,
    /// The last attempt failed.
    Failed(FailureClass),
}

impl Reason {
    const fn status(self) -> StatusCode {
        match self {
            Self::Host | Self::Target => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Route => StatusCode::NOT_FOUND,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable | Self::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(FailureClass::ConnectTimeout | FailureClass::FirstByteTimeout) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Failed(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// What the reply is counted as.
    pub(super) const fn class(self) -> ReplyClass {
        match self {
            Self::Host | Self::Connect | Self::Target | Self::Route | Self::TooSlow => {
                ReplyClass::Client
            }
            Self::Unavailable | Self::Exhausted => ReplyClass::Unavailable,
            Self::Failed(_) => ReplyClass::Upstream,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Host => "bad request: exactly one Host header is required\n",
            Self::Connect => "CONNECT is not supported\n",
            Self::Target => "bad request: the request target has no path\n",
            Self::Route => "not found: no route matches this host and path\n",
            Self::TooSlow => "request timeout: the request did not arrive in time\n",
            Self::Unavailable => "service unavailable: no backend takes requests\n",
            Self::Exhausted => "service unavailable: no connection to a backend can be opened\n",
            Self::Failed(class) => match class {
                FailureClass::Connect => "bad gateway: connect\n",
                FailureClass::ConnectTimeout => "gateway timeout: connect_timeout\n",
                FailureClass::Reset => "bad gateway: reset\n",
                FailureClass::FirstByteTimeout => "gateway timeout: first_byte_timeout\n",
                FailureClass::Protocol => "bad gateway: protocol\n",
                FailureClass::GatewayStatus => "bad gateway: gateway_status\n",
            },
        }
    }

    /// The reply.
    pub(super) fn response(self) -> Response<Body> {
        let mut response =
            Response::new(Body::Own(Some(Bytes::from_static(self.text().as_bytes()))));
        *response.status_mut() = self.status();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    }

    /// The reply as bytes, for a connection that hyper has given up; it ends the connection.
    pub(super) fn bytes(self) -> Vec<u8> {
        let (status, text) = (self.status(), self.text());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_named_in_its_reply() {
        for class in FailureClass::ALL {
            let reason = Reason::Failed(class);
            assert!(reason.text().ends_with(&format!(": {}\n", class.name())));
            assert!(matches!(reason.status().as_u16(), 502 | 504));
        }
    }

    #[test]
    fn the_raw_reply_is_http() {
        let text = String::from_utf8(Reason::TooSlow.bytes()).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(text.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
