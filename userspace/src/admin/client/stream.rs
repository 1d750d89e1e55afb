//! An answer that goes on until one side has enough of it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::AbortHandle;

use super::{ANSWER_TIMEOUT, Error, begin, refused};

/// The largest event that is taken: of every backend that a host can have, several times over.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// The answer.
#[derive(Debug)]
pub struct Stream {
    path: PathBuf,
    body: Incoming,
    connection: AbortHandle,
    /// What was received of the next event.
    rest: Vec<u8>,
}

/// An event of the server: what it is called, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Stream {
    /// Asks for one.
    ///
    /// # Errors
    /// If the daemon is not there, or refuses.
    pub async fn open(path: &Path, target: &str) -> Result<Self, Error> {
        let begun = begin(path, Method::GET, target, Bytes::new());
        let begun = tokio::time::timeout(ANSWER_TIMEOUT, begun).await;
        let (response, connection) = begun.unwrap_or(Err(Error::Timeout { path: path.into() }))?;
        let (head, body) = response.into_parts();
        let stream = Self { path: path.to_owned(), body, connection, rest: Vec::new() };
        if head.status.is_success() {
            return Ok(stream);
        }
        let said = stream.body_text().await?;
        Err(refused(head.status, said.as_bytes()))
    }

    async fn body_text(mut self) -> Result<String, Error> {
        let mut text = Vec::new();
        while let Some(piece) = self.piece().await? {
            text.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// If the daemon breaks off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|source| Error::Http { path: self.path.clone(), source })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// If the daemon breaks off, or an event has no end.
    pub async fn event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = take_event(&mut self.rest) {
                return Ok(Some(event));
            }
            if self.rest.len() > EVENT_BYTES_MAX {
                return Err(Error::Endless);
            }
            let Some(piece) = self.piece().await? else { return Ok(None) };
            self.rest.extend_from_slice(&piece);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Takes the first event out of `received`, if all of it is there. Ours have one line of each field.
fn take_event(received: &mut Vec<u8>) -> Option<Event> {
    let end = memchr::memmem::find(received, b"\n\n")?;
    let rest = received.split_off(end + 2);
    let text = std::mem::replace(received, rest);
    let mut event = Event::default();
    for line in String::from_utf8_lossy(&text).lines() {
        match line.split_once(": ") {
            Some(("event", name)) => name.clone_into(&mut event.name),
            Some(("data", data)) => data.clone_into(&mut event.data),
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_when_they_are_whole() {
        let mut received = b"event: a\ndata: {\"x\": 1}\n\n: nothing\n\nevent: b\nda".to_vec();
        let first = take_event(&mut received).unwrap();
        assert_eq!((&*first.name, &*first.data), ("a", "{\"x\": 1}"));
        assert_eq!(take_event(&mut received), Some(Event::default()));
        assert_eq!(take_event(&mut received), None);
        received.extend_from_slice(b"ta: z\n\n");
        let last = take_event(&mut received).unwrap();
        assert_eq!((&*last.name, &*last.data, received.len()), ("b", "z", 0));
    }
}
