//! The answers that Steerage gives itself: all of them, and each names its class.
//!
//! What a class means (status, text) is one table, [`ErrorClass`]. Here it becomes a response, with the
//! page that the configuration has for its status.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use steerage_common::abi::FailureClass;
use steerage_common::error::ErrorClass;

use super::body::Body;
use crate::config::model::{self, ErrorPage, Listener};
use crate::tls::upstream::Failure;

/// Names the class, for machines.
const X_STEERAGE_ERROR: HeaderName = HeaderName::from_static("x-steerage-error");

/// The class of a request whose last attempt failed so.
pub(crate) const fn of_failure(class: FailureClass) -> ErrorClass {
    match class {
        FailureClass::Connect => ErrorClass::Connect,
        FailureClass::ConnectTimeout => ErrorClass::ConnectTimeout,
        FailureClass::Reset => ErrorClass::Reset,
        FailureClass::FirstByteTimeout => ErrorClass::FirstByteTimeout,
        FailureClass::Protocol | FailureClass::GatewayStatus => ErrorClass::Protocol,
        FailureClass::Stall => ErrorClass::StallTimeout,
        FailureClass::Tls => ErrorClass::TlsHandshake,
    }
}

/// The class of a request whose last attempt failed at TLS.
pub(super) const fn of_handshake(failure: &Failure) -> ErrorClass {
    match failure {
        Failure::Expired(_) | Failure::NotValidYet => ErrorClass::TlsCertificateTime,
        Failure::Name(_) => ErrorClass::TlsCertificateName,
        Failure::Issuer => ErrorClass::TlsCertificateIssuer,
        Failure::Alert(_) => ErrorClass::TlsAlert,
        Failure::NoTls => ErrorClass::NoTls,
        Failure::NoHttp2 => ErrorClass::NoHttp2,
        Failure::Closed | Failure::Other(_) | Failure::Io(_) => ErrorClass::TlsHandshake,
    }
}

fn status(class: ErrorClass) -> StatusCode {
    StatusCode::from_u16(class.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A redirect.
pub(super) fn redirect(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::Own(None));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// An answer that is the same for all requests of a route.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    page: Option<Page>,
}

impl Answer {
    pub(super) fn new(answer: &model::Answer) -> Self {
        let page = |body: &str| {
            let content_type = HeaderValue::from_str(&answer.content_type).ok()?;
            Some(Page { content_type, body: Bytes::copy_from_slice(body.as_bytes()) })
        };
        let body = Some(answer.body.as_str()).filter(|body| !body.is_empty());
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        Self { status, page: body.and_then(page) }
    }

    pub(super) fn response(&self) -> Response<Body> {
        let body = self.page.as_ref().map(|page| page.body.clone());
        let mut response = Response::new(Body::Own(body));
        *response.status_mut() = self.status;
        if let Some(page) = &self.page {
            response.headers_mut().insert(CONTENT_TYPE, page.content_type.clone());
        }
        response
    }
}

/// How a listener words its own answers.
#[derive(Debug)]
pub(super) struct Replies {
    /// Instead of the class's text, by status.
    pages: Vec<(u16, Page)>,
    /// Whether the class is named in a header.
    has_header: bool,
}

#[derive(Clone, Debug)]
struct Page {
    content_type: HeaderValue,
    body: Bytes,
}

impl Replies {
    pub(super) fn new(listener: &Listener) -> Self {
        let page = |page: &ErrorPage| {
            let content_type = HeaderValue::from_str(&page.content_type).ok()?;
            Some((page.status, Page { content_type, body: page.body.clone().into() }))
        };
        let pages = listener.error_pages.iter().filter_map(page).collect();
        Self { pages, has_header: listener.error_header }
    }

    fn page(&self, class: ErrorClass) -> Page {
        let own = self.pages.iter().find(|(status, _)| *status == class.status());
        own.map(|(_, page)| page.clone()).unwrap_or_else(|| Page {
            content_type: HeaderValue::from_static("text/plain; charset=utf-8"),
            body: format!("{} {}: {}\n", class.status(), class.name(), class.text()).into(),
        })
    }

    /// The reply to a request.
    pub(super) fn response(&self, class: ErrorClass) -> Response<Body> {
        let page = self.page(class);
        let mut response = Response::new(Body::Own(Some(page.body)));
        *response.status_mut() = status(class);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, page.content_type);
        if self.has_header {
            headers.insert(X_STEERAGE_ERROR, HeaderValue::from_static(class.name()));
        }
        response
    }

    /// The reply as bytes, for a connection that hyper has given up; it ends the connection.
    pub(super) fn bytes(&self, class: ErrorClass) -> Vec<u8> {
        let Page { content_type, body } = self.page(class);
        let mut bytes = format!("HTTP/1.1 {}\r\ncontent-type: ", status(class)).into_bytes();
        bytes.extend_from_slice(content_type.as_bytes());
        if self.has_header {
            bytes.extend_from_slice(format!("\r\nx-steerage-error: {}", class.name()).as_bytes());
        }
        let end = format!("\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        bytes.extend_from_slice(end.as_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(status: u16, has_header: bool) -> Replies {
        let content_type = HeaderValue::from_static("text/html");
        let pages = vec![(status, Page { content_type, body: Bytes::from_static(b"<p>sorry") })];
        Replies { pages, has_header }
    }

    #[test]
    fn every_failure_of_an_attempt_is_a_gateway_error() {
        for class in FailureClass::ALL {
            assert!(matches!(of_failure(class).status(), 502 | 504));
        }
    }

    #[test]
    fn the_raw_reply_is_http() {
        let replies = replies(503, true);
        for class in ErrorClass::ALL {
            let reply = String::from_utf8(replies.bytes(*class)).unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {} ", class.status())), "{reply}");
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())));
            assert!(head.contains(&format!("\r\nx-steerage-error: {}\r\n", class.name())));
            let (expected, kind) = match class.status() {
                503 => ("<p>sorry".to_owned(), "text/html"),
                _ => (format!("{} {}: ", class.status(), class.name()), "text/plain"),
            };
            assert!(body.starts_with(&expected), "{reply}");
            assert!(head.contains(&format!("content-type: {kind}")), "{reply}");
        }
    }

    #[test]
    fn the_class_need_not_be_told() {
        let replies = replies(404, false);
        let response = replies.response(ErrorClass::NoRoute);
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html");
        assert!(!response.headers().contains_key(X_STEERAGE_ERROR));
        let raw = String::from_utf8(replies.bytes(ErrorClass::NoRoute)).unwrap();
        assert!(!raw.contains("steerage"), "{raw}");
    }
}
