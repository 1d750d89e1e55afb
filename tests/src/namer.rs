//! Servers that answer each byte with their name, for tests with very many connections: a process each, with
//! one thread (`src/bin/namer.rs`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steerage_lab::netns::{Netns, wait_for_port};
use steerage_lab::process::Process;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a server called `name` in a host; `program` is where cargo has put it.
///
/// # Errors
/// If it does not listen in time.
pub fn start(program: &Path, netns: &Netns, address: SocketAddr, name: u8) -> Result<Process> {
    let mut command = netns.command(program);
    command.args([address.to_string(), name.to_string()]);
    let process = Process::spawn("namer", command, Path::new("/dev/null"))?;
    wait_for_port(netns, address, PATIENCE)?;
    Ok(process)
}

/// A connection, and who was at its other end first.
#[derive(Debug)]
pub struct Flow {
    connection: TcpStream,
    /// The server's name.
    pub name: u8,
}

impl Flow {
    /// Begins so many, one after the other.
    ///
    /// # Errors
    /// If one can't connect, or has no answer.
    pub fn begin(netns: &Netns, address: SocketAddr, count: usize) -> Result<Vec<Self>> {
        netns.enter(|| {
            let begin = |number| {
                let connect = || -> Result<Self> {
                    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
                    connection.set_read_timeout(Some(PATIENCE))?;
                    connection.set_nodelay(true)?;
                    let mut flow = Self { connection, name: 0 };
                    flow.name = flow.ask()?;
                    Ok(flow)
                };
                connect().with_context(|| format!("connection {number} to {address}"))
            };
            (0..count).map(begin).collect()
        })?
    }

    /// Who answers now.
    ///
    /// # Errors
    /// If nobody does.
    pub fn ask(&mut self) -> Result<u8> {
        let mut answer = [0];
        self.connection.write_all(b"?")?;
        self.connection.read_exact(&mut answer)?;
        ensure!(answer[0] != 0, "no server is called 0");
        Ok(answer[0])
    }

    /// How many of these flows are answered by another server than before, or by none.
    pub fn moved(flows: &mut [Self]) -> usize {
        let mut moved = 0;
        for flow in flows {
            let stays = flow.ask().is_ok_and(|name| name == flow.name);
            moved += usize::from(!stays);
        }
        moved
    }
}
