//! The interface as it is described, and as it answers.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::super::client::{self, Error};
use super::super::order::{Later, Remaining, Revision, Upgraded};
use super::super::routes::Entry;
use super::super::server::{bind_admin, serve_admin};
use super::*;
use crate::config::plan::Change;
use crate::stats::board::Board;
use crate::stats::status::{self, Status};
use crate::stats::table::tests::sample;

/// A daemon that knows one backend and notes what it is told.
#[derive(Default)]
pub struct Fake {
    /// Changes, and whether they are to persist.
    pub changes: Mutex<Vec<(ConfigChange, bool)>>,
    /// How often it was looked at.
    pub looks: AtomicUsize,
    /// The token of its page.
    pub token: Option<PathBuf>,
}

fn reloaded() -> Reloaded {
    Reloaded { changes: Vec::new(), generation: 7, took_ms: 1.5, publish_us: 9.0 }
}

impl Daemon for Fake {
    fn status(&self) -> Status {
        self.looks.fetch_add(1, Ordering::Relaxed);
        sample()
    }

    fn order(
        &self,
        service: &str,
        backend: SocketAddr,
        action: Action,
        terms: Terms,
    ) -> Result<(), Refusal> {
        if backend.ip().to_string() != "10.0.0.1" {
            return Err(Refusal::Unknown { service: service.to_owned(), backend });
        }
        assert_eq!(service, "api");
        assert_eq!(terms.deadline_ms, (action == Action::Drain).then_some(5));
        Ok(())
    }

    fn page_token(&self) -> Option<PathBuf> {
        self.token.clone()
    }

    fn follow_lines(&self) -> Option<Receiver<Bytes>> {
        let (lines, receiver) = tokio::sync::mpsc::channel(1);
        lines.try_send(Bytes::from_static(b"a line\n")).ok()?;
        Some(receiver)
    }

    fn remaining(&self, _: &str, _: SocketAddr) -> Result<Remaining, Refusal> {
        let state = "draining".into();
        Ok(Remaining { state, requests: 4, tunnels: 3, connections: 5, flows: None })
    }

    fn reload(&self) -> Later<'_, Result<Reloaded, Refusal>> {
        Box::pin(async { Err(Refusal::Config("steerage.toml:3:1: no".into())) })
    }

    fn diff(&self) -> Later<'_, Result<Vec<Change>, Refusal>> {
        let (from, to) = (Some("1".into()), Some("2".into()));
        let change = Change { what: "a".into(), from, to, needs_restart: true };
        Box::pin(async { Ok(vec![change]) })
    }

    fn config(&self) -> Value {
        json!({ "services": [] })
    }

    fn text(&self) -> Later<'_, Result<String, Refusal>> {
        Box::pin(async { Ok("# nothing\n".into()) })
    }

    fn rotate_tickets(&self) -> Later<'_, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn upgrade(&self, binary: Option<PathBuf>) -> Later<'_, Result<Upgraded, Refusal>> {
        assert_eq!(binary.as_deref(), Some(Path::new("/usr/bin/steerage")));
        Box::pin(async { Ok(Upgraded { pid: 7 }) })
    }

    fn revisions(&self) -> Later<'_, Result<Vec<Revision>, Refusal>> {
        let first = Revision { number: 1, at_seconds: 2, why: "start".into() };
        Box::pin(async { Ok(vec![first]) })
    }

    fn change(&self, change: ConfigChange, persist: bool) -> Later<'_, Result<Reloaded, Refusal>> {
        self.changes.lock().unwrap().push((change, persist));
        Box::pin(async { Ok(reloaded()) })
    }
}

/// A socket that the fake answers on.
struct Served {
    directory: PathBuf,
    path: PathBuf,
    daemon: Arc<Fake>,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    fn start(name: &str) -> Self {
        let name = format!("steerage-admin-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let path = directory.join("admin.sock");
        let listener = tokio::net::UnixListener::from_std(bind_admin(&path).unwrap()).unwrap();
        let daemon = Arc::new(Fake::default());
        let server = tokio::spawn(serve_admin(listener, Subject::new(daemon.clone())));
        Self { directory, path, daemon, server }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn ask(path: &Path, method: &str, target: &str, body: &str) -> (StatusCode, Vec<u8>) {
    let method = method.parse().unwrap();
    match client::exchange(path, method, target, body.to_owned().into()).await {
        Ok((status, body)) => (status, body.to_vec()),
        Err(error) => panic!("{target}: {error}"),
    }
}

#[tokio::test]
async fn the_daemon_tells_its_status_to_root_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let nowhere = std::env::temp_dir().join(format!("steerage-none-{}.sock", std::process::id()));
    let error = client::status(&nowhere).await.unwrap_err().to_string();
    assert!(error.contains("is the daemon running?"), "{error}");
    let served = Served::start("status");
    let path = &served.path;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bind_admin(path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(client::status(path).await.unwrap(), sample());
    served.server.abort();
    while client::status(path).await.is_ok() {}
    drop(bind_admin(path).unwrap());
}

#[tokio::test]
async fn orders_reach_the_daemon_and_refusals_the_operator() {
    let served = Served::start("orders");
    let path = &served.path;
    let (known, unknown) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let terms = Terms { deadline_ms: Some(5) };
    client::order(path, "api", known, Action::Drain, terms).await.unwrap();
    let error = client::order(path, "api", unknown, Action::Undrain, Terms::default()).await;
    assert!(error.unwrap_err().to_string().contains("has no backend 10.0.0.2:80"));
    assert_eq!(client::remaining(path, "api", known).await.unwrap().tunnels, 3);
    let error = client::reload(path).await.unwrap_err().to_string();
    assert!(error.contains("422") && error.contains("steerage.toml:3:1"), "{error}");
    assert_eq!(client::diff(path).await.unwrap()[0].to_string(), "~ a: 1 -> 2 (needs a restart)");
    assert!(client::config(path).await.unwrap()["services"].is_array());
    assert_eq!(client::config_text(path).await.unwrap(), "# nothing\n");
    assert_eq!(client::revisions(path).await.unwrap().len(), 1);
    let nothing = ask(path, "GET", "/nothing", "").await;
    assert_eq!(nothing.0, 404);
    assert!(String::from_utf8(nothing.1).unwrap().contains("GET /v1/status: a snapshot"));
    assert_eq!(ask(path, "POST", "/v1/status", "").await.0, 405);
    for (method, target, body, told) in [
        ("PUT", "/v1/services/a/backends/10.0.0.1:80/weight", "{}", "missing field `weight`"),
        ("PUT", "/v1/services/a/backends/here/weight", "{\"weight\":1}", "\"here\" is no ADDRESS"),
        ("PATCH", "/v1/config", "{\"key\":\"a\",\"value\":\"1\",\"x\":1}", "unknown field `x`"),
        ("PUT", "/v1/config?persist=1", "", "only persist=true"),
    ] {
        let (status, text) = ask(path, method, target, body).await;
        assert_eq!(status, 400, "{target}");
        assert!(String::from_utf8(text).unwrap().contains(told), "{target}");
    }
    assert!(
        served.daemon.changes.lock().unwrap().is_empty(),
        "nothing was changed by any of these"
    );
}

#[tokio::test]
async fn changes_arrive_as_they_were_asked_for() {
    let served = Served::start("changes");
    let backend = "[2001:db8::1]:80".parse().unwrap();
    let service = || "a/b c".to_owned();
    let new = NewBackend {
        address: backend,
        weight: Some(3),
        tier: None,
        max_requests: Some(9),
        max_connections: None,
    };
    let set = Edit::Set { key: "global.drain".into(), value: "'1s'".into() };
    let all = [
        ConfigChange::Edit(Edit::AddBackend { service: service(), backend: new }),
        ConfigChange::Edit(Edit::RemoveBackend { service: service(), backend }),
        ConfigChange::Edit(Edit::SetWeight { service: service(), backend, weight: 256 }),
        ConfigChange::Edit(set),
        ConfigChange::Apply("# text\n".into()),
        ConfigChange::Rollback(None),
        ConfigChange::Rollback(Some(4)),
    ];
    let mut expected = Vec::new();
    for (number, change) in all.into_iter().enumerate() {
        let persist = number % 2 == 0;
        let answer = client::change(&served.path, &change, persist).await.unwrap();
        assert_eq!(answer, reloaded());
        expected.push((change, persist));
    }
    assert_eq!(*served.daemon.changes.lock().unwrap(), expected);
}

/// Somebody else is refused though the socket's mode lets them in.
#[tokio::test]
async fn a_stranger_is_refused_whatever_the_socket_s_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let served = Served::start("stranger");
    if crate::sys::user() != 0 {
        return;
    }
    std::fs::set_permissions(&served.path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
        s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\nprint(s.recv(99).decode())";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script]).arg(&served.path).uid(65534).gid(65534);
    let said = tokio::task::spawn_blocking(move || python.output().unwrap()).await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
}

/// The media type of an answer that goes on.
const EVENTS: &str = "text/event-stream";

/// What a route takes and gives, for its description: its body (media type, schema, an example), its status
/// and what comes back (media type, schema).
struct Described {
    body: Option<(&'static str, Value, &'static str)>,
    status: u16,
    answer: Option<(&'static str, Value)>,
}

fn described(route: Route, schemas: &mut SchemaGenerator) -> Described {
    const JSON: &str = "application/json";
    fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
        schemas.subschema_for::<T>().to_value()
    }
    let object = json!({ "type": "object" });
    let string = json!({ "type": "string" });
    let answer = match route {
        Route::OpenApi | Route::Config => Some((JSON, object)),
        Route::Status => Some((JSON, of::<Status>(schemas))),
        Route::Workers => Some((JSON, of::<Vec<status::Worker>>(schemas))),
        Route::ConfigText => Some(("application/toml", string.clone())),
        Route::Events => Some((EVENTS, string.clone())),
        Route::AccessLog => Some(("text/plain", string.clone())),
        Route::Diff => Some((JSON, of::<Vec<Change>>(schemas))),
        Route::Revisions => Some((JSON, of::<Vec<Revision>>(schemas))),
        Route::Remaining => Some((JSON, of::<Remaining>(schemas))),
        Route::Upgrade => Some((JSON, of::<Upgraded>(schemas))),
        Route::Drain | Route::Maintenance | Route::Undrain | Route::RotateTickets => None,
        _ => Some((JSON, of::<Reloaded>(schemas))),
    };
    let body = match route {
        Route::Apply => Some(("application/toml", string, "# a configuration\n")),
        Route::Set => {
            let example = r#"{"key":"global.log.level","value":"debug"}"#;
            Some((JSON, of::<Assignment>(schemas), example))
        }
        Route::Rollback => Some((JSON, of::<Back>(schemas), r#"{"revision":1}"#)),
        Route::AddBackend => {
            Some((JSON, of::<NewBackend>(schemas), r#"{"address":"10.0.0.3:80","weight":2}"#))
        }
        Route::Upgrade => Some((JSON, of::<Upgrade>(schemas), r#"{"binary":"/usr/bin/steerage"}"#)),
        Route::Weight => Some((JSON, of::<Weight>(schemas), r#"{"weight":2}"#)),
        Route::Drain => Some((JSON, of::<Terms>(schemas), r#"{"deadline_ms":5}"#)),
        _ => None,
    };
    Described { body, status: if answer.is_some() { 200 } else { 204 }, answer }
}

fn changes_config(route: Route) -> bool {
    use Route::{AddBackend, Apply, RemoveBackend, Rollback, Set, Weight};
    matches!(route, Apply | Rollback | Set | AddBackend | RemoveBackend | Weight)
}

fn operation(entry: &Entry, schemas: &mut SchemaGenerator) -> Value {
    let Described { body, status, answer } = described(entry.route, schemas);
    let mut parameters = Vec::new();
    for part in entry.path.split('/').filter_map(|part| part.strip_prefix('{')) {
        let name = part.trim_end_matches('}');
        let example = if name == "service" { "api" } else { "10.0.0.1:80" };
        parameters.push(json!({ "name": name, "in": "path", "required": true, "example": example,
            "schema": { "type": "string" } }));
    }
    if entry.route == Route::Events {
        parameters.push(json!({ "name": "open", "in": "query", "schema": { "type": "array",
            "items": { "type": "string" } }, "description": "services" }));
        parameters.push(json!({ "name": "all", "in": "query", "allowEmptyValue": true,
            "schema": { "type": "boolean" }, "description": "every service" }));
    }
    if changes_config(entry.route) {
        parameters.push(json!({ "name": "persist", "in": "query", "schema": { "type": "boolean" },
            "description": "make the change in the configuration file too" }));
    }
    let mut responses = Map::new();
    let mut done = json!({ "description": "done" });
    if let Some((kind, schema)) = answer {
        done["content"] = json!({ kind: { "schema": schema } });
    }
    responses.insert(status.to_string(), done);
    let mut refusals = vec![(403, "the client is not root")];
    if entry.path.contains('{') || body.is_some() {
        refusals.push((400, "the request is not understood; the text says why"));
    }
    match entry.route {
        Route::Drain | Route::Maintenance | Route::Undrain => {
            refusals.push((404, "there is no such backend"));
        }
        Route::AccessLog => refusals.push((409, "the access log is off")),
        Route::Remaining => refusals
            .extend([(404, "there is no such backend"), (500, "the flow table cannot be read")]),
        Route::Upgrade => {
            refusals.push((422, "the binary did not get ready, and why; the daemon serves on"));
        }
        Route::Reload | Route::Diff => refusals.push((422, "the file is not taken, and why")),
        route if changes_config(route) => {
            refusals.push((422, "the configuration is not taken, and why; nothing has changed"));
        }
        _ => {}
    }
    for (status, description) in refusals {
        let content = json!({ "text/plain": { "schema": { "type": "string" } } });
        let refusal = json!({ "description": description, "content": content });
        responses.insert(status.to_string(), refusal);
    }
    let id = format!("{:?}", entry.route);
    let mut operation =
        json!({ "operationId": id, "summary": entry.summary, "responses": responses });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some((kind, schema, example)) = body {
        let example: Value = serde_json::from_str(example).unwrap_or_else(|_| example.into());
        let content = json!({ kind: { "schema": schema, "example": example } });
        operation["requestBody"] = json!({ "content": content });
    }
    operation
}

fn description() -> Value {
    let mut schemas = SchemaSettings::openapi3().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for entry in &ROUTES {
        let operations = paths.entry(entry.path).or_insert_with(|| json!({}));
        operations[entry.method.to_lowercase()] = operation(entry, &mut schemas);
    }
    let definitions = schemas.take_definitions(true);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Steerage",
            "version": "1",
            "description": "The admin socket: HTTP over the unix socket global.admin, for root alone.",
        },
        "servers": [{ "url": "http://steerage" }],
        "paths": paths,
        "components": { "schemas": definitions },
    })
}

/// `openapi.json` says what the routes and the types behind them say.
#[test]
fn the_description_is_that_of_the_routes() {
    let described = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    if std::env::var_os("STEERAGE_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/openapi.json");
        std::fs::write(path, &described).unwrap();
        return;
    }
    assert!(
        described == OPENAPI,
        "openapi.json is not what the routes say: STEERAGE_BLESS=1 cargo test -p steerage openapi \
         the_description writes it anew"
    );
}

/// Every operation of the description, asked with its examples, answers as described.
#[tokio::test]
async fn the_daemon_answers_as_the_description_says() {
    let served = Served::start("described");
    let file: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut asked = BTreeSet::new();
    for (path, operations) in file["paths"].as_object().unwrap() {
        let target = path.replace("{service}", "api").replace("{address}", "10.0.0.1:80");
        for (method, operation) in operations.as_object().unwrap() {
            asked.insert(operation["operationId"].as_str().unwrap().to_owned());
            if operation["responses"]["200"]["content"][EVENTS].is_object() {
                let mut stream = client::Stream::open(&served.path, &target).await.unwrap();
                let event = stream.event().await.unwrap().unwrap();
                serde_json::from_str::<Board>(&event.data).unwrap();
                continue;
            }
            let body = operation["requestBody"]["content"].as_object();
            let example = body.and_then(|kinds| kinds.values().next()).map(|kind| &kind["example"]);
            let body = match example {
                None => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(example) => example.to_string(),
            };
            let (status, text) = ask(&served.path, &method.to_uppercase(), &target, &body).await;
            let answers = &operation["responses"][status.as_str()];
            assert!(answers.is_object(), "{method} {target}: {status} is not described");
            // The fake's file is a bad one.
            assert_eq!(status.is_success(), !path.ends_with("/reload"), "{method} {target}");
            if answers["content"]["application/json"].is_object() {
                serde_json::from_slice::<Value>(&text).unwrap();
            }
        }
    }
    assert_eq!(asked.len(), ROUTES.len());
    let error = client::reload(&served.path).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }));
}
