//! The page as it is served: what it may do, and who may give orders.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::answer::tests::Fake;
use super::super::server::serve_metrics;
use super::*;

const TOKEN: &str = "correct-horse-battery-staple";

/// A metrics address that a fake answers on.
struct Served {
    address: SocketAddr,
    daemon: Arc<Fake>,
    token: PathBuf,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(name: &str, has_token: bool) -> Self {
        let token = std::env::temp_dir().join(format!("steerage-{name}-{}", std::process::id()));
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let daemon = Arc::new(Fake { token: has_token.then(|| token.clone()), ..Fake::default() });
        let server = tokio::spawn(serve_metrics(listener, Subject::new(daemon.clone())));
        Self { address, daemon, token, server }
    }

    /// Sends a request with these lines in its head; gives what comes until `end`, or the connection's.
    async fn ask(&self, request: &str, lines: &[&str], end: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: here:9900\r\n{}\r\n", lines.concat());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(end) {
            if stream.read_buf(&mut said).await.unwrap() == 0 {
                break;
            }
        }
        String::from_utf8(said).unwrap()
    }

    async fn status(&self, request: &str, lines: &[&str]) -> u16 {
        let said = self.ask(request, &[lines, &["Connection: close\r\n"]].concat(), "\0").await;
        said.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_file(&self.token);
    }
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script_and_loads_nothing() {
    let served = Served::start("page", false).await;
    let said = served.ask("GET /", &["Connection: close\r\n"], "\0").await;
    let (head, page) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(page == PAGE);
    for expected in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "connect-src 'self'; ",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");
    for tag in ["<script", "<style"] {
        assert_eq!(PAGE.matches(tag).count(), 1, "its hash is one");
    }
    assert!(!element("script").is_empty() && !element("style").is_empty());
    // Nothing that makes markup of a text, and nothing that the policy refuses.
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        " style=",
        " onclick=",
    ] {
        assert!(!PAGE.contains(way), "{way}");
    }
    let links = PAGE.matches("http://").count() + PAGE.matches("https://").count();
    assert_eq!(links, PAGE.matches("http://www.w3.org/2000/svg").count(), "names of SVG alone");
}

#[tokio::test]
async fn without_a_token_there_are_no_orders() {
    let served = Served::start("tokenless", false).await;
    let target = "POST /v1/services/api/backends/10.0.0.1:80/undrain";
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(served.status(target, &[&bearer]).await, 404);
    assert_eq!(served.status("GET /v1/status", &[]).await, 404);
    assert_eq!(served.status("POST /events", &[]).await, 405);
    assert_eq!(served.status("GET /metrics", &[]).await, 200);
    let events = served.ask("GET /events", &[], "\n\n").await;
    assert!(events.contains("text/event-stream"), "{events}");
    let events = served.ask("GET /events", &[], "more_troubled").await;
    assert!(events.contains("\"orders\":false"), "{events}");
}

#[tokio::test]
async fn orders_need_the_token_and_are_not_taken_from_another_site() {
    let served = Served::start("token", true).await;
    let order = "POST /v1/services/api/backends/10.0.0.1:80/undrain";
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let wrong = right.replace("staple", "stapld");
    let longer = right.replace("staple", "stapler");
    for (request, lines, expected) in [
        (order, vec![], 401),
        (order, vec![&*wrong], 401),
        (order, vec![&*longer], 401),
        (order, vec!["Authorization: Basic dTpw\r\n"], 401),
        (order, vec![&*right], 204),
        (order, vec![&*right, "Origin: http://here:9900\r\n"], 204),
        (order, vec![&*right, "Origin: http://there:9900\r\n"], 403),
        (order, vec![&*right, "Origin: null\r\n"], 403),
        // The rest of the admin socket is not here.
        ("GET /v1/status", vec![&*right], 404),
        ("GET /v1/services/api/backends/10.0.0.1:80/undrain", vec![&*right], 404),
        ("POST /v1/config/reload", vec![&*right], 404),
        ("DELETE /v1/services/api/backends/10.0.0.1:80", vec![&*right], 404),
        ("POST /v1/services/api/backends/10.0.0.2:80/undrain", vec![&*right], 404),
    ] {
        assert_eq!(served.status(request, &lines).await, expected, "{request} {lines:?}");
    }
    // Another token counts at once; none lets nobody in.
    std::fs::write(&served.token, "another-token-of-some-length").unwrap();
    assert_eq!(served.status(order, &[&right]).await, 401);
    std::fs::write(&served.token, "short").unwrap();
    assert_eq!(served.status(order, &["Authorization: Bearer short\r\n"]).await, 500);
}

#[tokio::test]
async fn one_snapshot_serves_all_who_watch_and_none_is_taken_for_nobody() {
    let served = Served::start("watched", false).await;
    let looks = || served.daemon.looks.load(Ordering::Relaxed);
    assert_eq!(looks(), 0);
    let watch = async |target: &str| {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let read_until = async |stream: &mut TcpStream, expected: &str, count: usize| {
        let mut said = Vec::new();
        while String::from_utf8_lossy(&said).matches(expected).count() < count {
            assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0);
        }
        String::from_utf8(said).unwrap()
    };
    let mut watchers = Vec::new();
    for at in 0..WATCHERS_MAX {
        watchers.push(watch(if at == 0 { "/events?open=api&open=b%20c" } else { "/events" }).await);
    }
    let said = read_until(&mut watchers[0], "event: backends", 2).await;
    assert!(said.contains("{\"service\":\"api\",\"rows\":[[\"10.0.0.1:80\",\"up\""), "{said}");
    for watcher in &mut watchers[1..] {
        let said = read_until(watcher, "event: board", 2).await;
        assert!(!said.contains("event: backends"), "{said}");
    }
    assert!(looks() <= 4, "{} snapshots", looks());
    // There is room for metrics, and for nobody else who watches.
    assert_eq!(served.status("GET /events", &[]).await, 503);
    assert_eq!(served.status("GET /metrics", &[]).await, 200);
    drop(watchers);
    // The task sees that they are gone at its next turn.
    let mut before = usize::MAX;
    while before != looks() {
        before = looks();
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    }
    assert_eq!(served.status("GET /metrics", &[]).await, 200);
    let mut again = watch("/events").await;
    read_until(&mut again, "event: board", 1).await;
}
