//! Makes TLS handshakes, as many as go: each on a connection of its own, with one request on it.
//!
//! ```text
//! handshakes --ca tls.crt --name bench.test --connections 8 --seconds 3 [--resume] https://127.0.0.1:8443/128
//! handshakes: 5120 full, 0 resumed in 3.00 s
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream};

#[derive(Parser)]
struct Options {
    /// Whose certificates are trusted.
    #[arg(long)]
    ca: PathBuf,
    /// The server's name.
    #[arg(long)]
    name: String,
    /// Connections at a time.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// How long.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Come back with the tickets that were given.
    #[arg(long)]
    resume: bool,
    /// Whom to ask for what: `https://ADDRESS:PORT/PATH`.
    url: String,
}

/// Handshakes of one kind and the other.
#[derive(Default)]
struct Count {
    full: u64,
    resumed: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let bare =
        options.url.strip_prefix("https://").context("the URL does not begin by https://")?;
    let (address, path) = bare.split_once('/').context("the URL has no path")?;
    let address: SocketAddr = address.parse().context("the URL's host is no address and port")?;
    let request =
        format!("GET /{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", options.name);
    let name = ServerName::try_from(options.name.clone())?;
    let begin = Instant::now();
    let until = begin + Duration::from_secs(options.seconds);
    let clients: Vec<_> = (0..options.connections)
        .map(|_| {
            let (config, name, request) = (client(&options)?, name.clone(), request.clone());
            Ok(thread::spawn(move || shake(&config, &name, address, &request, until)))
        })
        .collect::<Result<_>>()?;
    let mut all = Count::default();
    for client in clients {
        let count = client.join().expect("a client panicked")?;
        all.full += count.full;
        all.resumed += count.resumed;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("handshakes: {} full, {} resumed in {seconds:.2} s", all.full, all.resumed);
    Ok(())
}

/// A client's configuration, with tickets of its own.
fn client(options: &Options) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&options.ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !options.resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// One connection after another.
fn shake(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    address: SocketAddr,
    request: &str,
    until: Instant,
) -> Result<Count> {
    let mut count = Count::default();
    let mut answer = Vec::new();
    while Instant::now() < until {
        let mut session = ClientConnection::new(config.clone(), name.clone())?;
        let mut socket = TcpStream::connect(address)?;
        let mut stream = Stream::new(&mut session, &mut socket);
        stream.write_all(request.as_bytes())?;
        answer.clear();
        stream.read_to_end(&mut answer).context("the answer is cut off")?;
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "an answer is no 200");
        match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => count.resumed += 1,
            _ => count.full += 1,
        }
    }
    Ok(count)
}
