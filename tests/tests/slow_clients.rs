//! Thousands of clients that ask slowly, or nothing at all, cost little and hinder nobody.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use steerage_lab::poller::{Poller, Reuse};
use steerage_lab::process::resident_bytes;
use steerage_lab::topology::BALANCER;
use steerage_lab::wait;
use steerage_tests::stand::{Choices, Stand, l7};

const CLIENTS: usize = 5000;

/// Seconds for which they send.
const SECONDS: usize = 5;

/// What a connection without a whole request may cost a worker.
const BYTES_MAX: u64 = 8 * 1024;

/// A listener that lets its clients take their time.
fn patient() -> SocketAddr {
    SocketAddr::from((BALANCER, 8081))
}

#[test]
fn five_thousand_clients_that_send_a_byte_a_second_hinder_nobody() {
    let more = format!(
        "[[listener]]\nname = \"patient\"\nbind = [\"{}\"]\nprotocol = \"http\"\n\
         timeouts = {{ header_read = \"10m\", idle = \"10m\" }}\n\
         [[listener.route]]\nservice = \"app\"\n",
        patient()
    );
    let choices = Choices { workers: 1, weights: vec![1], more, ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let worker = stand.daemon.workers().unwrap()[0];
    // Asked at the listener in question, so that all who came before are accepted.
    let resident = || {
        assert_eq!(stand.connect(patient()).unwrap().get("/").unwrap().status, 200);
        resident_bytes(worker).unwrap()
    };
    let empty = resident();
    let each = |now: u64| now.saturating_sub(empty) / CLIENTS as u64;

    let connect = || TcpStream::connect(patient()).unwrap();
    let connect_all = || (0..CLIENTS).map(|_| connect()).collect::<Vec<_>>();
    let mut clients = stand.topology.client.enter(connect_all).unwrap();
    let silent = each(resident());
    let send_all = |clients: &mut [TcpStream], bytes: &[u8]| {
        clients.iter_mut().for_each(|client| client.write_all(bytes).unwrap());
    };
    send_all(&mut clients, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    let begun = each(resident());

    // A request a millisecond and more, by three who hardly pause.
    let poller = || Poller::start(&stand.topology.client, l7(), Reuse::KeepAlive).unwrap();
    let pollers = [poller(), poller(), poller()];
    for _ in 0..SECONDS {
        // Spread over the second: a burst would overflow the link's queue.
        for some in clients.chunks_mut(CLIENTS / 50) {
            send_all(some, b"x");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let mut samples: Vec<_> = pollers.into_iter().flat_map(Poller::stop).collect();
    samples.sort_by_key(|sample| sample.at);
    let slow = each(resident());
    let failed: Vec<_> = samples.iter().filter(|sample| sample.answer.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    // Between any two answers: whatever hinders, hinders all of them.
    let mut pauses: Vec<_> = samples.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    pauses.sort_unstable();
    println!(
        "beside {CLIENTS} slow clients: {} requests in {SECONDS} s; between two answers \
         {:?} (median), {:?} (99 %), {:?} at most",
        samples.len(),
        pauses[pauses.len() / 2],
        pauses[pauses.len() * 99 / 100],
        pauses[pauses.len() - 1],
    );

    // They are all still there, and get their answers.
    for client in &mut clients {
        client.write_all(b"\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    let answered = each(resident());
    println!(
        "bytes of the worker for each: {silent} silent, {begun} with half a head, {slow} after \
         {SECONDS} bytes more, {answered} just after an answer"
    );
    assert!(silent < BYTES_MAX && begun < BYTES_MAX && slow < BYTES_MAX);
    let is_small = || each(resident()) < BYTES_MAX;
    wait::for_condition("idle clients do without hyper", Duration::from_secs(20), is_small)
        .unwrap();
    println!("and {} when idle again", each(resident()));
}
