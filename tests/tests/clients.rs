//! Clients that people use: each does through the proxy what it does without it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use steerage_lab::netns::{Netns, wait_for_port};
use steerage_lab::pattern::Pattern;
use steerage_lab::process::Process;
use steerage_lab::{command, topology};
use steerage_tests::certified::{Authority, listener, tls};
use steerage_tests::python::{client, interpreter};
use steerage_tests::stand::{Choices, Stand, l7};

fn one_backend() -> Stand {
    Stand::start(&Choices { weights: vec![1], ..Choices::default() }).unwrap()
}

const MEBIBYTES: u64 = 3 << 20;

#[test]
fn curl_by_every_version_of_http() {
    let stand = one_backend();
    let upload = stand.scratch.join("upload");
    let mut body = Vec::new();
    let mut pattern = Pattern::new(MEBIBYTES);
    while let Some(piece) = pattern.next_piece() {
        body.extend_from_slice(piece);
    }
    std::fs::write(&upload, &body).unwrap();
    let upload = format!("@{}", upload.display());
    let digest = Pattern::digest(MEBIBYTES);
    for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
        let curl = |path: &str, more: &[&str]| {
            let reply = stand.curl(path, &[&[version], more].concat()).unwrap();
            assert_eq!((reply.exit, reply.status), (0, 200), "{version} {path}: {reply:?}");
            reply.text
        };
        let protocol = curl("/", &["-o", "/dev/null", "-w", "%{http_version}\n%{http_code}"]);
        let expected = &version.trim_start_matches("--http")[..1];
        assert!(protocol.starts_with(expected), "{version}: {protocol}");
        assert!(curl("/head", &[]).starts_with("GET /head HTTP/1.1\n"), "{version}");
        assert!(curl("/bytes/0", &["-I"]).contains("200"), "{version}");
        let hash = format!("{digest} {MEBIBYTES}\n");
        assert_eq!(curl("/hash", &["--data-binary", &upload]), hash, "{version} upload");
        let down = stand.scratch.join("download");
        for way in ["bytes", "chunked"] {
            curl(&format!("/{way}/{MEBIBYTES}"), &["-o", down.to_str().unwrap()]);
            assert!(std::fs::read(&down).unwrap() == body, "{version} {way}");
        }
    }
}

#[test]
fn h2load_with_many_streams_loses_none() {
    let stand = one_backend();
    let mut h2load = stand.topology.client.command("h2load");
    h2load.args(["-n", "4000", "-c", "8", "-m", "32"]).arg(format!("http://{}/", l7()));
    let output = command::finish(&mut h2load).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert_eq!(stand.backend(1).requests(), 4000);
}

#[test]
fn curl_waits_to_be_told_to_upload() {
    let stand = one_backend();
    let upload = stand.scratch.join("upload");
    std::fs::write(&upload, vec![b'x'; 2_000_000]).unwrap();
    let arguments = ["-v", "-H", "Expect: 100-continue", "--expect100-timeout", "25", "-T"];
    let reply = stand.curl("/hash", &[&arguments[..], &[upload.to_str().unwrap()]].concat());
    let reply = reply.unwrap();
    assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
    assert!(reply.text.ends_with(" 2000000\n"), "{}", reply.text);
    assert!(reply.error.contains("HTTP/1.1 100 Continue"), "{}", reply.error);
}

#[test]
fn nodes_clients_and_a_browsers_manners() {
    let stand = one_backend();
    let url = format!("http://{}/", l7());
    let client = &stand.topology.client;
    check(client, Path::new("node"), "node.js", &[&url]);
}

/// Port of the listener in front of a server that is none of ours.
const PORT: u16 = 8081;

/// Port of that server.
const SERVER_PORT: u16 = 9000;

fn front() -> SocketAddr {
    SocketAddr::from((topology::BALANCER, PORT))
}

fn server() -> SocketAddr {
    SocketAddr::from((topology::backend_address(1), SERVER_PORT))
}

/// A listener and a service in front of [`server`].
fn in_front(protocol: &str) -> Stand {
    let more = format!(
        "\n[[listener]]\nname = \"more\"\nprotocol = \"http\"\nbind = [\"{}\"]\n\
         [[listener.route]]\nservice = \"more\"\n[[service]]\nname = \"more\"\n\
         upstream = {{ protocol = \"{protocol}\" }}\n[[service.backend]]\naddress = \"{}\"\n",
        front(),
        server()
    );
    Stand::start(&Choices { weights: vec![1], more, ..Choices::default() }).unwrap()
}

/// WebSockets whatever the two sides speak: clients over either version to a server of either.
#[test]
fn websockets_over_every_version_to_every_version() {
    for (protocol, program, script) in
        [("http1", interpreter(), "websocket.py"), ("h2", "node".into(), "extended.js")]
    {
        let stand = in_front(protocol);
        let port = SERVER_PORT.to_string();
        let _server = serve(&stand, &program, script, &[&server().ip().to_string(), &port]);
        let (client, url) = (&stand.topology.client, format!("ws://{}/", front()));
        check(client, &interpreter(), "websocket.py", &["check", &url]);
        check(client, &interpreter(), "extended.py", &["check", &front().to_string()]);
    }
}

#[test]
fn grpc_of_python_on_both_sides() {
    let stand = in_front("h2");
    let _server = serve(&stand, &interpreter(), "rpc.py", &[&server().to_string()]);
    check(&stand.topology.client, &interpreter(), "rpc.py", &["check", &front().to_string()]);
}

/// The same over TLS on both sides, each with its own name and the version of HTTP that ALPN agrees on.
#[test]
fn grpc_of_python_over_tls_on_both_sides() {
    let authority = Authority::new().unwrap();
    authority.sign("front", &["front.test"]).unwrap();
    authority.sign("back", &["back.test"]).unwrap();
    let (ca, cert, key) = (authority.ca(), authority.path("back.pem"), authority.path("back.key"));
    let more = format!(
        "{}[[service]]\nname = \"more\"\nupstream_tls = {{ ca = \"{ca}\", sni = \"back.test\" }}\n\
         [[service.backend]]\naddress = \"{}\"\n",
        listener(&[authority.entry("front")], "").replace("\"app\"", "\"more\""),
        server()
    );
    let stand = Stand::start(&Choices { weights: vec![1], more, ..Choices::default() }).unwrap();
    let _server = serve(&stand, &interpreter(), "rpc.py", &[&server().to_string(), &cert, &key]);
    let front = tls().to_string();
    check(&stand.topology.client, &interpreter(), "rpc.py", &["check", &front, &ca, "front.test"]);
}

/// Starts a server on the backend's host.
fn serve(stand: &Stand, program: &Path, script: &str, arguments: &[&str]) -> Process {
    let netns = &stand.topology.backends[0];
    let mut command = netns.command(program);
    command.arg(client(script)).arg("serve").args(arguments);
    let server_process = Process::spawn(script, command, &stand.scratch.join(script)).unwrap();
    if let Err(error) = wait_for_port(netns, server(), Duration::from_secs(20)) {
        panic!("{error}: {}", server_process.log());
    }
    server_process
}

/// Runs a client that checks all by itself.
fn check(netns: &Netns, program: &Path, script: &str, arguments: &[&str]) {
    let mut command = netns.command(program);
    command.arg(client(script)).args(arguments);
    let output = command::finish(&mut command).unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success() && out.contains("all good"), "{out}\n{error}");
}
