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
    let is_checked_elsewhere = |path: &PathBuf| path.ends_with("migration.md");
    let pages = files("docs", "md").into_iter().filter(|path| !is_checked_elsewhere(path));
    for path in pages.chain([root().join("README.md")]) {
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

/// `cargo xtask setup --all` installs BIRD; without it there is nobody to ask.
#[test]
fn bird_takes_the_configuration_that_is_shown_for_it() {
    let scratch = Scratch::new(PREFIX).unwrap();
    let text = fs::read_to_string(root().join("docs/l4.md")).unwrap();
    let block = text.split("```bird\n").nth(1).unwrap().split("```").next().unwrap();
    let file = scratch.write("bird.conf", block).unwrap();
    let mut bird = Command::new("bird");
    match bird.args(["-p", "-c"]).arg(file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("bird is not installed: its configuration was not looked at");
        }
        output => {
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Written anew with `STEERAGE_BLESS=1`.
#[test]
fn what_the_migration_page_shows_is_what_an_import_gives() {
    let page = root().join("docs/migration.md");
    let text = fs::read_to_string(&page).unwrap();
    let scratch = Scratch::new(PREFIX).unwrap();
    let authority = Authority::new().unwrap();
    authority.sign("example", &["example.com"]).unwrap();
    let pem =
        ["example.pem", "example.key"].map(|f| fs::read_to_string(authority.file(f)).unwrap());
    fs::create_dir(scratch.join("tls")).unwrap();
    fs::write(scratch.join("tls/example.pem"), pem.concat()).unwrap();
    let (mut blessed, mut shown) = (text.clone(), 0);
    for (language, name) in [("nginx", "nginx.conf"), ("haproxy", "haproxy.cfg")] {
        for part in text.split(&format!("```{language}\n")).skip(1) {
            let (source, rest) = part.split_once("```").unwrap();
            let result = rest.split_once("```toml\n").unwrap().1.split("```").next().unwrap();
            scratch.write(name, source).unwrap();
            let mut import = Command::new(daemon::binary().unwrap());
            import.current_dir(scratch.path()).args(["import", name]);
            let output = command::finish(&mut import).unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{source}\n{said}");
            let given = String::from_utf8(output.stdout).unwrap();
            // Files are named in full; those of the page are of /etc.
            let given = given.replace(&*scratch.path().to_string_lossy(), "/etc/haproxy");
            if result != given {
                assert!(std::env::var_os("STEERAGE_BLESS").is_some(), "{name}: it gives\n{given}");
                let (before, after) = blessed.split_once(&format!("{source}```")).unwrap();
                let after = after.replacen(
                    &format!("```toml\n{result}```"),
                    &format!("```toml\n{given}```"),
                    1,
                );
                blessed = format!("{before}{source}```{after}");
            }
            shown += 1;
        }
    }
    assert_eq!(shown, 2);
    if blessed != text {
        fs::write(page, blessed).unwrap();
    }
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
