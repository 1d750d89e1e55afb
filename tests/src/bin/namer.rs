//! Answers each byte of each connection with its name: `namer ADDRESS NAME`, for ever.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("namer ADDRESS NAME");
    let address: SocketAddr = next()?.parse()?;
    let name: u8 = next()?.parse()?;
    // Each connection has a descriptor.
    steerage::sys::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (mut connection, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut byte = [0];
                while connection.read_exact(&mut byte).await.is_ok() {
                    if connection.write_all(&[name]).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}
