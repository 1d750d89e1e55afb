//! Servers that answer each byte with their name, for tests with very many connections: all of them on one
//! thread.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use steerage_lab::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Running servers; dropping it closes them with their connections.
#[derive(Debug)]
pub struct Namers {
    // Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Namers {
    /// Serves in each host at the address that comes with it; the first one is called 1.
    ///
    /// # Errors
    /// If it can't listen there.
    pub fn start<'a>(hosts: impl IntoIterator<Item = (&'a Netns, SocketAddr)>) -> Result<Self> {
        let mut listeners = Vec::new();
        for (netns, address) in hosts {
            let listener = netns.enter(|| TcpListener::bind(address))??;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                for (name, listener) in (1..).zip(listeners) {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => drop(tokio::spawn(serve(name, listener))),
                        Err(error) => eprintln!("server {name} does not serve: {error}"),
                    }
                }
                let _ = stopped.await;
            });
        });
        Ok(Self { _stop: stop })
    }
}

async fn serve(name: u8, listener: tokio::net::TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut byte = [0];
            while connection.read_exact(&mut byte).await.is_ok() {
                if connection.write_all(&[name]).await.is_err() {
                    return;
                }
            }
        });
    }
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
