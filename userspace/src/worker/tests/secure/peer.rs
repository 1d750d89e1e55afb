//! Backends that speak TLS, by the server half of the library that workers use.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::super::harness::*;
use crate::config::model::{
    Authorities, ClientCertificate, Model, TlsVersion, Trust, UpstreamProtocol, UpstreamTls,
};

pub(super) const NAME: &str = "api.test";

/// The years in which a certificate is good today.
pub(super) const NOW: (i32, i32) = (2020, 4000);

/// A backend's side of a connection.
pub(super) type Secure = StreamOwned<ServerConnection, TcpStream>;

/// Who signs certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn trusted(&self) -> Trust {
        let certificates = vec![self.0.der().to_vec()];
        Trust::Authorities(Authorities { file: "ca.pem".into(), certificates })
    }

    /// A certificate for `name` and its key, in DER.
    pub(super) fn sign(&self, name: &str, years: (i32, i32)) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        (params.signed_by(&key, &self.0).unwrap().der().to_vec(), key)
    }

    /// A server that shows a certificate for `name`; one that wants clients' certificates of the same
    /// authority if `is_mutual`.
    pub(super) fn server(&self, name: &str, years: (i32, i32), is_mutual: bool) -> ServerConfig {
        let (certificate, key) = self.sign(name, years);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if is_mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(clients.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate.into()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// Files of a client's certificate, gone with what is returned.
    pub(super) fn client(&self, name: &str) -> (ClientCertificate, tempfile::Directory) {
        let directory = tempfile::Directory::new(name);
        let (certificate, key) = self.sign(name, NOW);
        let path = directory.0.join("client.key");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        let cert = directory.0.join("client.pem");
        (ClientCertificate { cert, key: path, chain: vec![certificate] }, directory)
    }
}

/// A directory of one test.
pub(super) mod tempfile {
    use std::path::PathBuf;

    pub(in super::super) struct Directory(pub(in super::super) PathBuf);

    impl Directory {
        pub(super) fn new(name: &str) -> Self {
            let name = format!("steerage-worker-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

pub(super) fn tls(trust: Trust) -> UpstreamTls {
    let name = Some(NAME.to_owned());
    UpstreamTls { trust, name, min_version: TlsVersion::V1_2, client: None }
}

/// Has a model speak TLS.
pub(super) fn speaking(tls: UpstreamTls, protocol: UpstreamProtocol) -> impl FnOnce(&mut Model) {
    move |model| {
        model.services[0].upstream_tls = Some(tls);
        model.services[0].upstream.protocol = protocol;
    }
}

/// Runs `serve` on a thread for each connection, once hands are shaken.
pub(super) fn serving(
    config: ServerConfig,
    serve: impl Fn(&mut Secure) + Send + Sync + 'static,
) -> SocketAddr {
    let config = Arc::new(config);
    backend(move |stream| {
        let session = ServerConnection::new(config.clone()).unwrap();
        let mut tls = StreamOwned::new(session, stream);
        while tls.conn.is_handshaking() {
            if tls.conn.complete_io(&mut tls.sock).is_err() {
                return;
            }
        }
        serve(&mut tls);
    })
}

/// Answers each request with its body, or `text` if it has none, until the other end has said its
/// `close_notify`.
pub(super) fn answer(tls: &mut Secure, text: &str) {
    loop {
        let head = read_head(tls);
        if head.is_empty() {
            return;
        }
        let body = String::from_utf8(read_body(tls, &head)).unwrap();
        let body = if body.is_empty() { text } else { &body };
        if tls.write_all(ok(body).as_bytes()).is_err() {
            return;
        }
    }
}

/// A server that speaks whatever its configuration of the moment lets it agree to, and says which. Each
/// request is answered by `h1` or `h2`, one for `/end` by the end of its connection as well.
pub(super) fn bilingual(config: ServerConfig) -> (SocketAddr, Arc<Mutex<Arc<ServerConfig>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let config = Arc::new(Mutex::new(Arc::new(config)));
    let current = config.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(current.lock().unwrap().clone());
                tokio::task::spawn_local(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        serve_h2(stream).await;
                    } else {
                        serve_h1(stream).await;
                    }
                });
            }
        });
    });
    (address, config)
}

type Accepted = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn serve_h2(stream: Accepted) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().scheme_str(), Some("https"));
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        stream.send_data("h2".into(), true).unwrap();
        if request.uri().path() == "/end" {
            connection.graceful_shutdown();
        }
    }
}

async fn serve_h1(mut stream: Accepted) {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|count| count != 0) {
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(ok("h1").as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            if head.starts_with(b"GET /end ") {
                let _ = stream.shutdown().await;
                return;
            }
            head.clear();
        }
    }
}

/// Has the other end see a fatal alert: by feeding this end what nobody has sealed.
pub(super) fn send_alert(tls: &mut Secure) {
    let mut forged: &[u8] = &[
        23, 3, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    ];
    tls.conn.read_tls(&mut forged).unwrap();
    tls.conn.process_new_packets().unwrap_err();
    while tls.conn.wants_write() {
        tls.conn.write_tls(&mut tls.sock).unwrap();
    }
}

/// Says `close_notify`.
pub(super) fn say_goodbye(tls: &mut Secure) {
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// Waits for the other end's end.
pub(super) fn await_end(tls: &mut Secure) {
    let _ = tls.read_to_end(&mut Vec::new());
}
