//! One check of one address.

use std::io;
use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::model::{Probe, ProbeKind};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// No answer within the probe's timeout.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The answer was not HTTP, or broke off.
    #[error("http: {0}")]
    Http(#[source] hyper::Error),
    /// The answer was not a success.
    #[error("status {0}")]
    Status(u16),
}

/// Checks `address` once, within the probe's timeout.
pub async fn check(address: SocketAddr, probe: &Probe) -> Result<(), Failure> {
    let address = SocketAddr::new(address.ip(), probe.port.unwrap_or(address.port()));
    timeout(probe.timeout, run(address, &probe.kind))
        .await
        .unwrap_or(Err(Failure::Timeout(probe.timeout)))
}

async fn run(address: SocketAddr, kind: &ProbeKind) -> Result<(), Failure> {
    let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
    match kind {
        ProbeKind::Tcp => {
            // A reset instead of a handshake's end: the backend need not remember us.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            Ok(())
        }
        ProbeKind::Http { path, host } => get(stream, address, path, host.as_deref()).await,
    }
}

async fn get(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
) -> Result<(), Failure> {
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(Failure::Http)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, host.map_or_else(|| address.to_string(), str::to_owned))
        .header(http::header::USER_AGENT, concat!("steerage/", env!("CARGO_PKG_VERSION"), " probe"))
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .expect("path and host were checked with the configuration");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(Failure::Http)?;
        let status = response.status().as_u16();
        // The whole answer counts: a backend that breaks off in the middle is not well.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(Failure::Http)?;
        }
        if (200..400).contains(&status) { Ok(()) } else { Err(Failure::Status(status)) }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn probe(kind: ProbeKind) -> Probe {
        let interval = Duration::from_secs(60);
        Probe { kind, port: None, interval, timeout: interval, rise: 1, fall: 1 }
    }

    fn http() -> Probe {
        probe(ProbeKind::Http { path: "/health".into(), host: Some("api".into()) })
    }

    /// Serves one connection with `answer`, and gives the request back.
    async fn serve(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (address, server)
    }

    #[tokio::test]
    async fn a_success_status_passes() {
        let (address, server) = serve("HTTP/1.1 204 No Content\r\n\r\n").await;
        check(address, &http()).await.unwrap();
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        assert!(request.to_ascii_lowercase().contains("host: api\r\n"), "{request}");
    }

    #[tokio::test]
    async fn an_error_status_fails() {
        let (address, _server) = serve("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(check(address, &http()).await, Err(Failure::Status(503))));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_fails() {
        let (address, _server) = serve("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        assert!(matches!(check(address, &http()).await, Err(Failure::Http(_))));
    }

    #[tokio::test]
    async fn silence_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let short = Probe { timeout: Duration::from_millis(20), ..http() };
        assert!(matches!(check(address, &short).await, Err(Failure::Timeout(_))));
    }

    #[tokio::test]
    async fn a_refused_connection_fails_and_an_accepted_one_passes_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        check(address, &probe(ProbeKind::Tcp)).await.unwrap();
        drop(listener);
        assert!(matches!(check(address, &probe(ProbeKind::Tcp)).await, Err(Failure::Connect(_))));
    }
}
