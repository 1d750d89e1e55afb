use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream as Peer};
use std::thread;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::tests::on_each;
use super::super::{Listener, connect, within};
use super::*;

const NAME: &str = "server.test";

/// The configurations of a client and a server that trust each other.
fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.into()]).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    NAME.try_into().unwrap()
}

/// A client of its own thread, and the stream that serves it.
async fn served<T: Send + 'static>(
    client: impl FnOnce(StreamOwned<ClientConnection, Peer>) -> T + Send + 'static,
) -> (Stream, thread::JoinHandle<T>) {
    let (ours, theirs) = configs();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let session = ClientConnection::new(ours, name()).unwrap();
        client(StreamOwned::new(session, Peer::connect(address).unwrap()))
    });
    let listener = Listener::new(listener).unwrap();
    let (stream, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
    let hello = stream.hello().await.unwrap();
    assert_eq!(hello.client().server_name(), Some(NAME));
    (hello.accept(theirs).await.unwrap(), client)
}

#[test]
fn a_client_of_tls_is_served_and_told_of_the_end() {
    on_each(|| async {
        let (mut stream, client) = served(|mut tls| {
            tls.write_all(b"request").unwrap();
            let mut answer = Vec::new();
            // Without `close_notify` this is an error.
            tls.read_to_end(&mut answer).unwrap();
            answer
        })
        .await;
        let mut request = [0; 7];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"request");
        assert_eq!(stream.progress().received(), 7, "records and handshakes do not count");
        assert_eq!(stream.server_session().unwrap().server_name(), Some(NAME));
        stream.write_all(b"answer").await.unwrap();
        drop(stream);
        // Meanwhile the loop goes on: what is deferred leaves at the turn's end.
        while !client.is_finished() {
            super::super::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(client.join().unwrap(), b"answer");
    });
}

#[test]
fn a_slow_reader_gets_all_that_was_written_before_the_stream_was_dropped() {
    const BYTES: usize = 3 << 20;
    on_each(|| async {
        let (read, may_read) = std::sync::mpsc::channel::<()>();
        let (mut stream, client) = served(move |mut tls| {
            tls.flush().unwrap();
            may_read.recv().unwrap();
            let mut bytes = Vec::new();
            tls.read_to_end(&mut bytes).unwrap();
            bytes
        })
        .await;
        let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        let mut written = 0;
        // Until neither the kernel nor the session takes more.
        let patience = std::time::Duration::from_millis(100);
        while let Ok(count) = within(patience, stream.write(&sent[written..])).await {
            written += count.unwrap();
            if written == BYTES {
                break;
            }
        }
        assert!(written > 0);
        drop(stream);
        read.send(()).unwrap();
        while !client.is_finished() {
            super::super::sleep(std::time::Duration::from_millis(1)).await;
        }
        let came = client.join().unwrap();
        assert_eq!(came.len(), written);
        assert_eq!(came, sent[..written]);
    });
}

#[test]
fn a_fin_without_close_notify_is_an_error_and_an_end() {
    on_each(|| async {
        let (mut stream, client) = served(|mut tls| {
            tls.write_all(b"half").unwrap();
            // The socket is closed, and nothing said.
        })
        .await;
        client.join().unwrap();
        let mut bytes = Vec::new();
        let error = stream.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bytes, b"half");
        assert!(stream.progress().is_ended());
        assert_eq!(stream.progress().end(), Some(Cause::EofWithoutCloseNotify));
    });
}

#[test]
fn bytes_that_were_put_back_are_part_of_the_handshake() {
    on_each(|| async {
        let (client, server) = configs();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::new(listener).unwrap();
        let connecting = super::super::spawn(async move {
            let stream = connect(address).await.unwrap();
            let mut tls = stream.connect_tls(client, name()).await.unwrap();
            assert!(tls.session().unwrap().protocol_version().is_some());
            tls.write_all(b"over TLS").await.unwrap();
            tls.shutdown().await.unwrap();
        });
        let (mut stream, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let mut first = [0; 100];
        stream.read_exact(&mut first).await.unwrap();
        assert!(stream.session().is_none());
        stream.unread(Bytes::copy_from_slice(&first));
        let mut tls = stream.hello().await.unwrap().accept(server).await.unwrap();
        let mut bytes = Vec::new();
        tls.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"over TLS");
        assert!(tls.progress().is_ended(), "close_notify is an end");
        assert_eq!(tls.progress().end(), Some(Cause::CloseNotify));
        connecting.await.unwrap();
    });
}

#[test]
fn who_speaks_no_tls_is_told_so_by_an_alert() {
    on_each(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let listener = Listener::new(listener).unwrap();
        let (stream, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let broken = stream.hello().await.unwrap_err();
        assert!(broken.error.get_ref().unwrap().is::<rustls::Error>(), "{}", broken.error);
        drop(broken.stream);
        super::super::sleep(std::time::Duration::from_millis(1)).await;
        let mut alert = [0; 7];
        peer.read_exact(&mut alert).unwrap();
        assert_eq!(alert[0], 21, "RFC 8446, 5.1: alert(21)");
        assert_eq!(alert[5], 2, "fatal");
    });
}
