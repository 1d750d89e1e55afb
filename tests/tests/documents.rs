//! Every configuration that is shown to anybody is one that the daemon takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use steerage_lab::command;
use steerage_lab::daemon;
use steerage_lab::scratch::Scratch;
use steerage_tests::certified::Authority;
use steerage_tests::stand::PREFIX;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn check(path: &Path, origin: &str) {
    let mut check = Command::new(daemon::binary().unwrap());
    let output = command::finish(check.arg("check").arg(path)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{origin}: {said}");
}

#[test]
fn the_examples_pass_check() {
    let examples = files("examples", "toml");
    assert!(!examples.is_empty());
    for path in examples {
        check(&path, &path.display().to_string());
    }
}

#[test]
fn the_configurations_in_the_documents_pass_check() {
    let scratch = Scratch::new(PREFIX).unwrap();
    write_certificates(&scratch);
    let mut checked = 0;
    for path in files("docs", "md").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, part) in text.split("```toml\n").skip(1).enumerate() {
            let block = part.split("```").next().unwrap();
            let file = scratch.write("block.toml", block).unwrap();
            check(&file, &format!("{}, block {}", path.display(), number + 1));
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} blocks were found");
}

/// The files of TLS that documents name.
fn write_certificates(scratch: &Scratch) {
    let authority = Authority::new().unwrap();
    fs::create_dir(scratch.join("tls")).unwrap();
    for file in ["api", "wild"] {
        authority.sign(file, &[&format!("{file}.example.com")]).unwrap();
        for kind in ["pem", "key"] {
            let name = format!("{file}.{kind}");
            fs::copy(authority.file(&name), scratch.join(&format!("tls/{name}"))).unwrap();
        }
    }
    fs::copy(authority.ca(), scratch.join("tls/clients.pem")).unwrap();
    // The head of a successful answer (RFC 6960, 4.2.1).
    fs::write(scratch.join("tls/api.ocsp"), [0x30, 3, 0x0a, 1, 0]).unwrap();
}
