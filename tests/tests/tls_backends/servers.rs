//! Servers that others wrote, with certificates of this test's own, and a daemon before them: all in one
//! namespace.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use steerage::stats::status::{Count, L7};
use steerage_lab::client::{Connection, Curl, curl};
use steerage_lab::command;
use steerage_lab::daemon::{self, Daemon};
use steerage_lab::netns::{self, Netns};
use steerage_lab::process::Process;
use steerage_lab::scratch::Scratch;
use steerage_tests::stand::PREFIX;

const PATIENCE: Duration = Duration::from_secs(30);

/// The name that certificates are for.
pub const NAME: &str = "api.internal";

/// Where the daemon listens.
pub fn web() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes `FILE.pem` and `FILE.key` for `name`, good until the end of a year.
    pub fn certify(&self, scratch: &Scratch, file: &str, name: &str, last_year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 12, 31);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        // In one step: who reads it meanwhile gets one of them whole.
        for (kind, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
            let path = scratch.write(&format!("{file}.{kind}.new"), &text).unwrap();
            std::fs::rename(path, scratch.join(&format!("{file}.{kind}"))).unwrap();
        }
    }
}

/// Fields are dropped in this order.
pub struct Host {
    pub daemon: Option<Daemon>,
    servers: Vec<Process>,
    pub netns: Netns,
    pub scratch: Scratch,
}

impl Host {
    /// An authority's file `ca.pem`, and its certificate `own`.
    pub fn new() -> (Self, Authority) {
        let scratch = Scratch::new(PREFIX).unwrap();
        let name = scratch.path().file_name().unwrap().to_string_lossy().into_owned();
        let netns = Netns::create(format!("{name}-tls")).unwrap();
        let authority = Authority::new("Own");
        scratch.write("ca.pem", &authority.pem()).unwrap();
        authority.certify(&scratch, "own", NAME, 4000);
        (Self { daemon: None, servers: Vec::new(), netns, scratch }, authority)
    }

    /// Starts a program and waits until it listens on `port`.
    pub fn serve(&mut self, program: &str, arguments: &[&str], port: u16) -> &Process {
        let mut command = self.netns.command(program);
        command.args(arguments).current_dir(self.scratch.path());
        let log = self.scratch.join(&format!("{program}-{port}.out"));
        let process = Process::spawn(program, command, &log).unwrap();
        let listens =
            netns::wait_for_port(&self.netns, SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE);
        assert!(listens.is_ok(), "{program}: {}", process.log());
        self.servers.push(process);
        &self.servers[self.servers.len() - 1]
    }

    /// Starts nginx with these servers, of which `port` is one.
    pub fn nginx(&mut self, servers: &str, port: u16) -> &Process {
        let directory = self.scratch.path().display();
        let config = format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/nginx-{port}.pid;\n\
             error_log {directory}/nginx-{port}.log;\nevents {{}}\nhttp {{\n access_log off;\n\
             client_body_temp_path {directory}/body;\n{servers}\n}}\n"
        );
        let config = self.scratch.write(&format!("nginx-{port}.conf"), &config).unwrap();
        self.serve("nginx", &["-c", config.to_str().unwrap()], port)
    }

    /// A server of nginx that answers by `says`; more keys may follow.
    pub fn server(
        &self,
        port: u16,
        listen: &str,
        certificate: &str,
        says: &str,
        more: &str,
    ) -> String {
        let directory = self.scratch.path().display();
        format!(
            " server {{\n listen 127.0.0.1:{port} {listen};\n\
             ssl_certificate {directory}/{certificate}.pem;\n\
             ssl_certificate_key {directory}/{certificate}.key;\n{more}\n\
             location / {{ return 200 \"{says}\\n\"; }}\n }}\n"
        )
    }

    /// The daemon's configuration: services by their names, keys and backends' ports; the first takes what
    /// none of the paths `/NAME` does.
    pub fn config(&self, services: &[(&str, &str, &[u16])]) -> String {
        let mut text = daemon::global(&self.scratch);
        let _ = write!(
            text,
            "workers = 2\n[[listener]]\nname = \"web\"\nbind = [\"{}\"]\nprotocol = \"http\"\n",
            web()
        );
        for (name, ..) in services {
            let _ = writeln!(text, "[[listener.route]]\npath = \"/{name}\"\nservice = \"{name}\"");
        }
        let _ = writeln!(text, "[[listener.route]]\nservice = \"{}\"", services[0].0);
        for (name, keys, ports) in services {
            let _ =
                writeln!(text, "[[service]]\nname = \"{name}\"\nbalance = \"round_robin\"\n{keys}");
            for port in *ports {
                let _ = writeln!(text, "[[service.backend]]\naddress = \"127.0.0.1:{port}\"");
            }
        }
        text
    }

    /// Starts the daemon.
    pub fn start(&mut self, services: &[(&str, &str, &[u16])]) {
        let config = self.scratch.write("steerage.toml", &self.config(services)).unwrap();
        let (binary, log) = (daemon::binary().unwrap(), self.scratch.join("steerage.log"));
        self.daemon = Some(Daemon::serving(&self.netns, &binary, &config, &log).unwrap());
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Puts another configuration in force; gives what the daemon said.
    pub fn reconfigure(&self, services: &[(&str, &str, &[u16])]) -> Result<String, String> {
        let text = self.config(services);
        let path = self.scratch.write(".steerage.toml.new", &text).unwrap();
        std::fs::rename(path, self.scratch.join("steerage.toml")).unwrap();
        self.reload()
    }

    pub fn reload(&self) -> Result<String, String> {
        let mut command = std::process::Command::new(daemon::binary().unwrap());
        command.args(["reload", "-c"]).arg(self.scratch.join("steerage.toml"));
        command::output(&mut command).map_err(|error| format!("{error:#}"))
    }

    /// A connection to the listener.
    pub fn connect(&self) -> Connection {
        Connection::open(Some(&self.netns), web()).unwrap()
    }

    /// One request by curl.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Curl {
        let url = format!("http://{}{path}", web());
        curl(&self.netns, &[arguments, &[&url]].concat()).unwrap()
    }

    /// The daemon's figures of a backend.
    pub fn l7(&self, service: usize, backend: usize) -> L7 {
        let status = self.daemon().status().unwrap();
        let l7 = &status["services"][service]["backends"][backend]["l7"];
        serde_json::from_value(l7.clone()).unwrap()
    }

    /// Asks for `path` so often, over so many connections at a time; gives how often each answer came.
    pub fn ask_many(&self, path: &str, clients: u64, each: u64) -> Vec<(String, u64)> {
        let ask = || {
            let mut connection = Connection::open_here(web(), PATIENCE).unwrap();
            let mut answers = Vec::new();
            for _ in 0..each {
                let answer = connection.get(path).unwrap();
                answers.push(format!("{} {}", answer.status, answer.text().trim()));
            }
            answers
        };
        let all = self.netns.enter(|| {
            std::thread::scope(|scope| {
                let clients: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
                clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
            })
        });
        let mut counts = std::collections::BTreeMap::new();
        for answer in all.unwrap() {
            *counts.entry(answer).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
}

/// A count by its name.
pub fn count(counts: &[Count], name: &str) -> u64 {
    counts.iter().find(|count| count.name == name).unwrap().count
}
