//! Tunnels to backends that speak HTTP/2: extended `CONNECT` (RFC 8441), and the plain one.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use steerage_common::error::ErrorClass;

use super::harness::*;
use super::http2::{text, with_client};
use super::upstream::{http2, serving_by};
use super::{gauge, value};

const ASK: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A backend that takes extended `CONNECT` or does not.
fn serving<F>(
    takes_tunnels: bool,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let mut builder = h2::server::Builder::new();
    if takes_tunnels {
        builder.enable_connect_protocol();
    }
    serving_by(builder, answer)
}

/// Opens a tunnel and sends back what comes, and the end.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let mut up = request.into_body();
    while let Some(piece) = up.data().await {
        let Ok(piece) = piece else { return };
        up.flow_control().release_capacity(piece.len()).unwrap();
        down.send_data(piece, false).unwrap();
    }
    down.send_data(Bytes::new(), true).unwrap();
}

/// Says whether a request is the WebSocket that was asked for.
fn check(request: &Request<RecvStream>) {
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
    assert_eq!(request.uri(), "http://a.test/chat?room=1");
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    for gone in ["sec-websocket-key", "upgrade", "connection", "host"] {
        assert!(!request.headers().contains_key(gone), "{gone}");
    }
}

#[test]
fn an_upgrade_over_http1_is_an_extended_connect_over_http2() {
    let backend = serving(true, async |request, respond| {
        check(&request);
        echo(request, respond).await;
    });
    let worker = Worker::start_with(&[backend], http2);
    let mut client = worker.client();
    client.send(&format!("{ASK}early "));
    let head = read_head(&mut client.stream);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    // That of the key, by RFC 6455, 1.3; the harness gives heads in lower case.
    let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_ascii_lowercase();
    assert_eq!(header(&head, "sec-websocket-accept"), Some(&*accept));
    assert_eq!(gauge(&worker.cell(0).tunnels), 1);
    let long = "bird ".repeat(100_000);
    let mut sender = client.stream.try_clone().unwrap();
    let sent = long.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(sent.as_bytes()).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    assert!(client.rest() == format!("early {long}"));
    sending.join().unwrap();
    eventually("it ended", || gauge(&worker.cell(0).tunnels) == 0);
    // Its connection goes on, and so do requests on it.
    client = worker.client();
    client.send(ASK);
    assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
    assert_eq!(value(&worker.cell(0).connections_created), 1);
}

#[test]
fn an_extended_connect_passes_as_one() {
    let backend = serving(true, async |request, mut respond| {
        if request.method() == Method::GET {
            respond.send_response(Response::new(()), true).unwrap();
            return;
        }
        check(&request);
        echo(request, respond).await;
    });
    let worker = Worker::start_with(&[backend], http2);
    with_client(&worker, async |mut sender| {
        let plain = Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(plain, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let mut request = Request::connect("http://a.test/chat?room=1").body(()).unwrap();
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, mut upload) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let sent = "ping ".repeat(5000);
        upload.send_data(sent.clone().into(), true).unwrap();
        assert_eq!(text(response).await.0, sent);
    });
    eventually("it ended", || gauge(&worker.cell(0).tunnels) == 0);
}

#[test]
fn a_backend_without_extended_connect_is_told_and_gets_no_websocket() {
    let backend = serving(false, async |request, mut respond| {
        assert_eq!(request.method(), Method::GET);
        respond.send_response(Response::new(()), true).unwrap();
    });
    let worker = Worker::start_with(&[backend], http2);
    // Its settings are waited for: on a fresh connection as on a kept one.
    for _ in 0..2 {
        let mut client = worker.client();
        client.send(ASK);
        let refused = client.response();
        assert_eq!(refused.status, 502);
        assert_eq!(header(&refused.head, "x-steerage-error"), Some("no_tunnel"));
        assert_eq!(client.get("/").status, 200, "the client's connection goes on");
    }
    // What can do without a tunnel does.
    let mut client = worker.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: irc\r\n\r\n");
    assert_eq!(client.response().status, 200);
    with_client(&worker, async |mut sender| {
        let plain = || Request::get("http://a.test/").body(()).unwrap();
        let (response, _) = sender.send_request(plain(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let mut request = Request::connect("http://a.test/chat").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("irc"));
        let (response, _) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["x-steerage-error"], "no_tunnel");
    });
    assert_eq!(worker.errors(ErrorClass::NoTunnel), 3);
    let cell = worker.cell(0);
    assert_eq!(cell.failures.iter().map(value).sum::<u64>(), 0, "nobody's fault");
    assert_eq!(value(&cell.connections_created), 1);
}

#[test]
fn a_refusal_is_a_plain_response_and_a_status_that_opens_nothing_is_502() {
    let backend = serving(true, async |request, mut respond| {
        let status = request.headers()["x-status"].to_str().unwrap().parse().unwrap();
        let response = Response::builder().status::<StatusCode>(status).body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data("no".into(), true).unwrap();
    });
    let worker = Worker::start_with(&[backend], http2);
    let ask = |status: &str| {
        let mut client = worker.client();
        client.send(&ASK.replace("\r\n\r\n", &format!("\r\nX-Status: {status}\r\n\r\n")));
        client.response()
    };
    let refused = ask("403");
    assert_eq!((refused.status, refused.text()), (403, "no"));
    assert_eq!(ask("202").status, 502);
    assert_eq!(worker.errors(ErrorClass::Protocol), 1);
    eventually("nothing is open", || gauge(&worker.cell(0).active) == 0);
}

#[test]
fn connect_passes_to_http2_where_its_route_allows_it() {
    let backend = || {
        serving(false, async |request, respond| {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.uri(), "db.test:5432");
            echo(request, respond).await;
        })
    };
    let ask = "CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n";
    let worker = Worker::start_with(&[backend()], http2);
    let mut client = worker.client();
    client.send(ask);
    assert_eq!(client.response().status, 405);
    let worker = Worker::start_with(&[backend()], |model| {
        http2(model);
        model.listeners[0].routes[0].connect = true;
    });
    let mut client = worker.client();
    client.send(ask);
    let head = read_head(&mut client.stream);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    client.send("SELECT 1");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "SELECT 1");
}

#[test]
fn a_reset_stream_ends_the_clients_tunnel_and_no_other() {
    let backend = serving(true, async |mut request, mut respond| {
        if request.method() == Method::GET {
            respond.send_response(Response::new(()), true).unwrap();
            return;
        }
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        request.body_mut().data().await.unwrap().unwrap();
        down.send_reset(Reason::INTERNAL_ERROR);
    });
    let worker = Worker::start_with(&[backend], http2);
    let mut client = worker.client();
    client.send(ASK);
    assert!(read_head(&mut client.stream).starts_with("http/1.1 101 "));
    client.send("x");
    let error = client.stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(worker.get("/").status, 200);
    assert_eq!(value(&worker.cell(0).connections_created), 1);
    eventually("it ended", || gauge(&worker.cell(0).tunnels) == 0);
}
