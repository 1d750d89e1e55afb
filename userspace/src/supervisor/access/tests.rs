//! The way of lines from a worker's socket to their destination.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::net::{SendFlags, send};

use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("steerage-access-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> Destination {
        Destination::File(self.0.join(name))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn say(worker: &OwnedFd, batch: &str) {
    send(worker, batch.as_bytes(), SendFlags::NOSIGNAL).unwrap();
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < patience, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_workers_said_before_they_ended_is_written() {
    let directory = Directory::new("end");
    let log = AccessLog::start(&directory.file("log")).unwrap();
    let workers = [log.tap().connect().unwrap(), log.tap().connect().unwrap()];
    for (number, worker) in workers.iter().enumerate() {
        for line in 0..100 {
            say(worker, &format!("{number} {line}\n"));
        }
    }
    drop(workers);
    log.finish().await;
    let text = directory.text("log");
    for number in 0..2 {
        let of_worker = text.lines().filter(|line| line.starts_with(&format!("{number} ")));
        let expected: Vec<_> = (0..100).map(|line| format!("{number} {line}")).collect();
        assert_eq!(of_worker.collect::<Vec<_>>(), expected);
    }
    let mode = fs::metadata(directory.0.join("log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "others may not read it: {mode:o}");
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew() {
    let directory = Directory::new("rotate");
    let log = AccessLog::start(&directory.file("log")).unwrap();
    let worker = log.tap().connect().unwrap();
    say(&worker, "one\n");
    until("the first line is there", || directory.text("log") == "one\n").await;
    fs::rename(directory.0.join("log"), directory.0.join("log.1")).unwrap();
    say(&worker, "two\n");
    until("it goes on", || directory.text("log.1") == "one\ntwo\n").await;
    log.tap().order(Order::Reopen);
    until("there is a new one", || directory.0.join("log").exists()).await;
    say(&worker, "three\n");
    until("it goes there", || directory.text("log") == "three\n").await;
}

#[tokio::test]
async fn another_destination_is_opened_before_it_is_used() {
    let directory = Directory::new("turn");
    let log = AccessLog::start(&Destination::Off).unwrap();
    let worker = log.tap().connect().unwrap();
    let tap = log.tap();
    let error = tap.prepare(&directory.file("none/log")).unwrap_err().to_string();
    assert!(error.contains("none/log") && error.contains("No such file"), "{error}");
    tap.turn_to(tap.prepare(&directory.file("log")).unwrap());
    assert!(tap.prepare(&directory.file("log")).unwrap().0.is_none(), "it is the same");
    say(&worker, "one\n");
    until("it is written", || directory.text("log") == "one\n").await;
    tap.turn_to(tap.prepare(&Destination::Off).unwrap());
    say(&worker, "two\n");
    until("what was under way is written", || directory.text("log") == "one\ntwo\n").await;
    drop(worker);
    log.finish().await;
}

#[tokio::test]
async fn a_full_disk_is_counted_line_by_line() {
    let log = AccessLog::start(&Destination::File("/dev/full".into())).unwrap();
    let (worker, tap) = (log.tap().connect().unwrap(), log.tap());
    say(&worker, "one\ntwo\n");
    say(&worker, "three\n");
    until("it is known", || tap.lost() == 3).await;
}

#[tokio::test]
async fn a_fifo_that_nobody_reads_is_refused() {
    let directory = Directory::new("fifo");
    let path = directory.0.join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .unwrap();
    assert!(AccessLog::start(&Destination::File(path)).is_err());
}

#[tokio::test]
async fn log_daemons_get_a_datagram_a_line_and_are_found_again() {
    let directory = Directory::new("daemons");
    let path = directory.0.join("socket");
    for (destination, head, tail) in [
        (Destination::Syslog(path.clone()), "<134>", "]: one"),
        (
            Destination::Journal(path.clone()),
            "PRIORITY=6\nSYSLOG_FACILITY=16\nSYSLOG_IDENTIFIER=steerage\n",
            "MESSAGE=one\n",
        ),
    ] {
        assert!(AccessLog::start(&destination).is_err(), "nobody is there");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let log = AccessLog::start(&destination).unwrap();
        let (worker, tap) = (log.tap().connect().unwrap(), log.tap());
        say(&worker, "one\none\n");
        daemon.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let hear = |daemon: &UnixDatagram| {
            let mut text = [0; 1024];
            let length = daemon.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap()
        };
        // The reader is a task of this thread.
        let heard = tokio::task::spawn_blocking(move || [hear(&daemon), hear(&daemon)]);
        for text in heard.await.unwrap() {
            assert!(text.starts_with(head) && text.ends_with(tail), "{text}");
        }
        fs::remove_file(&path).unwrap();
        say(&worker, "two\n");
        until("it is known to be lost", || tap.lost() == 1).await;
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        say(&worker, "three\n");
        let text = tokio::task::spawn_blocking(move || hear(&daemon)).await.unwrap();
        assert!(text.contains("three"), "{text}");
        fs::remove_file(&path).unwrap();
    }
}
