//! Long streams over TLS to clients that hardly read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};
use steerage_lab::{process, topology, wait};
use steerage_tests::certified::{Authority, listener, stand, tls};
use steerage_tests::stand::Stand;

/// Set to the seconds that the client is slow for; ten minutes are an acceptance test.
const SECONDS: &str = "STEERAGE_STREAM_SECONDS";

const BURST_BYTES: usize = 10 << 20;

/// What workers may grow by while megabytes wait for the client.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// A burst of bytes, told apart from its neighbours.
fn burst(number: u64) -> Vec<u8> {
    (0..BURST_BYTES as u64).map(|at| ((at + number * 7) % 251) as u8).collect()
}

/// Opens a tunnel for one client: its two halves, behind the heads.
fn accept(listener: &TcpListener) -> (TcpStream, BufReader<TcpStream>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    (stream, reader)
}

/// Opens a tunnel for one client, and sends bursts through it; gives how many bytes the other end sent.
fn serve(listener: &TcpListener, bursts: u64) -> u64 {
    let (mut stream, mut reader) = accept(listener);
    let sending = thread::spawn(move || {
        for number in 0..bursts {
            stream.write_all(&burst(number)).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let came = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    sending.join().unwrap();
    came
}

/// A tunnel over TLS from the client's host, past the response's head; the kernel holds little for it.
fn open(stand: &Stand, authority: &Authority) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), "site.test".try_into().unwrap()).unwrap();
    let socket = stand.topology.client.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&tls().into()).unwrap();
        socket
    });
    let mut stream = StreamOwned::new(session, socket.unwrap().into());
    let request = "GET /stream HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

fn resident(stand: &Stand) -> u64 {
    let workers = stand.daemon.workers().unwrap();
    workers.into_iter().map(|pid| process::resident_bytes(pid).unwrap()).max().unwrap()
}

fn ends(stand: &Stand, cause: &str) -> u64 {
    let status = stand.daemon.status().unwrap();
    let workers = status["workers"].as_array().unwrap().iter();
    let ends = workers.flat_map(|worker| worker["ends"].as_array().unwrap());
    ends.filter(|end| end["name"] == cause).map(|end| end["count"].as_u64().unwrap()).sum()
}

#[test]
fn a_client_that_reads_a_kilobyte_a_second_gets_every_byte_and_is_not_cut_off() {
    let seconds = std::env::var(SECONDS).map_or(15, |text| text.parse().unwrap());
    let bursts = 3;
    let authority = Authority::new().unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    let backend: SocketAddr = (topology::backend_address(1), 9100).into();
    // The limit of silence is far shorter than the time in which nothing moves here.
    let more = listener(&[authority.entry("site")], "").replace(
        "[[listener.route]]\n",
        "[[listener.route]]\npath = \"/stream\"\nservice = \"stream\"\ntimeouts = { tunnel = \"3s\" }\n\
         [[listener.route]]\n",
    ) + &format!("[[service]]\nname = \"stream\"\n[[service.backend]]\naddress = \"{backend}\"\n");
    let stand = stand(more).unwrap();
    let host = &stand.topology.backends[0];
    let listening = host.enter(|| TcpListener::bind(backend).unwrap()).unwrap();
    let serving = thread::spawn(move || serve(&listening, bursts));
    let before = resident(&stand);
    let mut stream = open(&stand, &authority);
    let (mut came, mut growth) = (Vec::new(), 0);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let mut piece = [0; 1024];
        stream.read_exact(&mut piece).unwrap();
        came.extend_from_slice(&piece);
        stream.write_all(b"read\n").unwrap();
        growth = growth.max(resident(&stand).saturating_sub(before));
        thread::sleep(Duration::from_secs(1));
    }
    println!("{seconds} s, {} bytes read slowly; workers grew by {growth} bytes", came.len());
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    assert_eq!(ends(&stand, "tunnel_idle"), 0);
    let sent = 5 * (came.len() / 1024) as u64;
    // To the end that `close_notify` makes: without it this is an error.
    stream.read_to_end(&mut came).unwrap();
    let expected: Vec<u8> = (0..bursts).flat_map(burst).collect();
    assert!(came == expected, "{} of {} bytes, or others", came.len(), expected.len());
    drop(stream);
    assert_eq!(serving.join().unwrap(), sent, "what the client sent has arrived too");
}

#[test]
fn who_hangs_up_with_data_under_way_is_counted_so_and_its_own_data_arrives() {
    let authority = Authority::new().unwrap();
    authority.sign("site", &["site.test"]).unwrap();
    let backend: SocketAddr = (topology::backend_address(1), 9100).into();
    let more = listener(&[authority.entry("site")], "")
        .replace("service = \"app\"", "service = \"stream\"")
        + &format!(
            "[[service]]\nname = \"stream\"\n[[service.backend]]\naddress = \"{backend}\"\n"
        );
    let stand = stand(more).unwrap();
    let host = &stand.topology.backends[0];
    let listening = host.enter(|| TcpListener::bind(backend).unwrap()).unwrap();
    let (arrived, has_arrived) = mpsc::channel();
    let serving = thread::spawn(move || {
        let (mut stream, mut reader) = accept(&listening);
        // More than anybody takes: a client that is gone, in the end.
        let sending = thread::spawn(move || while stream.write_all(&[b'x'; 65536]).is_ok() {});
        let mut came = Vec::new();
        reader.read_to_end(&mut came).unwrap();
        arrived.send(came.len()).unwrap();
        sending.join().unwrap();
    });
    let mut stream = open(&stand, &authority);
    stream.write_all(&[b'y'; 100_000]).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(has_arrived.recv().unwrap(), 100_000, "what it sent before has arrived");
    drop(stream);
    serving.join().unwrap();
    let counted = wait::for_condition("the end is counted", Duration::from_secs(20), || {
        ends(&stand, "hung_up") == 1
    });
    counted
        .unwrap_or_else(|error| panic!("{error}: {}", stand.daemon.status().unwrap()["workers"]));
}
