//! A worker on a thread of its own, backends on others, and a client that speaks HTTP by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use steerage_common::cause::Cause;
use steerage_common::error::ErrorClass;
use steerage_common::health::Event;
use steerage_common::latency::{TIMERS, Timer};
use steerage_common::slot::Slot;

use super::super::{DRAIN, PLAN, Plan, Setup, Socket, TAKEN, serve};
use crate::config::{self, model::Model};
use crate::net::pass;
use crate::region::{Cell, Fds, Region, Tenant};
use crate::service::Placed;
use crate::tls::Shelf;
use crate::tls::upstream::Keyring;

/// How long a test waits for what must come, before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Worker {
    pub(super) address: SocketAddr,
    pub(super) region: Region,
    pub(super) model: Model,
    pub(super) tenants: Vec<Tenant>,
    pub(super) control: Option<UnixStream>,
    /// Where its lines about requests come out.
    pub(super) log: OwnedFd,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Worker {
    /// A worker with one service of these backends, all up.
    pub(super) fn start(backends: &[SocketAddr]) -> Self {
        Self::start_with(backends, |_| {})
    }

    pub(super) fn start_with(backends: &[SocketAddr], change: impl FnOnce(&mut Model)) -> Self {
        Self::configured("[[listener.route]]\nservice = 'a'\n", backends, change)
    }

    /// A worker whose listener goes on with `keys`.
    pub(super) fn configured(
        keys: &str,
        backends: &[SocketAddr],
        change: impl FnOnce(&mut Model),
    ) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), keys, backends, change)
    }

    /// A worker that passes connections on: its listener's protocol and further keys.
    pub(super) fn passing(
        protocol: &str,
        keys: &str,
        backends: &[SocketAddr],
        change: impl FnOnce(&mut Model),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::with_protocol(listener, protocol, keys, backends, change)
    }

    /// A worker that accepts from `listener`.
    pub(super) fn listening(
        listener: TcpListener,
        keys: &str,
        backends: &[SocketAddr],
        change: impl FnOnce(&mut Model),
    ) -> Self {
        Self::with_protocol(listener, "http", keys, backends, change)
    }

    fn with_protocol(
        listener: TcpListener,
        protocol: &str,
        keys: &str,
        backends: &[SocketAddr],
        change: impl FnOnce(&mut Model),
    ) -> Self {
        let mut text = format!(
            "[[listener]]\nname = 'web'\nprotocol = '{protocol}'\nbind = ['127.0.0.1:1']\n\
             {keys}\n[[service]]\nname = 'a'\nbalance = 'round_robin'\n",
        );
        for backend in backends {
            text += &format!("[[service.backend]]\naddress = '{backend}'\n");
        }
        let mut model = config::parse(Path::new("test.toml"), &text).unwrap();
        model.services[0].probe = None;
        model.global.io = super::io();
        change(&mut model);

        let fds = Fds::in_memory(1).unwrap();
        let region = Region::map(&fds, 1).unwrap();
        let tenants: Vec<Tenant> = (0..backends.len() as u16)
            .map(|index| Tenant::new(Slot::new(index).unwrap(), 0))
            .collect();
        for tenant in &tenants {
            region.apply(*tenant, Event::Assigned, &model.services[0].policy());
        }
        let ring = Keyring::fill(&model, &Keyring::default()).unwrap();
        let setup = Setup {
            id: 0,
            seat: 0,
            workers: 1,
            cell_workers: 1,
            plan: Plan {
                placed: Placed {
                    model: model.clone(),
                    tenants: vec![tenants.clone()],
                    lines: vec![0],
                },
                certificates: Shelf::default(),
                ring,
                sockets: vec![Socket { number: 0, listener: 0 }],
            },
            supervisor_epoch: 1,
        };
        let address = listener.local_addr().unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let (log, lines) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let thread = std::thread::spawn(move || {
            let region = Region::map(&fds, 1).unwrap();
            serve(setup, region, vec![listener], theirs, lines)
        });
        (&control).read_exact(&mut [0]).unwrap();
        let (control, thread) = (Some(control), Some(thread));
        Self { address, region, model, tenants, control, log, thread }
    }

    pub(super) fn cell(&self, backend: usize) -> &Cell {
        self.region.cell(0, self.tenants[backend].slot())
    }

    /// How often each timer was noted at a backend, in the order of [`Timer::ALL`], and the sums.
    pub(super) fn times(&self, backend: usize) -> [(u64, u64); TIMERS] {
        let times = self.region.times(0, self.tenants[backend].slot());
        Timer::ALL.map(|timer| {
            times.map_or((0, 0), |times| {
                let counts = times.counts[timer as usize].iter().map(super::value);
                (counts.sum(), super::value(&times.sums_us[timer as usize]))
            })
        })
    }

    pub(super) fn errors(&self, class: ErrorClass) -> u64 {
        super::value(&self.region.worker(0).errors[class as usize])
    }

    /// Connections of clients that ended by a cause, and streams in them.
    pub(super) fn ends(&self, cause: Cause) -> u64 {
        let line = self.region.worker(0);
        let counters = [&line.ends[cause as usize], &line.stream_ends[cause as usize]];
        counters.into_iter().map(super::value).sum()
    }

    pub(super) fn apply(&self, backend: usize, event: Event) {
        self.region.apply(self.tenants[backend], event, &self.model.services[0].policy());
    }

    pub(super) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    /// One `GET` on a connection of its own.
    pub(super) fn get(&self, path: &str) -> Response {
        let mut client = self.client();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        client.response()
    }

    /// Puts another configuration in force; its backends sit at `tenants`.
    pub(super) fn take(&mut self, model: Model, tenants: Vec<Tenant>) {
        for tenant in &tenants {
            self.region.apply(*tenant, Event::Assigned, &model.services[0].policy());
        }
        let placed =
            Placed { model: model.clone(), tenants: vec![tenants.clone()], lines: vec![0] };
        let certificates = Shelf::default();
        let ring = Keyring::fill(&model, &Keyring::default()).unwrap();
        let sockets = vec![Socket { number: 0, listener: 0 }];
        let plan = Plan { placed, certificates, ring, sockets };
        let json = serde_json::to_vec(&plan).unwrap();
        let memory = crate::sys::sealed_memory("test-plan", &json).unwrap();
        let mut control = self.control.as_ref().unwrap();
        pass::send(control.as_fd(), PLAN, &[memory.as_fd()]).unwrap();
        let mut answer = [0];
        control.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [TAKEN]);
        (self.model, self.tenants) = (model, tenants);
    }

    pub(super) fn order_drain(&self) {
        self.order(DRAIN);
    }

    pub(super) fn order(&self, order: u8) {
        self.control.as_ref().unwrap().write_all(&[order]).unwrap();
    }

    pub(super) fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.is_some()
            && !std::thread::panicking()
            && let Some(control) = &mut self.control
        {
            control.write_all(&[DRAIN]).unwrap();
            self.join();
        }
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(super) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn get(&mut self, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        self.response()
    }

    pub(super) fn response(&mut self) -> Response {
        let head = read_head(&mut self.stream);
        let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("{head:?}")).parse().unwrap();
        let body = read_body(&mut self.stream, &head);
        Response { status, head, body }
    }

    /// Everything until the connection ends.
    pub(super) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// Reads up to the empty line, in lower case; empty at the end of the connection.
pub(super) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Reads the body that `head` announces; of a chunked one the trailers are put after it.
pub(super) fn read_body(stream: &mut impl Read, head: &str) -> Vec<u8> {
    if let Some(length) = header(head, "content-length") {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        return body;
    }
    let mut body = Vec::new();
    if header(head, "transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(&read_line(stream), 16).unwrap();
            if size == 0 {
                break;
            }
            let start = body.len();
            body.resize(start + size, 0);
            stream.read_exact(&mut body[start..]).unwrap();
            read_line(stream);
        }
        loop {
            let line = read_line(stream);
            if line.is_empty() {
                break;
            }
            body.extend_from_slice(line.as_bytes());
        }
    }
    body
}

fn read_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).unwrap()
}

/// Runs `serve` on a thread for each connection.
pub(super) fn backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A backend that answers each request with what `answer` makes of its head and body.
pub(super) fn answering(
    answer: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static,
) -> SocketAddr {
    backend(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            let body = read_body(&mut stream, &head);
            stream.write_all(answer(&head, &body).as_bytes()).unwrap();
        }
    })
}

pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An address where nobody listens.
pub(super) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(super) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
