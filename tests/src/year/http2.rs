//! Requests side by side over HTTP/2.

use std::io;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{PATIENCE, Task};

/// Requests at a time on a connection.
const STREAMS: usize = 8;

/// Asks on one connection until the server lets it go, then on another one.
pub(super) fn ask(task: &Task) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    while !task.is_stopped() {
        let since = Instant::now();
        if let Err(error) = runtime.block_on(hold(task)) {
            task.lost(since, error);
        }
    }
}

async fn hold(task: &Task) -> io::Result<()> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(task.address)).await??;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let mut lanes = tokio::task::JoinSet::new();
    let since = Instant::now();
    // Each lane ends when the server takes no new streams.
    for _ in 0..STREAMS {
        let (mut sender, authority) = (sender.clone(), task.address);
        let (stopped, record) = (task.stopped.clone(), task.record.clone());
        let task = Task { stopped, record, address: authority };
        lanes.spawn(async move {
            while !task.is_stopped() && sender.ready().await.is_ok() {
                match one(&mut sender, &task).await {
                    Ok(true) => task.done(),
                    // The server did not take it: it is for another connection.
                    Ok(false) => return,
                    Err(error) => {
                        task.lost(since, error);
                        return;
                    }
                }
            }
        });
    }
    drop(sender);
    while lanes.join_next().await.is_some() {}
    driver.abort();
    Ok(())
}

/// One request; false if it certainly was not looked at.
async fn one(sender: &mut SendRequest<Empty<Bytes>>, task: &Task) -> io::Result<bool> {
    let request = Request::get(format!("http://{}/", task.address)).body(Empty::new());
    let request = request.map_err(io::Error::other)?;
    let answer = tokio::time::timeout(PATIENCE, sender.try_send_request(request)).await?;
    let response = match answer {
        Ok(response) => response,
        Err(error) if error.message().is_some() => return Ok(false),
        Err(error) => return Err(io::Error::other(format!("{:?}", error.into_error()))),
    };
    let status = response.status();
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await?;
    body.map_err(|error| io::Error::other(format!("body: {error:?}")))?;
    if status == 200 { Ok(true) } else { Err(io::Error::other(status.to_string())) }
}
