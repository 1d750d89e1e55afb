//! Every command that documents show does what it is shown for: it is run, in order, against an
//! installation whose names are put in the place of the documents' own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use steerage_lab::command;
use steerage_lab::topology::{CLIENT_LINK, backend_socket};
use steerage_tests::stand::{Choices, Stand, l4};

/// Commands that are run elsewhere, or nowhere, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo xtask", "it is what runs this test"),
    ("steerage run ", "the installation runs"),
    ("STEERAGE_", "`overrides` of the configuration's tests"),
    ("steerage upgrade", "the tests `upgrade` and `year`"),
    ("steerage import", "the test `import`, and the page itself in `documents`"),
    ("steerage decap", "on a backend's host: the test `decap`"),
    ("steerage capture", "it waits for packets: the test `xdp_capture`"),
    ("testssl", "it asks a host of the internet's names"),
    ("journalctl ", "the test `access_log`"),
    ("dmesg", "the kernel's log is everybody's"),
];

/// The commands of a block in a document.
struct Shown {
    origin: String,
    commands: Vec<String>,
}

fn shown() -> Vec<Shown> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let entries = fs::read_dir(root.join("docs")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.push(root.join("README.md"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    files.iter().flat_map(|path| blocks(path)).collect()
}

/// The blocks of a file: in those of `console` what follows a prompt is a command, in those of `sh` a line.
fn blocks(path: &Path) -> Vec<Shown> {
    let text = fs::read_to_string(path).unwrap();
    let (mut language, mut found) = (None, Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(begins) = line.strip_prefix("```") {
            language = if language.is_some() { None } else { Some(begins) };
            let origin = format!("{}:{number}", path.file_name().unwrap().display());
            found.push(Shown { origin, commands: Vec::new() });
            continue;
        }
        let command = match language {
            Some("console") => line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")),
            Some("sh") => Some(line),
            _ => None,
        };
        // A remark stands behind two spaces.
        let command = command.map(|command| command.split("  #").next().unwrap().trim());
        if let (Some(block), Some(text)) = (found.last_mut(), command) {
            block.commands.push(text.to_owned());
        }
    }
    found
}

#[test]
fn every_command_in_the_documents_works() {
    let all = shown();
    for (start, why) in ELSEWHERE {
        let is_used = all.iter().any(|block| block.commands.iter().any(|c| c.starts_with(start)));
        assert!(is_used, "no document shows {start:?} ({why})");
    }
    let stand = Stand::start(&Choices { tcp_vip: true, ..Choices::default() }).unwrap();
    assert_eq!(stand.curl("/", &[]).unwrap().status, 200);
    let config = stand.config.display().to_string();
    fs::copy(&stand.config, stand.scratch.join("shop.toml")).unwrap();
    let (pins, first) = (stand.pins().display().to_string(), backend_socket(1).to_string());
    let client = steerage_lab::topology::CLIENT.to_string();
    let (vip, worker) = (l4().to_string(), stand.daemon.workers().unwrap()[0].to_string());
    let names = [
        ("/sys/fs/bpf/steerage/default", &*pins),
        ("/etc/steerage/steerage.toml", &*config),
        ("10.0.0.1:8080", &first),
        ("198.51.100.7", &client),
        ("192.0.2.10:80", &vip),
        ("api-l4", "app-tcp"),
        ("eth0", CLIENT_LINK),
        ("WORKER_PID", &worker),
    ];
    // The daemon's command asks about this installation unless it is told of a file.
    let binary = steerage_lab::daemon::binary().unwrap();
    let steerage = format!(
        "steerage() {{ case \"$*\" in *'-c '*|'check '*|doctor*|--*) '{0}' \"$@\";; \
         *) '{0}' \"$@\" -c '{config}';; esac; }}\n",
        binary.display()
    );
    let mut ran = 0;
    for Shown { origin, commands } in &all {
        let is_elsewhere = |text: &str| ELSEWHERE.iter().any(|(start, _)| text.starts_with(start));
        let here: Vec<_> = commands.iter().filter(|text| !is_elsewhere(text)).cloned().collect();
        if here.is_empty() {
            continue;
        }
        let text = names.iter().fold(here.join("\n"), |text, (from, to)| text.replace(from, to));
        let script = format!("set -e; cd '{}'\n{steerage}{text}", stand.scratch.path().display());
        let mut shell = stand.topology.balancer.command("bash");
        let output = command::finish(shell.args(["-x", "-c", &script])).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        println!("{origin}:\n{said}{error}");
        assert!(output.status.success(), "{origin}:\n{said}{error}");
        ran += here.len();
    }
    assert!(ran > 20, "only {ran} commands were found");
}
