//! `steerage logs`: lines of the access log as they come.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use steerage::admin::client::{Error, Stream};

use crate::ask;

/// Where they come from.
const TARGET: &str = "/v1/access-log";

/// Before the daemon that followed, as at an upgrade, is asked.
const AGAIN: Duration = Duration::from_secs(1);

/// What a line begins with that says how many were left out.
const LEFT_OUT: u8 = 0x1e;

/// Prints them until nobody reads them any more, or there is no daemon.
pub fn run(socket: &Path) -> anyhow::Result<()> {
    ask(async {
        let mut stream = Stream::open(socket, TARGET).await?;
        let mut printer = Printer::default();
        loop {
            match stream.piece().await {
                Ok(Some(piece)) => {
                    if printer.print(&piece).is_err() {
                        return Ok::<_, Error>(());
                    }
                }
                _ => {
                    eprintln!("steerage: the daemon has ended; asking for another one");
                    tokio::time::sleep(AGAIN).await;
                    stream = Stream::open(socket, TARGET).await?;
                }
            }
        }
    })
}

/// Pieces may end within a line.
#[derive(Default)]
struct Printer {
    begun: Vec<u8>,
}

impl Printer {
    fn print(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.begun.extend_from_slice(piece);
        let whole = memchr::memrchr(b'\n', &self.begun).map_or(0, |end| end + 1);
        for line in self.begun[..whole].split_inclusive(|byte| *byte == b'\n') {
            match line.strip_prefix(&[LEFT_OUT]) {
                None => out.write_all(line)?,
                Some(count) => {
                    let count = String::from_utf8_lossy(count.trim_ascii_end()).into_owned();
                    eprintln!(
                        "steerage: {count} lines were left out: they come faster than they are read"
                    );
                }
            }
        }
        self.begun.drain(..whole);
        out.flush()
    }
}
