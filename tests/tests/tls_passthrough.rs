//! A tls listener passes connections on by the name that the client asks for: real clients shake hands
//! with the server behind, and nobody in between has its key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use steerage_lab::client::{Curl, curl};
use steerage_lab::command;
use steerage_lab::process::Process;
use steerage_lab::topology::{BALANCER, backend_address};
use steerage_tests::certified::{self, Authority};
use steerage_tests::peer;
use steerage_tests::stand::{Choices, Stand};

fn tls() -> SocketAddr {
    SocketAddr::from((BALANCER, 8443))
}

fn server(number: u8) -> SocketAddr {
    SocketAddr::from((backend_address(number), 8443))
}

/// Fields are dropped in this order.
struct Passing {
    _servers: Vec<Process>,
    stand: Stand,
}

/// Two servers, each with a certificate of its own, behind one listener.
fn start(keys: &str) -> Passing {
    start_with(keys, "")
}

/// The same, with more listeners.
fn start_with(keys: &str, listeners: &str) -> Passing {
    let service = |name: &str, number| {
        let address = server(number);
        format!("[[service]]\nname = \"{name}\"\n[[service.backend]]\naddress = \"{address}\"\n")
    };
    let more = format!(
        "[[listener]]\nname = \"names\"\nbind = [\"{}\"]\nprotocol = \"tls\"\n{keys}\n\
         [[listener.route]]\nsni = \"a.example.com\"\nservice = \"a\"\n\
         [[listener.route]]\nsni = \"*.b.example.com\"\nalpn = [\"h2\"]\nservice = \"b\"\n{listeners}\n{}{}",
        tls(),
        service("a", 1),
        service("b", 2)
    );
    let stand = Stand::start(&Choices { more, ..Choices::default() }).unwrap();
    let servers = [(1, "a.example.com"), (2, "*.b.example.com")].map(|(number, name)| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = certificate.pem();
        let certificate = stand.scratch.write(&format!("{number}.pem"), &pem).unwrap();
        let key = stand.scratch.write(&format!("{number}.key"), &key.serialize_pem()).unwrap();
        let host = &stand.topology.backends[usize::from(number) - 1];
        let listen = server(number);
        let http = format!(
            "server {{\n listen {listen} ssl http2;\n ssl_protocols TLSv1.2 TLSv1.3;\n \
             ssl_certificate {};\n ssl_certificate_key {};\n\
             client_max_body_size 0;\n \
             location / {{\n return 200 \"$ssl_server_name $ssl_protocol $server_protocol\\n\";\n }}\n }}",
            certificate.display(),
            key.display()
        );
        peer::nginx(host, &stand.scratch, &http, listen).unwrap()
    });
    Passing { _servers: servers.into(), stand }
}

impl Passing {
    /// Asks for a host, believing the certificate of server `number` alone.
    fn ask(&self, host: &str, number: u8, arguments: &[&str]) -> Curl {
        let to = format!("{host}:{}:{BALANCER}", tls().port());
        let authority = self.stand.scratch.join(&format!("{number}.pem"));
        let (authority, url) = (authority.display().to_string(), format!("https://{host}:8443/"));
        let fixed = ["--resolve", &to, "--cacert", &authority, &url];
        curl(&self.stand.topology.client, &[arguments, &fixed].concat()).unwrap()
    }

    fn s_client(&self, arguments: &str) -> String {
        let connect = tls().to_string();
        let mut command = self.stand.topology.client.command("openssl");
        command.args(["s_client", "-connect", &connect]).args(arguments.split_whitespace());
        let output = command::finish(&mut command).unwrap();
        let (out, err) = (&output.stdout, &output.stderr);
        String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
    }
}

#[test]
fn each_name_reaches_its_own_server_end_to_end() {
    let passing = start("");
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        for protocol in ["--http2", "--http1.1"] {
            let version = version.replace('=', " ");
            let arguments: Vec<&str> = version.split(' ').chain([protocol]).collect();
            let reply = passing.ask("a.example.com", 1, &arguments);
            assert_eq!((reply.exit, reply.status), (0, 200), "{arguments:?}: {reply:?}");
            let wanted = if protocol == "--http2" { "HTTP/2.0" } else { "HTTP/1.1" };
            assert!(reply.text.starts_with("a.example.com TLSv1."), "{reply:?}");
            assert!(reply.text.trim().ends_with(wanted), "{reply:?}");
        }
    }
    let reply = passing.ask("x.b.example.com", 2, &["--http2"]);
    assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
    // The certificate is that of the server behind, and of no other.
    assert_eq!(passing.ask("a.example.com", 2, &[]).exit, 60);
}

#[test]
fn clients_that_nobody_takes_are_told_why() {
    let passing = start("timeouts = { header_read = \"500ms\" }");
    let unknown = passing.s_client("-servername c.example.com -alpn h2");
    assert!(unknown.contains("unrecognized name"), "{unknown}");
    let nameless = passing.s_client("-noservername");
    assert!(nameless.contains("unrecognized name"), "{nameless}");
    let other = passing.s_client("-servername x.b.example.com -alpn http/1.1");
    assert!(other.contains("no application protocol"), "{other}");
    let plain = curl(&passing.stand.topology.client, &[&format!("http://{}/", tls())]).unwrap();
    assert_ne!(plain.exit, 0, "{plain:?}");
    // Somebody who says nothing is not waited for.
    let silent = passing.stand.connect(tls()).unwrap().into_stream().into_inner();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(std::io::Read::read(&mut &silent, &mut [0]).unwrap(), 0);
}

#[test]
fn some_names_end_here_and_others_go_on_by_one_port() {
    let authority = Authority::new().unwrap();
    authority.sign("own", &["own.example.com"]).unwrap();
    let at = SocketAddr::from((BALANCER, 8444));
    let https = certified::listener_at("ended", at, &[authority.entry("own")], "");
    let route = "[[listener.route]]\nsni = \"own.example.com\"\nterminate = \"ended\"";
    let passing = start_with(route, &https);
    let ask = |host: &str, authority: &str, arguments: &[&str]| {
        let to = format!("{host}:{}:{BALANCER}", tls().port());
        let url = format!("https://{host}:8443/head");
        let fixed = ["--resolve", &to, "--cacert", authority, &url];
        curl(&passing.stand.topology.client, &[arguments, &fixed].concat()).unwrap()
    };
    for protocol in ["--http1.1", "--http2"] {
        let ended = ask("own.example.com", &authority.ca(), &[protocol]);
        assert_eq!((ended.exit, ended.status), (0, 200), "{ended:?}");
        let head = ended.text.to_lowercase();
        assert!(head.contains("x-forwarded-proto: https\n"), "{head}");
        assert!(head.contains("x-forwarded-for: 10.80.0.2\n"), "{head}");
        let passed = passing.ask("a.example.com", 1, &[protocol]);
        assert_eq!((passed.exit, passed.status), (0, 200), "{passed:?}");
        assert!(passed.text.starts_with("a.example.com TLSv1.3"), "{passed:?}");
    }
}
