//! An open-loop client: requests are due at fixed times whatever became of those before them.
//!
//! A client that waits for one answer before it asks again asks less when the server is slow, and so
//! hides the slowness from its own figures (coordinated omission). Here a thread keeps the timetable,
//! and every request's time runs from the moment it was due.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use steerage_lab::netns::Netns;
use steerage_lab::poller::Reuse;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// What is asked, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Who is asked.
    pub address: SocketAddr,
    /// Requests a second.
    pub rate: u32,
    /// Whether requests share connections.
    pub reuse: Reuse,
    /// How long an answer may take.
    pub patience: Duration,
    /// Who asks: connections come from so many addresses from this one up, in turn; `None` for the
    /// host's own.
    pub from: Option<(Ipv4Addr, u32)>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was due.
    pub due: Instant,
    /// From then to its end.
    pub took: Duration,
    /// The body of the answer, without its line end; or what came instead.
    pub answer: Result<String, Fault>,
}

/// What came instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection was refused.
    Refused,
    /// The connection ended before the answer did.
    Broken,
    /// Nothing, for as long as there was patience.
    Silence,
    /// Another status than 200.
    Status(u16),
}

/// A client at work; dropping it ends it.
#[derive(Debug)]
pub struct Load {
    shots: Arc<Mutex<Vec<Shot>>>,
    /// Its end ends the timetable.
    stop: Option<std::sync::mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts asking from inside `netns`.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn start(netns: &Netns, plan: Plan) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (due, dues) = mpsc::unbounded_channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let shots = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&shots);
        let timetable = std::thread::spawn(move || {
            let (begun, period) = (Instant::now(), Duration::from_secs(1) / plan.rate.max(1));
            for number in 0.. {
                let next = begun + period * number;
                if due.send(next).is_err() {
                    return;
                }
                let pause = (next + period).saturating_duration_since(Instant::now());
                let over = stopped.recv_timeout(pause);
                if over != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        // A thread belongs to the namespace that it was begun in.
        let asking = netns.enter(move || {
            std::thread::spawn(move || runtime.block_on(ask_all(plan, dues, record)))
        })?;
        Ok(Self { shots, stop: Some(stop), threads: vec![timetable, asking] })
    }

    /// What ended so far.
    #[must_use]
    pub fn shots(&self) -> Vec<Shot> {
        lock(&self.shots).clone()
    }

    /// What was due since a moment, and ended.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Vec<Shot> {
        lock(&self.shots).iter().filter(|shot| shot.due >= moment).cloned().collect()
    }

    /// Stops, waits for what is under way, and gives the whole record in the order of the timetable.
    #[must_use]
    pub fn stop(mut self) -> Vec<Shot> {
        self.join();
        let mut shots = self.shots();
        shots.sort_by_key(|shot| shot.due);
        shots
    }

    fn join(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

type Idle = Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>;

async fn ask_all(plan: Plan, mut dues: UnboundedReceiver<Instant>, record: Arc<Mutex<Vec<Shot>>>) {
    let idle = Idle::default();
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while let Some(due) = dues.recv().await {
        number += 1;
        let (idle, record) = (Arc::clone(&idle), Arc::clone(&record));
        tasks.spawn(async move {
            let asked = tokio::time::timeout(plan.patience, ask(plan, number, &idle)).await;
            let answer = asked.unwrap_or(Err(Fault::Silence));
            lock(&record).push(Shot { due, took: due.elapsed(), answer });
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

async fn ask(plan: Plan, number: u32, idle: &Idle) -> Result<String, Fault> {
    // One that the server has closed since is closed here too: the pool holds ready ones alone.
    let kept = std::iter::from_fn(|| lock(idle).pop()).find(SendRequest::is_ready);
    let mut sender = match kept {
        Some(sender) => sender,
        None => connect(plan, number).await?,
    };
    let request = Request::get("/").header(HOST, "load").body(Empty::new());
    let request = request.expect("these are all valid");
    let broken = |_| Fault::Broken;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    if plan.reuse == Reuse::KeepAlive && sender.ready().await.is_ok() {
        lock(idle).push(sender);
    }
    match status {
        200 => Ok(String::from_utf8_lossy(&body).trim_end().to_owned()),
        status => Err(Fault::Status(status)),
    }
}

async fn connect(plan: Plan, number: u32) -> Result<SendRequest<Empty<Bytes>>, Fault> {
    let stream = match plan.from {
        None => TcpStream::connect(plan.address).await,
        Some((first, count)) => {
            let source = Ipv4Addr::from_bits(first.to_bits() + number % count);
            let from = |socket: TcpSocket| {
                socket.bind(SocketAddr::from((source, 0)))?;
                Ok(socket.connect(plan.address))
            };
            match TcpSocket::new_v4().and_then(from) {
                Ok(connecting) => connecting.await,
                Err(error) => Err(error),
            }
        }
    };
    let stream = stream.map_err(|_| Fault::Refused)?;
    let _ = stream.set_nodelay(true);
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_| Fault::Broken)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
