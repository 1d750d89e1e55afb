//! The listening sockets: one for each worker and address, all made and held by the supervisor.
//!
//! A worker that dies leaves its sockets open here, with the connections that wait in them; its
//! successor gets the same ones. `SO_REUSEPORT` lets a new supervisor bind beside the workers of a
//! dead one.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;
use crate::config::Model;

/// Connections that wait for a worker, per socket.
const BACKLOG: i32 = 4096;

/// One worker's sockets.
pub type Sockets = Vec<(usize, TcpListener)>;

/// Binds every listener of the model once for each worker.
///
/// # Errors
/// Names the listener and address that could not be bound, and why.
pub fn bind(model: &Model, workers: usize) -> Result<Vec<Sockets>, Error> {
    let mut all: Vec<Sockets> = (0..workers).map(|_| Vec::new()).collect();
    for (index, listener) in model.listeners.iter().enumerate() {
        for address in &listener.bind {
            let failed =
                |source| Error::Bind { listener: listener.name.clone(), address: *address, source };
            let mut address = *address;
            for sockets in &mut all {
                let socket = bind_one(address).map_err(failed)?;
                // Port 0 lets the system choose, but one port for all workers.
                address = socket.local_addr().map_err(failed)?;
                sockets.push((index, socket));
            }
        }
    }
    Ok(all)
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

    fn model(bind: &str) -> Model {
        let text = format!(
            "[[listener]]\nname = \"web\"\nbind = [\"{bind}\"]\nprotocol = \"http\"\n\
             [[listener.route]]\nservice = \"a\"\n[[service]]\nname = \"a\"\n"
        );
        crate::config::parse(std::path::Path::new("test"), &text).unwrap()
    }

    #[test]
    fn all_workers_share_one_address() {
        let sockets = bind(&model("127.0.0.1:0"), 3).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|s| s[0].1.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| *address == addresses[0] && address.port() != 0));
    }

    #[test]
    fn an_occupied_address_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let message = bind(&model(&address.to_string()), 2).unwrap_err().to_string();
        assert!(message.contains("\"web\"") && message.contains(&address.to_string()), "{message}");
    }
}
