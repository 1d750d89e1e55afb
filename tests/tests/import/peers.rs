//! The proxies, one after the other, before the same backends.

use std::path::{Path, PathBuf};
use std::process::Command;

use steerage_lab::backend::Backend;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_lab::topology::{self, Topology};
use steerage_lab::{command, netns};
use steerage_tests::certified::Authority;
use steerage_tests::stand::{self, PREFIX};

use crate::ask::{Answer, Question};

/// Backends 1 to 4, and a client.
pub struct Ground {
    backends: Vec<Backend>,
    pub topology: Topology,
    pub scratch: Scratch,
    pub authority: Authority,
}

/// How a peer is started with a file.
pub type Start = fn(&Ground, &Path) -> Process;

/// Where the listeners of all configurations are.
pub fn address() -> std::net::SocketAddr {
    stand::l7()
}

impl Ground {
    pub fn new() -> Self {
        let topology = Topology::build(PREFIX, 4).unwrap();
        let backend = |number: u8| {
            let netns = &topology.backends[usize::from(number) - 1];
            let address = topology::backend_socket(number);
            Backend::start(&stand::name(number), Some(netns), address).unwrap()
        };
        let backends = (1..=4).map(backend).collect();
        let (scratch, authority) = (Scratch::new(PREFIX).unwrap(), Authority::new().unwrap());
        for name in ["one", "two"] {
            authority.sign(name, &[&format!("{name}.example.com")]).unwrap();
            let parts = ["pem", "key"].map(|end| {
                let file = format!("{name}.{end}");
                let text = std::fs::read_to_string(authority.file(&file)).unwrap();
                scratch.write(&file, &text).unwrap();
                text
            });
            scratch.write(&format!("{name}.both"), &parts.concat()).unwrap();
        }
        Self { backends, topology, scratch, authority }
    }

    /// Starts one of the others, and waits until it serves.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let host = &self.topology.balancer;
        let mut command = host.command(program);
        command.args(arguments);
        let process = Process::spawn(program, command, &self.scratch.join("peer.log")).unwrap();
        let up = netns::wait_for_port(host, address(), daemon::PATIENCE);
        assert!(up.is_ok(), "{}", process.log_tail(20));
        process
    }

    /// Asks the peer, then Steerage with what became of its file; gives what was said of that.
    pub fn compare(&self, name: &str, start: Start, questions: &[Question]) -> String {
        assert_eq!(self.backends.len(), 4);
        // Beside the certificates that some name.
        let text = std::fs::read_to_string(directory().join(name)).unwrap();
        let file = self.scratch.write(name, &text).unwrap();
        let peer = start(self, &file);
        let wanted: Vec<Answer> = questions.iter().map(|question| question.ask(self)).collect();
        drop(peer);
        let (text, said) = import(&file);
        let config = self.scratch.write("steerage.toml", &self.placed(&text)).unwrap();
        let log = self.scratch.join("steerage.log");
        let host = &self.topology.balancer;
        let daemon = Daemon::serving(host, &daemon::binary().unwrap(), &config, &log).unwrap();
        for (question, wanted) in questions.iter().zip(wanted) {
            let got = question.ask(self);
            assert_eq!(got, wanted, "{name}: {question:?}\n{text}\n{}", daemon.log());
        }
        said
    }

    /// The text with what a test's daemon needs.
    fn placed(&self, text: &str) -> String {
        let global = format!("{}workers = 1\n", daemon::global(&self.scratch));
        let own: String = text
            .strip_prefix("[global]\n")
            .unwrap_or(text)
            .split_inclusive('\n')
            .filter(|line| !["workers =", "user ="].iter().any(|key| line.starts_with(key)))
            .collect();
        format!("{global}{own}")
    }
}

/// Where the configurations are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// What `steerage import` writes, and what it says.
pub fn import(file: &Path) -> (String, String) {
    let mut import = Command::new(daemon::binary().unwrap());
    let output = command::finish(import.arg("import").arg(file)).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (written, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {said}\n{written}", file.display());
    (written, said)
}
