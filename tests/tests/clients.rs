//! Clients that people use: each does through the proxy what it does without it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_lab::command;
use steerage_lab::pattern::Pattern;
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
