use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as Peer;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::tests::{each, on_each};
use super::super::{Stream, connect, run, sleep, spawn};
use super::*;

/// A stream and its other end, which does not block.
async fn pair() -> (Stream, Peer) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = connect(listener.local_addr().unwrap()).await.unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_nonblocking(true).unwrap();
    (stream, peer)
}

/// Reads until `count` bytes or the end have come, letting the event loop run meanwhile.
async fn read_from(peer: &mut Peer, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65536];
    while bytes.len() < count {
        match peer.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    bytes
}

fn has_nothing(peer: &mut Peer) -> bool {
    matches!(peer.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn small_writes_leave_together_at_the_end_of_the_turn() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"hello ").await.unwrap();
        stream.write_all(b"world").await.unwrap();
        stream.flush().await.unwrap();
        assert!(has_nothing(&mut peer));
        assert_eq!(turn::pending(), 1);
        assert_eq!(read_from(&mut peer, 11).await, b"hello world");
        assert_eq!(
            stream.tcp().inner.borrow().buffer.capacity(),
            0,
            "an idle stream holds no buffer"
        );
    });
}

#[test]
fn a_large_write_goes_at_once_and_after_what_waited() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        let large = pattern(DEFERRED_MAX);
        stream.write_all(b"first").await.unwrap();
        let head = [IoSlice::new(&large), IoSlice::new(b"last")];
        let written = stream.write_vectored(&head).await.unwrap();
        assert_eq!(written, large.len() + 4, "a fresh socket takes all of it");
        let mut expected = b"first".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"last");
        let mut received = vec![0; expected.len()];
        // Without a turn in between: the bytes are in the kernel already.
        peer.set_nonblocking(false).unwrap();
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received, expected);
    });
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        let bytes = pattern(32 << 20);
        let sent = bytes.clone();
        let writer = spawn(async move {
            for (at, chunk) in sent.chunks(5000).enumerate() {
                stream.write_all(chunk).await.unwrap();
                if at % 3 == 0 {
                    stream.flush().await.unwrap();
                }
            }
            stream.shutdown().await.unwrap();
        });
        sleep(Duration::from_millis(20)).await;
        assert!(!writer.is_finished(), "32 MiB do not fit the socket's buffers");
        assert!(read_from(&mut peer, usize::MAX).await == bytes);
        writer.await.unwrap();
    });
}

#[test]
fn shutdown_sends_what_is_deferred_and_then_the_end() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_from(&mut peer, usize::MAX).await, b"bye");
        peer.write_all(b"still here").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"still here");
    });
}

#[test]
fn a_dropped_stream_sends_what_is_deferred() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"last words").await.unwrap();
        drop(stream);
        assert_eq!(read_from(&mut peer, usize::MAX).await, b"last words");
    });
}

#[test]
fn a_dropped_stream_waits_for_a_slow_reader() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        let chunk = pattern(DEFERRED_MAX);
        let mut sent = 0;
        // Fills the socket; what the kernel refuses in the end stays in the stream's buffer.
        while !stream.tcp().inner.borrow().is_blocked {
            stream.write_all(&chunk).await.unwrap();
            sent += chunk.len();
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!stream.tcp().inner.borrow().waiting().is_empty());
        drop(stream);
        assert_eq!(read_from(&mut peer, usize::MAX).await.len(), sent);
    });
}

#[test]
fn bytes_go_out_when_main_ends() {
    for io in each() {
        let mut peer = run(io, async {
            let (mut stream, peer) = pair().await;
            stream.write_all(b"done").await.unwrap();
            peer
        })
        .unwrap();
        peer.set_nonblocking(false).unwrap();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"done");
    }
}

#[test]
fn an_error_surfaces_one_write_later() {
    on_each(|| async {
        let (mut stream, peer) = pair().await;
        // Unread bytes make the close a reset.
        stream.write_all(b"unread").await.unwrap();
        sleep(Duration::from_millis(1)).await;
        drop(peer);
        let mut written = 0;
        let error = loop {
            match stream.write_all(b"into the void").await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            sleep(Duration::from_millis(1)).await;
        };
        assert!(written >= 1, "the first write was merely deferred");
        assert!(
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{error}"
        );
        assert_eq!(stream.tcp().inner.borrow().waiting(), b"");
    });
}

#[test]
fn a_queue_that_never_empties_holds_nothing_back() {
    on_each(|| async {
        let (mut busy, mut busy_peer) = pair().await;
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"response").await.unwrap();
        // No await here lets the loop wait: this stands for tasks that are always runnable.
        let mut sink = [0; 4096];
        let received = loop {
            busy.write_all(&pattern(DEFERRED_MAX + 1)).await.unwrap();
            while busy_peer.read(&mut sink).is_ok() {}
            let mut received = [0; 8];
            if let Ok(read) = peer.read(&mut received) {
                break received[..read].to_vec();
            }
        };
        assert_eq!(received, b"response");
    });
}

#[test]
fn a_full_list_is_sent_at_once() {
    on_each(|| async {
        let mut pairs = Vec::new();
        for _ in 0..64 {
            pairs.push(pair().await);
        }
        for (stream, _) in &mut pairs {
            stream.write_all(b"x").await.unwrap();
        }
        assert_eq!(turn::pending(), 0);
        for (_, peer) in &mut pairs {
            peer.set_nonblocking(false).unwrap();
            peer.read_exact(&mut [0; 1]).unwrap();
        }
    });
}

/// Sends `request` after `before` was acknowledged, and waits for the FIN. Gives how many bytes of
/// it the other end's TCP acknowledged.
async fn acknowledged_of(stream: &mut Stream, before: u64, request: &[u8]) -> u64 {
    let progress = stream.progress();
    assert_eq!(progress.written(), before);
    stream.write_all(request).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    assert!(progress.is_ended());
    assert_eq!(progress.taken(), before + request.len() as u64);
    progress.acknowledged().unwrap() - before
}

#[test]
fn the_kernel_tells_whether_the_other_end_received_a_byte() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"first").await.unwrap();
        assert_eq!(read_from(&mut peer, 5).await, b"first");
        drop(peer);
        assert_eq!(acknowledged_of(&mut stream, 5, b"second").await, 0, "it had closed before");

        let (mut stream, mut peer) = pair().await;
        let reader = spawn(async move { read_from(&mut peer, 7).await });
        assert_eq!(acknowledged_of(&mut stream, 0, b"request").await, 7, "it closed after reading");
        assert_eq!(reader.await.unwrap(), b"request");
    });
}

#[test]
fn what_is_withdrawn_is_not_sent() {
    on_each(|| async {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"request").await.unwrap();
        let progress = stream.progress();
        progress.withdraw();
        assert_eq!((progress.taken(), progress.written()), (0, 0));
        drop((stream, progress));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(peer.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
