//! The answers that Steerage gives itself: all of them, and each names its class.
//!
//! What a class means (status, text) is one table, [`ErrorClass`]. Here it becomes a response.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use steerage_common::abi::FailureClass;
use steerage_common::error::ErrorClass;

use super::body::Body;

/// Names the class, for machines.
const X_STEERAGE_ERROR: HeaderName = HeaderName::from_static("x-steerage-error");

/// The class of a request whose last attempt failed so.
pub(super) const fn of_failure(class: FailureClass) -> ErrorClass {
    match class {
        FailureClass::Connect => ErrorClass::Connect,
        FailureClass::ConnectTimeout => ErrorClass::ConnectTimeout,
        FailureClass::Reset => ErrorClass::Reset,
        FailureClass::FirstByteTimeout => ErrorClass::FirstByteTimeout,
        FailureClass::Protocol | FailureClass::GatewayStatus => ErrorClass::Protocol,
    }
}

fn status(class: ErrorClass) -> StatusCode {
    StatusCode::from_u16(class.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn text(class: ErrorClass) -> String {
    format!("{} {}: {}\n", class.status(), class.name(), class.text())
}

/// The reply to a request.
pub(super) fn response(class: ErrorClass) -> Response<Body> {
    let mut response = Response::new(Body::Own(Some(Bytes::from(text(class)))));
    *response.status_mut() = status(class);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response.headers_mut().insert(X_STEERAGE_ERROR, HeaderValue::from_static(class.name()));
    response
}

/// The reply as bytes, for a connection that hyper has given up; it ends the connection.
pub(super) fn bytes(class: ErrorClass) -> Vec<u8> {
    let (status, text, name) = (status(class), text(class), class.name());
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         x-steerage-error: {name}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_an_attempt_is_a_gateway_error() {
        for class in FailureClass::ALL {
            assert!(matches!(of_failure(class).status(), 502 | 504));
        }
    }

    #[test]
    fn the_raw_reply_is_http() {
        for class in ErrorClass::ALL {
            let reply = String::from_utf8(bytes(*class)).unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {} ", class.status())), "{reply}");
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
            assert!(body.starts_with(&format!("{} {}: ", class.status(), class.name())));
        }
    }
}
