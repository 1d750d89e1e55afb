use std::io::Write as _;
use std::net::TcpStream as Peer;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::super::tests::on_each;
use super::super::{sleep, spawn};
use super::*;

fn listening() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn pieces_of_every_size_arrive_whole() {
    on_each(|| async {
        let (listener, address) = listening();
        let mut stream = connect(address).await.unwrap();
        let mut peer = listener.accept().unwrap().0;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || {
            let mut rest = &sent[..];
            // Short ones, ones that just fill a receive buffer, long ones, and back again.
            for size in [1, 100, 4095, 4096, 4097, 70_000, 900_000, 9, 8192, 3, 500_000].repeat(2) {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                peer.write_all(piece).unwrap();
                rest = after;
                std::thread::yield_now();
            }
            peer.write_all(rest).unwrap();
        });
        let mut received = Vec::new();
        let mut sizes = [37, 5000, 4096, 131_072].into_iter().cycle();
        loop {
            let mut piece = vec![0; sizes.next().unwrap()];
            let read = stream.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            received.extend_from_slice(&piece[..read]);
            if received.len() % 3 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        writer.join().unwrap();
        assert!(received == bytes);
    });
}

#[test]
fn a_waiting_reader_hears_of_a_reset_at_once() {
    on_each(|| async {
        let (listener, address) = listening();
        let mut stream = connect(address).await.unwrap();
        let peer = listener.accept().unwrap().0;
        let reader = spawn(async move { stream.read(&mut [0; 16]).await });
        sleep(Duration::from_millis(1)).await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let error = reader.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_failed_connect_says_why() {
    on_each(|| async {
        let (listener, address) = listening();
        drop(listener);
        let error = connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn no_connection_is_lost_when_accepting_pauses_and_stops() {
    on_each(|| async {
        let (socket, address) = listening();
        let listener = Listener::new(socket).unwrap();
        let mut clients: Vec<Peer> = (0..40).map(|_| Peer::connect(address).unwrap()).collect();
        let mut accepted = Vec::new();
        while accepted.len() < 10 {
            accepted.push(poll_fn(|cx| listener.poll_accept(cx)).await.unwrap());
        }
        listener.pause();
        sleep(Duration::from_millis(1)).await;
        accepted.push(poll_fn(|cx| listener.poll_accept(cx)).await.unwrap());
        listener.stop();
        clients.extend((0..10).map(|_| Peer::connect(address).unwrap()));
        while let Some(connection) = listener.accept_waiting().await.unwrap() {
            accepted.push(connection);
        }
        drop(listener);
        let mut peers: Vec<_> = accepted.iter().map(|(_, peer)| *peer).collect();
        let mut expected: Vec<_> = clients.iter().map(|it| it.local_addr().unwrap()).collect();
        peers.sort();
        expected.sort();
        assert_eq!(peers, expected);
    });
}
