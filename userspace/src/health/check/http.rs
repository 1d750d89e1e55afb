//! One HTTP/1.1 request, and whether its answer is the expected one.

use std::net::SocketAddr;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use crate::config::model::{HttpCheck, PROBE_BODY_MAX, ProbeMethod};

/// Asks over a stream that is connected.
pub async fn exchange<S>(stream: S, target: SocketAddr, check: &HttpCheck) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request(target, check)).await?;
        let status = response.status().as_u16();
        let body = beginning(response.into_body(), check.body.is_some()).await?;
        judge(status, &body, check)
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // The connection's own end: what it means for the exchange, the exchange says.
        _ = &mut connection => exchange.await,
    }
}

fn request(target: SocketAddr, check: &HttpCheck) -> Request<Empty<Bytes>> {
    let method = match check.method {
        ProbeMethod::Get => Method::GET,
        ProbeMethod::Head => Method::HEAD,
    };
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    let mut request = Request::builder()
        .method(method)
        .uri(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, super::USER_AGENT)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .expect("path and host were checked with the configuration");
    add(request.headers_mut(), &check.headers);
    request
}

/// Adds configured headers, in the place of ours of the same name.
pub fn add(headers: &mut http::HeaderMap, more: &[(String, String)]) {
    for (name, value) in more {
        // Neither fails: they were checked with the configuration.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// Reads the whole body, because a backend that breaks off in the middle is not well; but no more
/// than [`PROBE_BODY_MAX`]. Gives it if it is `wanted`.
async fn beginning(mut body: Incoming, wanted: bool) -> Result<Vec<u8>, Failure> {
    let (mut read, mut kept) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let data = &data[..data.len().min(PROBE_BODY_MAX - read)];
        read += data.len();
        if wanted {
            kept.extend_from_slice(data);
        }
        if read == PROBE_BODY_MAX {
            break;
        }
    }
    Ok(kept)
}

fn judge(status: u16, body: &[u8], check: &HttpCheck) -> Result<(), Failure> {
    if !check.statuses.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Status(status));
    }
    match &check.body {
        Some(expected) if memmem::find(body, expected.as_bytes()).is_none() => {
            Err(Failure::Body(expected.clone()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn check() -> HttpCheck {
        HttpCheck {
            method: ProbeMethod::Get,
            path: "/health".into(),
            host: None,
            headers: Vec::new(),
            statuses: vec![200..=399],
            body: None,
            tls: None,
        }
    }

    /// Answers the check with `answer`, and gives the request back.
    async fn ask(check: &HttpCheck, answer: &[u8]) -> (Result<(), Failure>, String) {
        let (near, mut far) = tokio::io::duplex(2 * PROBE_BODY_MAX);
        let server = async {
            let mut request = vec![0; 1024];
            let read = far.read(&mut request).await.unwrap();
            // The probe may have enough before all of it.
            let _ = far.write_all(answer).await;
            drop(far);
            String::from_utf8(request[..read].to_vec()).unwrap()
        };
        let target = "192.0.2.1:80".parse().unwrap();
        tokio::join!(exchange(near, target, check), server)
    }

    #[tokio::test]
    async fn it_asks_what_is_configured() {
        let own = HttpCheck {
            method: ProbeMethod::Head,
            host: Some("api".into()),
            headers: vec![("x-probe".into(), "1".into()), ("user-agent".into(), "me".into())],
            ..check()
        };
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let (outcome, request) = ask(&own, answer).await;
        outcome.unwrap();
        assert_eq!(
            request,
            "HEAD /health HTTP/1.1\r\nhost: api\r\nuser-agent: me\r\nconnection: close\r\n\
             x-probe: 1\r\n\r\n"
        );
        let (_, request) = ask(&check(), answer).await;
        assert!(request.contains("host: 192.0.2.1:80\r\nuser-agent: steerage/"), "{request}");
    }

    #[tokio::test]
    async fn only_an_expected_status_passes() {
        let empty = |status| format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
        let own = HttpCheck { statuses: vec![200..=299, 304..=304], ..check() };
        for (status, is_good) in [(200, true), (204, true), (304, true), (301, false), (503, false)]
        {
            let (outcome, _) = ask(&own, empty(status).as_bytes()).await;
            assert_eq!(outcome.is_ok(), is_good, "{status}: {outcome:?}");
        }
        let (outcome, _) = ask(&check(), empty(503).as_bytes()).await;
        assert_eq!(outcome.unwrap_err().to_string(), "status 503");
    }

    #[tokio::test]
    async fn the_body_must_hold_what_is_expected() {
        let own = HttpCheck { body: Some("\"db\":\"ok\"".into()), ..check() };
        let answer = |body: &str| format!("HTTP/1.1 200 OK\r\n\r\n{body}");
        let (outcome, _) = ask(&own, answer("{\"db\":\"ok\",\"n\":1}").as_bytes()).await;
        outcome.unwrap();
        let (outcome, _) = ask(&own, answer("{\"db\":\"gone\"}").as_bytes()).await;
        assert_eq!(outcome.unwrap_err().to_string(), "body without \"\\\"db\\\":\\\"ok\\\"\"");
    }

    #[tokio::test]
    async fn no_more_than_the_beginning_of_a_body_is_read() {
        let own = HttpCheck { body: Some("ok".into()), ..check() };
        let endless = |padding: usize| {
            // Announces more than ever comes.
            let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n".to_vec();
            answer.resize(answer.len() + padding, b'.');
            answer.extend_from_slice(b"ok");
            answer.resize(answer.len() + PROBE_BODY_MAX, b'.');
            answer
        };
        ask(&own, &endless(PROBE_BODY_MAX - 2)).await.0.unwrap();
        let late = ask(&own, &endless(PROBE_BODY_MAX - 1)).await.0;
        assert!(matches!(late, Err(Failure::Body(_))), "{late:?}");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_fails() {
        let (outcome, _) = ask(&check(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        assert!(matches!(outcome, Err(Failure::Http(_))), "{outcome:?}");
        let (outcome, _) = ask(&check(), b"SSH-2.0-OpenSSH\r\n").await;
        assert!(matches!(outcome, Err(Failure::Http(_))), "{outcome:?}");
    }
}
