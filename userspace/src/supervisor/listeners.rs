//! The listening sockets: one for each worker and address, all made and held by the supervisor.
//!
//! A worker that dies leaves its sockets open here, with the connections that wait in them; its
//! successor gets the same ones. `SO_REUSEPORT` lets a new supervisor bind beside the workers of a
//! dead one.
//!
//! Which of the workers gets a connection is decided by the kernel program that is attached to each
//! address ([`crate::kernel`]); without eBPF the kernel's hash decides.
//!
//! A socket goes by its number. An address that stays in the configuration keeps its sockets and their
//! number, also when it passes to another listener: nobody who connects meanwhile sees anything of it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::warn;

use super::Error;
use super::handover::PassedSocket;
use crate::config::Model;
use crate::kernel::Kernel;
use crate::worker;

/// Connections that wait for a worker, per socket.
pub const BACKLOG: i32 = 4096;

/// All sockets of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// In the order of the model's listeners and their addresses.
    bound: Vec<(usize, Arc<Bound>)>,
    next_number: u32,
}

/// One address.
#[derive(Debug)]
pub struct Bound {
    number: u32,
    /// Where it really listens: port 0 lets the system choose.
    address: SocketAddr,
    /// By worker; `None` once only the worker's own copy is to be left.
    sockets: Vec<Mutex<Option<TcpListener>>>,
    /// Whether the kernel program chooses among them.
    is_steered: AtomicBool,
}

/// What makes two addresses of two configurations the same one.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    At(SocketAddr),
    /// The nth address of this listener with a port of the system's choice.
    Somewhere(&'a str, SocketAddr, usize),
}

fn places(model: &Model) -> Vec<(usize, SocketAddr, Place<'_>)> {
    let mut places = Vec::new();
    for (index, listener) in model.listeners.iter().enumerate() {
        for (nth, address) in listener.bind.iter().enumerate() {
            let place = match address.port() {
                0 => Place::Somewhere(&listener.name, *address, nth),
                _ => Place::At(*address),
            };
            places.push((index, *address, place));
        }
    }
    places
}

fn place_of(socket: &PassedSocket) -> Place<'_> {
    match socket.asked.port() {
        0 => Place::Somewhere(&socket.listener, socket.asked, socket.nth),
        _ => Place::At(socket.asked),
    }
}

impl Listening {
    /// Binds every address of `model` once for each worker; those that `former`, of the configuration
    /// before, has are taken over, and those that a former daemon has `passed` on.
    ///
    /// # Errors
    /// Names the listener and address that could not be bound, and why.
    pub fn open(
        model: &Model,
        workers: usize,
        former: Option<(&Self, &Model)>,
        mut passed: Vec<(PassedSocket, TcpListener)>,
    ) -> Result<Self, Error> {
        let mut known: HashMap<Place<'_>, &Arc<Bound>> = HashMap::new();
        let mut all = Self::default();
        if let Some((former, before)) = former {
            all.next_number = former.next_number;
            let bound = former.bound.iter().map(|(_, bound)| bound);
            known.extend(places(before).into_iter().map(|(.., place)| place).zip(bound));
        }
        for (index, address, place) in places(model) {
            let bound = match known.get(&place) {
                Some(bound) => (*bound).clone(),
                None => {
                    let listener = model.listeners[index].name.clone();
                    let number = all.next_number;
                    all.next_number += 1;
                    let inherited = |worker: usize| {
                        let is_it = |(socket, _): &(PassedSocket, TcpListener)| {
                            socket.worker == worker && place_of(socket) == place
                        };
                        let at = passed.iter().position(is_it)?;
                        Some(passed.swap_remove(at).1)
                    };
                    let bound = Bound::open(number, address, workers, inherited)
                        .map_err(|source| Error::Bind { listener, address, source })?;
                    Arc::new(bound)
                }
            };
            all.bound.push((index, bound));
        }
        Ok(all)
    }

    /// The sockets' numbers and listeners, as workers are told.
    #[must_use]
    pub fn sockets(&self) -> Vec<worker::Socket> {
        let socket = |(listener, bound): &(usize, Arc<Bound>)| worker::Socket {
            number: bound.number,
            listener: *listener,
        };
        self.bound.iter().map(socket).collect()
    }

    /// Where each of `listeners` listeners really listens.
    #[must_use]
    pub fn addresses(&self, listeners: usize) -> Vec<Vec<SocketAddr>> {
        let mut addresses = vec![Vec::new(); listeners];
        for (listener, bound) in &self.bound {
            addresses[*listener].push(bound.address);
        }
        addresses
    }

    /// One worker's copies of its sockets that `wanted` chooses by number.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn of_worker(
        &self,
        worker: usize,
        wanted: impl Fn(u32) -> bool,
    ) -> std::io::Result<Vec<TcpListener>> {
        let mut copies = Vec::new();
        for (_, bound) in self.bound.iter().filter(|(_, bound)| wanted(bound.number)) {
            let socket = bound.sockets[worker].lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(socket) = &*socket {
                copies.push(socket.try_clone()?);
            }
        }
        Ok(copies)
    }

    /// Copies of all sockets, of the configuration `model`, for the daemon that follows this one.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn pass_on(&self, model: &Model) -> std::io::Result<Vec<(PassedSocket, TcpListener)>> {
        let mut passed = Vec::new();
        for ((listener, asked, place), (_, bound)) in places(model).into_iter().zip(&self.bound) {
            let nth = match place {
                Place::Somewhere(.., nth) => nth,
                Place::At(_) => 0,
            };
            for (worker, socket) in bound.sockets.iter().enumerate() {
                let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(socket) = &*socket else { continue };
                let listener = model.listeners[listener].name.clone();
                let told = PassedSocket { listener, asked, nth, worker };
                passed.push((told, socket.try_clone()?));
            }
        }
        Ok(passed)
    }

    /// Has [`Listening::steer`] do its work anew: another daemon's program may be at the sockets.
    pub fn unsteer(&self) {
        for (_, bound) in &self.bound {
            bound.is_steered.store(false, Ordering::Relaxed);
        }
    }

    /// Has the kernel program choose the worker for each connection, where it does not yet. `seats` are
    /// the workers'. Where that fails the kernel's hash chooses, which is said once.
    pub fn steer(&self, kernel: &Mutex<Kernel>, seats: &[usize]) {
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bound) in &self.bound {
            if bound.is_steered.swap(true, Ordering::Relaxed) {
                continue;
            }
            let sockets: Vec<_> = bound
                .sockets
                .iter()
                .map(|socket| socket.lock().unwrap_or_else(PoisonError::into_inner))
                .collect();
            let seated = seats.iter().copied().zip(&sockets);
            let seated = seated.filter_map(|(seat, socket)| Some((seat, (**socket).as_ref()?)));
            if let Err(error) = kernel.steer(bound.address, seated) {
                warn!(
                    address = %bound.address, %error,
                    "connections are spread over the workers by hash, whatever their load"
                );
            }
        }
    }

    /// Has the kernel program forget all other addresses: nobody listens there any more.
    pub fn steer_only(&self, kernel: &Mutex<Kernel>) {
        let addresses: Vec<_> = self.bound.iter().map(|(_, bound)| bound.address).collect();
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = kernel.steer_only(&addresses) {
            warn!(%error, "rows of closed listeners stay in the kernel's table");
        }
    }

    /// Leaves a worker's sockets to the worker: its copies are the last then.
    pub fn leave(&self, worker: usize) {
        for (_, bound) in &self.bound {
            bound.sockets[worker].lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Bound {
    fn open(
        number: u32,
        address: SocketAddr,
        workers: usize,
        mut inherited: impl FnMut(usize) -> Option<TcpListener>,
    ) -> std::io::Result<Self> {
        let sockets = Vec::with_capacity(workers);
        let mut bound = Self { number, address, sockets, is_steered: AtomicBool::new(false) };
        for worker in 0..workers {
            let socket = match (inherited(worker), bound.of_all()?) {
                (Some(socket), _) | (None, Some(socket)) => socket,
                (None, None) => bind_one(bound.address)?,
            };
            // The system's choice of a port is one for all workers.
            bound.address = socket.local_addr()?;
            bound.sockets.push(Mutex::new(Some(socket)));
        }
        Ok(bound)
    }
}

impl Bound {
    /// A copy of the one socket that there can be, if it came from elsewhere and does not allow others beside
    /// it: all workers accept from it then, and nobody chooses among them.
    fn of_all(&mut self) -> std::io::Result<Option<TcpListener>> {
        let Some(first) = self.sockets.first() else { return Ok(None) };
        let first = first.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = &*first else { return Ok(None) };
        if SockRef::from(first).reuse_port()? {
            return Ok(None);
        }
        self.is_steered.store(true, Ordering::Relaxed);
        first.try_clone().map(Some)
    }
}

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model with these listeners and their addresses.
    fn model(listeners: &[(&str, &[&str])]) -> Model {
        let mut text = String::new();
        for (name, bind) in listeners {
            text += &format!("[[listener]]\nname = '{name}'\nbind = {bind:?}\nprotocol = 'http'\n");
            text += "[[listener.route]]\nservice = 'a'\n";
        }
        text += "[[service]]\nname = 'a'\n";
        crate::config::parse(std::path::Path::new("test"), &text).unwrap()
    }

    fn numbers(listening: &Listening) -> Vec<(u32, usize)> {
        listening.sockets().iter().map(|socket| (socket.number, socket.listener)).collect()
    }

    #[test]
    fn all_workers_share_one_address() {
        let listening =
            Listening::open(&model(&[("web", &["127.0.0.1:0"])]), 3, None, Vec::new()).unwrap();
        let address = listening.addresses(1)[0][0];
        assert_ne!(address.port(), 0);
        for worker in 0..3 {
            let sockets = listening.of_worker(worker, |_| true).unwrap();
            assert_eq!(sockets[0].local_addr().unwrap(), address);
        }
        listening.leave(1);
        assert!(listening.of_worker(1, |_| true).unwrap().is_empty());
        assert_eq!(listening.of_worker(0, |_| true).unwrap().len(), 1);
    }

    #[test]
    fn an_occupied_address_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let model = model(&[("web", &[&address.to_string()])]);
        let message = Listening::open(&model, 2, None, Vec::new()).unwrap_err().to_string();
        assert!(message.contains("\"web\"") && message.contains(&address.to_string()), "{message}");
    }

    #[test]
    fn an_address_keeps_its_sockets_whatever_its_listener() {
        let free =
            Listening::open(&model(&[("x", &["127.0.0.1:0"])]), 1, None, Vec::new()).unwrap();
        let fixed = free.addresses(1)[0][0].to_string();
        drop(free);
        let before = model(&[("web", &[&fixed, "127.0.0.1:0"]), ("old", &["127.0.0.1:0"])]);
        let first = Listening::open(&before, 2, None, Vec::new()).unwrap();
        assert_eq!(numbers(&first), [(0, 0), (1, 0), (2, 1)]);
        let after = model(&[("new", &["127.0.0.1:0", &fixed]), ("old", &["127.0.0.1:0"])]);
        let second = Listening::open(&after, 2, Some((&first, &before)), Vec::new()).unwrap();
        assert_eq!(numbers(&second), [(3, 0), (0, 0), (2, 1)]);
        assert_eq!(second.addresses(2)[1], first.addresses(2)[1]);
        assert_eq!(second.of_worker(0, |number| number > 2).unwrap().len(), 1);
    }

    /// A connection that waits for the former daemon's workers is accepted by the next one's, of whom
    /// there are more, at an address of which there are fewer.
    #[test]
    fn the_next_daemon_gets_the_same_queues() {
        let before = model(&[("web", &["127.0.0.1:0", "127.0.0.1:0"])]);
        let first = Listening::open(&before, 2, None, Vec::new()).unwrap();
        let address = first.addresses(1)[0][0];
        let client = std::net::TcpStream::connect(address).unwrap();
        let passed = first.pass_on(&before).unwrap();
        assert_eq!(passed.len(), 4);
        let after = model(&[("web", &["127.0.0.1:0"])]);
        let second = Listening::open(&after, 3, None, passed).unwrap();
        drop(first);
        assert_eq!(second.addresses(1), [[address]]);
        let accepted = (0..3).flat_map(|worker| second.of_worker(worker, |_| true).unwrap());
        let accepted: Vec<_> = accepted.filter_map(|socket| socket.accept().ok()).collect();
        assert_eq!(accepted.len(), 1);
        assert_eq!(accepted[0].1, client.local_addr().unwrap());
    }

    /// A socket unit's, without `ReusePort=yes`.
    #[test]
    fn all_workers_share_a_socket_that_allows_none_beside_it() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        ours.set_nonblocking(true).unwrap();
        let asked = ours.local_addr().unwrap();
        let told = PassedSocket { listener: String::new(), asked, nth: 0, worker: 0 };
        let model = model(&[("web", &[&asked.to_string()])]);
        let listening = Listening::open(&model, 3, None, vec![(told, ours)]).unwrap();
        let _client = std::net::TcpStream::connect(asked).unwrap();
        let last = listening.of_worker(2, |_| true).unwrap();
        assert!(last[0].accept().is_ok());
    }
}
