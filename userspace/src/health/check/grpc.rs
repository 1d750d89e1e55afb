//! One question to `grpc.health.v1.Health`, over HTTP/2 with prior knowledge.
//!
//! On `h2` itself, which hyper's client is made of: the connection is then polled in the check's own
//! future and ends with it, where hyper would spawn it.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::add;
use super::message::{self, Serving};
use crate::config::model::GrpcCheck;

/// The method's path.
const PATH: &str = "/grpc.health.v1.Health/Check";

/// A response has two bytes and its framing; one that is much longer is none.
const ANSWER_MAX: usize = 1024;

/// Names of `grpc-status`, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Why an answer is not `SERVING`.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No HTTP/2, or it broke off.
    #[error("{0}")]
    Connection(#[from] h2::Error),
    /// An answer of something that is no gRPC server.
    #[error("http status {0}")]
    HttpStatus(u16),
    /// The call failed.
    #[error("{}", display_code(*.0))]
    Code(u16),
    /// Trailers are missing or say nothing.
    #[error("no grpc-status")]
    NoCode,
    /// The message is none.
    #[error("no HealthCheckResponse")]
    Malformed,
    /// The server answered, and does not serve.
    #[error("{0}")]
    NotServing(Serving),
}

fn display_code(code: u16) -> String {
    match CODES.get(usize::from(code)) {
        Some(name) => (*name).to_owned(),
        None => format!("grpc-status {code}"),
    }
}

/// Asks over a stream that is connected.
pub async fn exchange<S>(stream: S, target: SocketAddr, check: &GrpcCheck) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(16 * 1024);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let exchange = ask(sender, target, check);
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // The connection's own end: what it means for the exchange, the exchange says.
        _ = &mut connection => exchange.await,
    }
}

async fn ask(
    sender: h2::client::SendRequest<Bytes>,
    target: SocketAddr,
    check: &GrpcCheck,
) -> Result<(), Failure> {
    let mut sender = sender.ready().await?;
    let (response, mut sending) = sender.send_request(request(target, check), false)?;
    sending.send_data(message::request(&check.service).into(), true)?;
    let (head, mut body) = response.await?.into_parts();
    // An answer without a message has its status in the only headers ("Trailers-Only").
    if let Some(code) = code(&head.headers).filter(|code| *code != 0) {
        return Err(Failure::Code(code));
    }
    if head.status != StatusCode::OK {
        return Err(Failure::HttpStatus(head.status.as_u16()));
    }
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        if answer.len() + data.len() > ANSWER_MAX {
            return Err(Failure::Malformed);
        }
        answer.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    match trailers.as_ref().and_then(code).or_else(|| code(&head.headers)) {
        Some(0) => {}
        Some(code) => return Err(Failure::Code(code)),
        None => return Err(Failure::NoCode),
    }
    match message::response(&answer) {
        Some(Serving::SERVING) => Ok(()),
        Some(other) => Err(Failure::NotServing(other)),
        None => Err(Failure::Malformed),
    }
}

fn request(target: SocketAddr, check: &GrpcCheck) -> Request<()> {
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    let scheme = if check.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(PATH).build();
    let mut request = Request::post(uri.expect("the host was checked with the configuration"))
        .header(USER_AGENT, super::USER_AGENT)
        .body(())
        .expect("these are all valid");
    let headers = request.headers_mut();
    add(headers, &check.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

fn code(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// What a server does with the question.
    #[derive(Clone, Copy)]
    struct Answer {
        status: u16,
        head_code: Option<&'static str>,
        body: &'static [u8],
        trailer_code: Option<&'static str>,
    }

    const SERVING: Answer = Answer {
        status: 200,
        head_code: None,
        body: b"\0\0\0\0\x02\x08\x01",
        trailer_code: Some("0"),
    };

    fn with_code(headers: &mut HeaderMap, code: Option<&'static str>) {
        if let Some(code) = code {
            headers.insert("grpc-status", HeaderValue::from_static(code));
        }
    }

    /// Asks a server of `h2`; gives the outcome, and the request as it came with its body.
    async fn ask(answer: Answer) -> (Result<(), Failure>, Request<Vec<u8>>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let serve = async {
                let (head, mut body) = request.into_parts();
                let mut asked = Vec::new();
                while let Some(data) = body.data().await {
                    asked.extend_from_slice(&data.unwrap());
                }
                let mut response = Response::builder().status(answer.status).body(()).unwrap();
                with_code(response.headers_mut(), answer.head_code);
                let ends = answer.body.is_empty() && answer.trailer_code.is_none();
                let mut sending = respond.send_response(response, ends).unwrap();
                if !ends {
                    let ends = answer.trailer_code.is_none();
                    sending.send_data(Bytes::from_static(answer.body), ends).unwrap();
                    if !ends {
                        let mut trailers = HeaderMap::new();
                        with_code(&mut trailers, answer.trailer_code);
                        sending.send_trailers(trailers).unwrap();
                    }
                }
                Request::from_parts(head, asked)
            };
            let (request, _) =
                tokio::join!(serve, async { while let Some(Ok(_)) = connection.accept().await {} });
            request
        };
        let check = GrpcCheck {
            service: "api".into(),
            host: None,
            headers: vec![("x-key".into(), "1".into())],
            tls: None,
        };
        let target = "192.0.2.1:50051".parse().unwrap();
        tokio::join!(exchange(near, target, &check), server)
    }

    #[tokio::test]
    async fn a_server_that_serves_passes() {
        let (outcome, request) = ask(SERVING).await;
        outcome.unwrap();
        assert_eq!(request.uri(), "http://192.0.2.1:50051/grpc.health.v1.Health/Check");
        assert_eq!(request.method(), "POST");
        let header = |name| request.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(
            (header("content-type"), header("te"), header("x-key")),
            ("application/grpc", "trailers", "1")
        );
        assert_eq!(request.body(), b"\x00\x00\x00\x00\x05\x0a\x03api");
    }

    #[tokio::test]
    async fn every_other_answer_fails_with_its_name() {
        let long: &'static [u8] = &[0; ANSWER_MAX + 1];
        for (answer, expected) in [
            (Answer { body: b"\0\0\0\0\x02\x08\x02", ..SERVING }, "NOT_SERVING"),
            (Answer { body: b"\0\0\0\0\x02\x08\x03", ..SERVING }, "SERVICE_UNKNOWN"),
            (Answer { body: b"\0\0\0\0\0", ..SERVING }, "UNKNOWN"),
            (Answer { body: b"hello", ..SERVING }, "no HealthCheckResponse"),
            (Answer { body: long, ..SERVING }, "no HealthCheckResponse"),
            (Answer { trailer_code: None, ..SERVING }, "no grpc-status"),
            (Answer { trailer_code: Some("x"), ..SERVING }, "no grpc-status"),
            (Answer { trailer_code: Some("14"), ..SERVING }, "UNAVAILABLE"),
            (Answer { trailer_code: Some("99"), ..SERVING }, "grpc-status 99"),
            (Answer { status: 404, ..SERVING }, "http status 404"),
            (
                Answer { head_code: Some("12"), body: b"", trailer_code: None, ..SERVING },
                "UNIMPLEMENTED",
            ),
            (
                Answer { head_code: Some("0"), body: b"", trailer_code: None, ..SERVING },
                "no HealthCheckResponse",
            ),
        ] {
            let (outcome, _) = ask(answer).await;
            assert_eq!(outcome.unwrap_err().to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_server_without_http2_fails() {
        let (near, far) = tokio::io::duplex(1024);
        let server = async {
            let (mut reading, mut writing) = tokio::io::split(far);
            tokio::io::AsyncWriteExt::write_all(&mut writing, b"HTTP/1.1 400 Bad\r\n\r\n")
                .await
                .unwrap();
            drop(writing);
            let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
        };
        let check =
            GrpcCheck { service: String::new(), host: None, headers: Vec::new(), tls: None };
        let target = "192.0.2.1:50051".parse().unwrap();
        let outcome = tokio::select! {
            outcome = exchange(near, target, &check) => outcome,
            () = async { server.await; std::future::pending().await } => unreachable!(),
        };
        assert!(matches!(outcome, Err(Failure::Connection(_))), "{outcome:?}");
    }
}
