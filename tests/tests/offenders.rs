//! Whom a listener refuses again and again the packet programs hold back: for everybody's sake, for a while,
//! and nobody else. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use steerage_lab::client::{Connection, Curl, curl};
use steerage_lab::topology::{BALANCER, CLIENT_LINK};
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand};

const PATIENCE: Duration = Duration::from_secs(30);
/// Another client on the same host.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 7);
/// curl's exit status when the time is over.
const TIMED_OUT: i32 = 28;

fn guarded() -> SocketAddr {
    SocketAddr::from((BALANCER, 8090))
}

/// A guarded listener of few connections for each address, and a guard.
fn listener(bind: &str, guard: &str) -> String {
    format!(
        "[[listener]]\nname = \"edge\"\nbind = [\"{bind}:8090\"]\nprotocol = \"http\"\n\
         interface = \"{CLIENT_LINK}\"\noffenders = {{ strikes = 6, hold = \"4s\" }}\n\
         limits = {{ connections_per_address = 2 }}\n[[listener.route]]\nservice = \"app\"\n\
         [guard]\n{guard}\n"
    )
}

fn stand(bind: &str, guard: &str) -> Stand {
    let choices = Choices { more: listener(bind, guard), ..Choices::default() };
    Stand::start_with(&choices, |topology| {
        topology.client.ip(&format!("address add {OTHER}/24 dev eth0")).map(drop)
    })
    .unwrap()
}

/// Asks the guarded listener, from the other client's address if `is_other`.
fn ask(stand: &Stand, is_other: bool) -> Curl {
    let (url, other) = (format!("http://{}/", guarded()), OTHER.to_string());
    let mut arguments = vec!["--max-time", "1", &url];
    if is_other {
        arguments.extend(["--interface", &other]);
    }
    curl(&stand.topology.client, &arguments).unwrap()
}

fn reason(stand: &Stand, name: &str) -> u64 {
    let status = stand.daemon.status().unwrap();
    let reasons = status["l4_reasons"].as_array().unwrap();
    let found = reasons.iter().find(|reason| reason["name"] == name);
    found.and_then(|reason| reason["count"].as_u64()).unwrap()
}

#[test]
fn one_that_is_refused_again_and_again_is_held_back_for_a_while_and_nobody_else() {
    for bind in ["10.80.0.1", "0.0.0.0"] {
        let stand = stand(bind, "");
        assert_eq!(ask(&stand, false).status, 200, "{}", stand.daemon.log());
        let mut kept: Vec<Connection> = Vec::new();
        // Connections that stay take all places; more are refused, until nobody answers at all.
        wait::for_condition("the client to be held back", PATIENCE, || {
            if kept.len() < 12
                && let Ok(connection) = Connection::open(Some(&stand.topology.client), guarded())
            {
                kept.push(connection);
            }
            ask(&stand, false).exit == TIMED_OUT
        })
        .unwrap();
        assert!(reason(&stand, "offender") > 0, "{bind}");
        assert_eq!(ask(&stand, true).status, 200, "{bind}: another address");
        assert_eq!(stand.curl("/", &[]).unwrap().status, 200, "{bind}: a listener without a guard");
        // Its connections are there still, so that what it hears is that there are too many.
        wait::for_condition("its time to be over", PATIENCE, || ask(&stand, false).status == 429)
            .unwrap();
    }
}

#[test]
fn a_listener_s_guard_follows_a_reload() {
    let stand = stand("10.80.0.1", "");
    assert_eq!(ask(&stand, true).status, 200);
    let with = |guard: &str| {
        let choices = Choices { more: listener("10.80.0.1", guard), ..Choices::default() };
        choices.config(&stand.scratch)
    };
    let answer = stand.reconfigure(&with("deny = [\"10.80.0.7\"]")).unwrap();
    assert!(answer["changes"].to_string().contains("guard.deny"), "{answer}");
    assert_eq!(ask(&stand, true).exit, TIMED_OUT);
    assert_eq!(ask(&stand, false).status, 200);
    assert!(reason(&stand, "denied") > 0);
    stand.reconfigure(&with("")).unwrap();
    assert_eq!(ask(&stand, true).status, 200);
}
