use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::Prepared;
use super::*;
use crate::config::model::{
    Authorities, Check, CheckKind, GrpcCheck, HttpCheck, ProbeMethod, TlsVersion, Trust,
};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's certificate for `name`, valid from year to year, and what it serves with it.
fn server_of(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    years: (i32, i32),
) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config =
        builder().with_no_client_auth().with_single_cert(vec![certificate.into()], key);
    config.as_mut().unwrap().alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.unwrap()
}

fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

const NOW: (i32, i32) = (2020, 4000);

fn trusted(authority: &CertifiedIssuer<'static, KeyPair>) -> Trust {
    let certificates = vec![authority.der().to_vec()];
    Trust::Authorities(Authorities { file: "ca.pem".into(), certificates })
}

fn secure(trust: Trust, name: Option<&str>) -> UpstreamTls {
    let name = name.map(Into::into);
    UpstreamTls { trust, name, min_version: TlsVersion::V1_2, client: None }
}

fn check(trust: Trust, name: Option<&str>) -> Check {
    let kind = CheckKind::Http(HttpCheck {
        method: ProbeMethod::Get,
        path: "/health".into(),
        host: Some("api.internal".into()),
        headers: Vec::new(),
        statuses: vec![200..=299],
        body: Some("well".into()),
        tls: Some(secure(trust, name)),
    });
    let interval = Duration::from_secs(60);
    Check { kind, address: None, port: None, proxy_protocol: None, interval, timeout: interval }
}

/// Asks a server that answers an HTTP request with `status` and `body`. Gives the outcome, and what the
/// server was asked for by SNI.
async fn ask(
    config: ServerConfig,
    check: Check,
    status: u16,
    body: &str,
) -> (Result<(), String>, Option<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let mut asked = Vec::new();
        // Not more than comes: one that refuses the certificate says nothing.
        while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.unwrap_or(0) > 0 {}
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        name
    };
    let prepared = Prepared::new(Arc::new(check), &Keyring::default());
    let (outcome, name) = tokio::join!(prepared.ask(target), server);
    (outcome.map_err(|failure| failure.to_string()), name)
}

#[tokio::test]
async fn a_backend_with_the_right_certificate_and_answer_passes() {
    let known = authority("Own");
    let own = || server_of(&known, "api.internal", NOW);
    let check = || check(trusted(&known), Some("api.internal"));
    let (outcome, name) = ask(own(), check(), 200, "all is well").await;
    assert_eq!((outcome, name.as_deref()), (Ok(()), Some("api.internal")));
    assert_eq!(ask(own(), check(), 500, "well").await.0.unwrap_err(), "status 500");
    let ill = ask(own(), check(), 200, "ill").await.0.unwrap_err();
    assert_eq!(ill, "body without \"well\"");
}

#[tokio::test]
async fn without_a_name_the_certificate_must_be_for_the_address() {
    let known = authority("Own");
    let (outcome, name) =
        ask(server_of(&known, "127.0.0.1", NOW), check(trusted(&known), None), 200, "well").await;
    assert_eq!((outcome, name), (Ok(()), None), "addresses are no SNI");
    let other = ask(server_of(&known, "a.org", NOW), check(trusted(&known), None), 200, "well");
    let failure = other.await.0.unwrap_err();
    assert_eq!(failure, "tls: certificate is not for 127.0.0.1, but for a.org");
}

#[tokio::test]
async fn each_fault_of_a_certificate_has_its_name() {
    let (known, stranger) = (authority("Own"), authority("Strange"));
    let own = |name, years| server_of(&known, name, years);
    for (server, expected) in [
        (own("api.internal", (2019, 2020)), "certificate expired at 2020-01-01T00:00:00Z"),
        (own("api.internal", (3000, 4000)), "certificate not valid yet"),
        (own("a.org", NOW), "certificate is not for api.internal, but for a.org"),
        (server_of(&stranger, "api.internal", NOW), "certificate of an unknown issuer"),
    ] {
        let check = check(trusted(&known), Some("api.internal"));
        let failure = ask(server, check, 200, "well").await.0.unwrap_err();
        assert_eq!(failure, format!("tls: {expected}"));
    }
    let nobody =
        Trust::Authorities(Authorities { file: "ca.pem".into(), certificates: Vec::new() });
    let server = own("api.internal", NOW);
    let failure = ask(server, check(nobody, None), 200, "well").await.0.unwrap_err();
    assert_eq!(failure, "tls: certificate of an unknown issuer", "no trust, no connection");
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let server = server_of(&authority("Strange"), "a.org", (2019, 2020));
    let (outcome, _) = ask(server, check(Trust::Anybody, Some("api.internal")), 200, "well").await;
    assert_eq!(outcome, Ok(()));
}

#[tokio::test]
async fn what_the_backend_refuses_is_named_by_its_alert() {
    let known = authority("Own");
    let check = || check(trusted(&known), Some("api.internal"));
    let mut other = server_of(&known, "api.internal", NOW);
    other.alpn_protocols = vec![b"smtp".to_vec()];
    let failure = ask(other, check(), 200, "well").await.0.unwrap_err();
    assert_eq!(failure, "tls: alert no_application_protocol");

    // In TLS 1.3 this one comes after the handshake, in place of the answer.
    let mut roots = RootCertStore::empty();
    roots.add(known.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["api.internal".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &known).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mutual = builder()
        .with_client_cert_verifier(clients.unwrap())
        .with_single_cert(vec![certificate.into()], key)
        .unwrap();
    let failure = ask(mutual, check(), 200, "well").await.0.unwrap_err();
    assert_eq!(failure, "tls: alert certificate_required");
}

#[tokio::test]
async fn a_backend_without_tls_and_one_that_hangs_up_are_told_apart() {
    let known = authority("Own");
    for (answer, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the backend speaks no TLS"),
        (b"", "closed in the handshake"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 1024];
            assert!(stream.read(&mut hello).await.unwrap() > 0);
            stream.write_all(answer).await.unwrap();
        };
        let prepared = Prepared::new(Arc::new(check(trusted(&known), None)), &Keyring::default());
        let (outcome, ()) = tokio::join!(prepared.ask(target), server);
        assert_eq!(outcome.unwrap_err().to_string(), format!("tls: {expected}"));
    }
}

#[tokio::test]
async fn grpc_asks_over_tls_too() {
    let known = authority("Own");
    let config = server_of(&known, "api.internal", NOW);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().scheme_str(), Some("https"));
        let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
        let serving = bytes::Bytes::from_static(b"\0\0\0\0\x02\x08\x01");
        sending.send_data(serving, false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        sending.send_trailers(trailers).unwrap();
        while let Some(Ok(_)) = connection.accept().await {}
    };
    let tls = Some(secure(trusted(&known), Some("api.internal")));
    let kind =
        CheckKind::Grpc(GrpcCheck { service: String::new(), host: None, headers: Vec::new(), tls });
    let prepared =
        Prepared::new(Arc::new(Check { kind, ..check(Trust::System, None) }), &Keyring::default());
    let (outcome, ()) = tokio::join!(prepared.ask(target), server);
    outcome.unwrap();
}
