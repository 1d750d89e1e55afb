//! PROXY headers with other people's software on the other side: curl and HAProxy send them, nginx and
//! HAProxy take them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;

use steerage_lab::client::{Curl, curl};
use steerage_lab::topology::{BALANCER, CLIENT, backend_address};
use steerage_lab::wait;
use steerage_tests::certified::{self, Authority};
use steerage_tests::peer;
use steerage_tests::stand::{Choices, Stand, l7};

/// Where the listener answers that takes headers of the client's host.
fn believing() -> SocketAddr {
    SocketAddr::from((BALANCER, 8081))
}

fn choices() -> Choices {
    let more = format!(
        "[[listener]]\nname = \"behind\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
         proxy_protocol = {{ accept_from = [\"{CLIENT}\"] }}\n[[listener.route]]\nservice = \"app\"\n",
        believing()
    );
    Choices { weights: vec![1], more, ..Choices::default() }
}

fn ask(stand: &Stand, address: SocketAddr, arguments: &[&str]) -> Curl {
    let url = format!("http://{address}/head");
    curl(&stand.topology.client, &[arguments, &[&url]].concat()).unwrap()
}

#[test]
fn curl_is_believed_where_it_may_say_who_it_is_and_nowhere_else() {
    let stand = Stand::start(&choices()).unwrap();
    let believed = ask(&stand, believing(), &["--haproxy-protocol"]);
    assert_eq!((believed.exit, believed.status), (0, 200), "{believed:?}");
    assert!(believed.text.to_lowercase().contains("x-forwarded-for: 10.80.0.2\n"), "{believed:?}");
    let silent = ask(&stand, believing(), &[]);
    assert_ne!(silent.exit, 0, "{silent:?}");
    let forward = ask(&stand, l7(), &["--haproxy-protocol"]);
    assert_eq!((forward.exit, forward.status), (0, 400), "{forward:?}");
    assert_eq!(ask(&stand, l7(), &[]).status, 200);
    assert_eq!(stand.backend(1).requests(), 2);
}

#[test]
fn haproxy_tells_who_asks_with_every_note_that_it_has() {
    let stand = Stand::start(&choices()).unwrap();
    let client = &stand.topology.client;
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let way = |port, mode: &str, sends: &str| {
        format!(
            "listen way-{port}\n mode {mode}\n bind 127.0.0.1:{port}\n \
             unique-id-format %{{+X}}o\\ %ci:%cp\n server one {} {sends}\n",
            believing()
        )
    };
    let all = "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,authority,cert-cn";
    let sections = [
        way(7001, "tcp", "send-proxy"),
        way(7002, "http", all),
        way(7003, "tcp", "send-proxy-v2 check check-send-proxy inter 100ms"),
    ];
    let _haproxy = peer::haproxy(client, &stand.scratch, &sections.concat(), at(7003)).unwrap();
    for port in [7001, 7002, 7003] {
        let reply = ask(&stand, at(port), &[]);
        assert_eq!((reply.exit, reply.status), (0, 200), "{port}: {reply:?}");
        // The address at which HAProxy itself was asked, not that of its host.
        assert!(reply.text.to_lowercase().contains("x-forwarded-for: 127.0.0.1\n"), "{reply:?}");
    }
}

/// A stand whose second service is an nginx that wants a header, reached by HTTP and by bytes.
fn before_nginx(version: &str) -> (Stand, steerage_lab::process::Process) {
    let server = SocketAddr::from((backend_address(1), 8090));
    let front = |name: &str, port: u16, protocol: &str, to: &str| {
        let bind = SocketAddr::from((BALANCER, port));
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = [\"{bind}\"]\nprotocol = \"{protocol}\"\n{to}\n"
        )
    };
    let more = front("http", 8082, "http", "[[listener.route]]\nservice = \"nginx\"")
        + &front("bytes", 8083, "tcp", "service = \"nginx\"")
        + &format!(
            "[[service]]\nname = \"nginx\"\nupstream = {{ proxy_protocol = \"{version}\" }}\n\
             probe = {{ kind = \"http\", path = \"/\", interval = \"200ms\" }}\n\
             [[service.backend]]\naddress = \"{server}\"\n"
        );
    let stand = Stand::start(&Choices { weights: vec![1], more, ..Choices::default() }).unwrap();
    let http = format!(
        "server {{\n listen {server} proxy_protocol;\n location / {{\n return 200 \
         \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port $connection_requests\\n\";\n }}\n }}"
    );
    let host = &stand.topology.backends[0];
    let nginx = peer::nginx(host, &stand.scratch, &http, server).unwrap();
    wait::for_condition("nginx to be up", std::time::Duration::from_secs(20), || {
        let status = stand.daemon.status().unwrap();
        status["services"][1]["backends"][0]["state"] == "up"
    })
    .unwrap();
    (stand, nginx)
}

#[test]
fn nginx_learns_who_asks_by_either_version() {
    for version in ["v1", "v2"] {
        let (stand, _nginx) = before_nginx(version);
        for port in [8082, 8083] {
            let mut connection = stand.connect(SocketAddr::from((BALANCER, port))).unwrap();
            let me = connection.local_address().unwrap();
            for request in 1..=3 {
                let told = connection.get("/").unwrap().text();
                assert_eq!(told, format!("{me} {port} {request}\n"), "{version}");
            }
            // Another client is another one, whatever connections are idle.
            let mut other = stand.connect(SocketAddr::from((BALANCER, port))).unwrap();
            let it = other.local_address().unwrap();
            assert_eq!(other.get("/").unwrap().text(), format!("{it} {port} 1\n"), "{version}");
        }
    }
}

#[test]
fn a_backend_is_told_how_the_clients_tls_is() {
    let authority = Authority::new().unwrap();
    authority.sign("own", &["own.test"]).unwrap();
    let at = SocketAddr::from((BALANCER, 8445));
    let server = SocketAddr::from((backend_address(1), 8090));
    let https = certified::listener_at("secure", at, &[authority.entry("own")], "");
    let more = https.replace("service = \"app\"", "service = \"telling\"")
        + &format!(
            "[[service]]\nname = \"telling\"\nupstream = {{ proxy_protocol = \"v2\" }}\n\
             [[service.backend]]\naddress = \"{server}\"\n"
        );
    let stand = Stand::start(&Choices { weights: vec![1], more, ..Choices::default() }).unwrap();
    // HAProxy says what it was told.
    let sections = format!(
        "listen told\n mode http\n bind {server} accept-proxy\n http-request return status 200 \
         content-type text/plain lf-string \"%[fc_pp_authority]\\n\"\n"
    );
    let host = &stand.topology.backends[0];
    let _haproxy = peer::haproxy(host, &stand.scratch, &sections, server).unwrap();
    let (to, url) = (format!("own.test:8445:{BALANCER}"), "https://own.test:8445/");
    let ca = authority.ca();
    let reply =
        curl(&stand.topology.client, &["--resolve", &to, "--cacert", &ca, "--http2", url]).unwrap();
    assert_eq!((reply.exit, reply.status), (0, 200), "{reply:?}");
    assert_eq!(reply.text.trim(), "own.test");
}
