//! A DNS server whose answers a test sets, and which counts what it is asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use steerage_lab::netns::Netns;

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What the server does with questions about a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These records, with this time to live in seconds.
    Records(u32, Vec<RData>),
    /// An error.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

/// An IPv4 address.
#[must_use]
pub fn address(address: Ipv4Addr) -> RData {
    RData::A(A(address))
}

/// A host, its port, priority and weight.
///
/// # Panics
/// If the host is no name.
#[must_use]
#[expect(clippy::expect_used, reason = "a name that the test wrote")]
pub fn service(priority: u16, weight: u16, port: u16, host: &str) -> RData {
    let host = Name::from_str(host).expect("the host is a name");
    RData::SRV(SRV::new(priority, weight, port, host))
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By absolute name, in lower case. Names that are not here do not exist.
    zone: Mutex<BTreeMap<String, Says>>,
    asked: Mutex<BTreeMap<String, usize>>,
    is_over: AtomicBool,
}

impl Server {
    /// Answers at `address`, inside `netns`.
    ///
    /// # Errors
    /// If the address can't be taken.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = netns.enter(|| UdpSocket::bind(address))?.context("cannot serve DNS")?;
        socket.set_read_timeout(Some(LOOK))?;
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !serving.is_over.load(Ordering::SeqCst) {
                serving.answer_one(&socket);
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Sets what is said of a name, which ends with a dot.
    pub fn set(&self, name: &str, says: Says) {
        lock(&self.shared.zone).insert(name.to_owned(), says);
    }

    /// How often a name was asked for.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.shared.asked).get(name).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn answer_one(&self, socket: &UdpSocket) {
        let mut buffer = [0; 1500];
        // Most often nothing came within the time.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { return };
        let Ok(question) = Message::from_vec(&buffer[..length]) else { return };
        let Some(query) = question.queries.first().cloned() else { return };
        let name = query.name().to_lowercase().to_utf8();
        let says = lock(&self.zone).get(&name).cloned();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        match says {
            Some(Says::Silence) => {}
            Some(Says::Code(code)) => answer.metadata.response_code = code,
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(Says::Records(ttl, ref records)) => {
                let fits = |data: &&RData| data.record_type() == query.query_type();
                answer.add_answers(
                    records
                        .iter()
                        .filter(fits)
                        .map(|data| Record::from_rdata(query.name().clone(), ttl, data.clone())),
                );
            }
        }
        if !matches!(says, Some(Says::Silence))
            && let Ok(bytes) = answer.to_vec()
        {
            // A client that is gone needs none.
            let _ = socket.send_to(&bytes, client);
        }
        // Counted with the answer on its way.
        if query.query_type() != RecordType::AAAA {
            *lock(&self.asked).entry(name).or_default() += 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
