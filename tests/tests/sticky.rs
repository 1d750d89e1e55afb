//! Clients with a cookie stay with their backend through whatever happens to the daemon, and move only
//! when their backend is gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use steerage_lab::client::Connection;
use steerage_lab::{command, daemon, process, topology, wait};
use steerage_tests::stand::{Choices, Stand, l7, name};

const PATIENCE: Duration = Duration::from_secs(20);

/// Clients at a time.
const THREADS: usize = 8;

/// Sessions, unless `STEERAGE_SESSIONS` says otherwise.
const SESSIONS: usize = 1_000;

const SERVICE: &str = "balance = \"random\"\nsticky = { cookie = \"SRV\" }\n\
    probe = { kind = \"http\", path = \"/health\", interval = \"200ms\", timeout = \"150ms\" }\n";

/// A client with its cookie.
struct Session {
    cookie: Option<String>,
    /// Who answered last.
    backend: String,
}

/// What one round of requests, one of each session, came to.
#[derive(Default)]
struct Round {
    /// Sessions that another backend answered than before, by the one before.
    moved: BTreeMap<String, usize>,
    failed: usize,
}

impl Round {
    fn moved(&self) -> usize {
        self.moved.values().sum()
    }
}

/// Makes a request of the session, on a new connection if the old one is gone.
fn request(
    connection: &mut Option<Connection>,
    session: &Session,
) -> std::io::Result<(u16, String, Option<String>)> {
    let cookie = session.cookie.as_ref().map(|value| format!("Cookie: SRV={value}\r\n"));
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", cookie.unwrap_or_default());
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open_here(l7(), PATIENCE)?,
    };
    open.send(request.as_bytes())?;
    let response = open.response()?;
    let set = response.head.header("set-cookie").map(|line| {
        let value = line.strip_prefix("SRV=").unwrap().split(';').next().unwrap();
        value.to_owned()
    });
    if !response.head.closes() {
        *connection = Some(open);
    }
    Ok((response.status, response.text().trim().to_owned(), set))
}

/// One request of each session.
fn round(stand: &Stand, sessions: &mut [Session]) -> Round {
    let share = sessions.len().div_ceil(THREADS);
    let rounds: Vec<Round> = stand
        .topology
        .client
        .enter(|| {
            std::thread::scope(|scope| {
                let work = |part: &mut [Session]| {
                    let (mut round, mut connection) = (Round::default(), None);
                    for session in part {
                        // A connection may have ended since the last round, as idle ones do.
                        let answer = request(&mut connection, session)
                            .or_else(|_| request(&mut connection, session));
                        let Ok((200, backend, set)) = answer else {
                            round.failed += 1;
                            continue;
                        };
                        if backend != session.backend {
                            *round.moved.entry(session.backend.clone()).or_default() += 1;
                            assert!(set.is_some(), "moved to {backend} without a new cookie");
                        }
                        session.backend = backend;
                        session.cookie = set.or(session.cookie.take());
                    }
                    round
                };
                let threads: Vec<_> = sessions
                    .chunks_mut(share)
                    .map(|part| scope.spawn(move || work(part)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            })
        })
        .unwrap();
    rounds.into_iter().fold(Round::default(), |mut sum, round| {
        sum.failed += round.failed;
        for (backend, count) in round.moved {
            *sum.moved.entry(backend).or_default() += count;
        }
        sum
    })
}

fn count(sessions: &[Session], backend: u8) -> usize {
    sessions.iter().filter(|session| session.backend == name(backend)).count()
}

fn order(stand: &Stand, what: &str, number: u8) {
    let mut order = Command::new(daemon::binary().unwrap());
    order.args(["backend", what, &topology::backend_socket(number).to_string()]);
    if what == "drain" {
        order.arg("--no-wait");
    }
    command::output(order.arg("-c").arg(&stand.config)).unwrap();
}

fn tell(what: &str, round: &Round, allowed: &str) {
    println!("{what:<44} | {:>5} | {:>6} | {allowed}", round.moved(), round.failed);
    assert_eq!(round.failed, 0, "{what}");
}

/// Nobody may have moved.
fn nobody(what: &str, round: &Round) {
    tell(what, round, "nobody");
    assert!(round.moved.is_empty(), "{what}: {:?}", round.moved);
}

/// All of one backend must have moved, and nobody else.
fn only(what: &str, round: &Round, number: u8, all: usize) {
    tell(what, round, &format!("the {all} of {}", name(number)));
    assert_eq!(round.moved, BTreeMap::from([(name(number), all)]), "{what}");
}

#[test]
fn sessions_move_only_for_a_good_reason() {
    let wanted = std::env::var("STEERAGE_SESSIONS").ok().and_then(|n| n.parse().ok());
    let wanted = wanted.unwrap_or(SESSIONS);
    let choices = Choices { weights: vec![1; 5], service: SERVICE, ..Choices::default() };
    let mut stand = Stand::start(&choices).unwrap();
    let full = std::fs::read_to_string(&stand.config).unwrap();
    let without = |text: &str, number: u8| {
        let entry = format!(
            "[[service.backend]]\naddress = \"{}\"\nweight = 1\ntier = 0\n",
            topology::backend_socket(number)
        );
        assert!(text.contains(&entry));
        text.replace(&entry, "")
    };
    let four = without(&full, 5);
    stand.reconfigure(&four).unwrap();

    println!("{:<44} | moved | failed | allowed", format!("{wanted} sessions"));
    let mut sessions: Vec<Session> =
        (0..wanted).map(|_| Session { cookie: None, backend: String::new() }).collect();
    let first = round(&stand, &mut sessions);
    assert_eq!((first.failed, first.moved()), (0, wanted));
    let nobody_moves = |what: &str, stand: &Stand, sessions: &mut [Session]| {
        nobody(what, &round(stand, sessions));
    };
    nobody_moves("nothing", &stand, &mut sessions);

    let other = full
        .replace("balance = \"random\"", "balance = \"least_requests\"")
        .replace("8080\"\nweight = 1", "8080\"\nweight = 7");
    stand.reconfigure(&other).unwrap();
    nobody_moves("reload: weights, balance, one more backend", &stand, &mut sessions);

    let victim = stand.daemon.workers().unwrap()[0];
    kill_process(process::pid(victim).unwrap(), Signal::KILL).unwrap();
    wait::for_condition("a new worker", PATIENCE, || {
        let now = stand.daemon.workers().unwrap();
        now.len() == 2 && !now.contains(&victim)
    })
    .unwrap();
    nobody_moves("a worker is killed", &stand, &mut sessions);

    order(&stand, "drain", 1);
    nobody_moves("backend-1 drains", &stand, &mut sessions);
    order(&stand, "maintenance", 1);
    let of_first = count(&sessions, 1);
    only("backend-1 is put out", &round(&stand, &mut sessions), 1, of_first);
    order(&stand, "undrain", 1);
    stand.daemon.wait_available(5).unwrap();
    nobody_moves("backend-1 is back", &stand, &mut sessions);

    stand.kill_backend(2);
    stand.daemon.wait_available(4).unwrap();
    let of_second = count(&sessions, 2);
    only("backend-2 dies", &round(&stand, &mut sessions), 2, of_second);
    stand.revive_backend(2).unwrap();
    stand.daemon.wait_available(5).unwrap();
    nobody_moves("backend-2 is back", &stand, &mut sessions);

    let of_third = count(&sessions, 3);
    stand.reconfigure(&without(&full, 3)).unwrap();
    only("backend-3 is removed by a reload", &round(&stand, &mut sessions), 3, of_third);

    stand.daemon.leave_pins();
    assert!(stand.daemon.terminate().unwrap().success());
    stand.daemon = stand.successor().unwrap();
    stand.daemon.wait_available(4).unwrap();
    nobody_moves("the daemon is restarted", &stand, &mut sessions);
}
