//! Giving connections of listeners to workers: which sockets the accept program chooses from.
//!
//! The program is attached to the group of sockets that listen at one address (`SO_REUSEPORT`); it stays
//! for as long as any of them is open, so it outlives the daemon as the workers do. Each address has a
//! row in `SOCKETS`, in which each worker has its seat. A socket leaves its seat by being closed.

use std::net::{IpAddr, SocketAddr, TcpListener};

use aya::maps::{HashMap, MapData, ReusePortSockArray};
use aya::programs::SkReuseport;
use steerage_common::abi::{FAMILY_IPV4, FAMILY_IPV6, ListenerKey};
use steerage_common::limits::{LISTENERS, WORKERS};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::error::os_error;
use super::{Error, Kernel, take};

/// The program's name in the object.
const PROGRAM: &str = "steerage_accept";

const KEY_BYTES: usize = size_of::<ListenerKey>();

/// The tables of the program.
pub(super) struct Seats {
    rows: HashMap<MapData, [u8; KEY_BYTES], u32>,
    sockets: ReusePortSockArray<MapData>,
}

impl Seats {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        Ok(Self { rows: take(ebpf, "LISTENERS")?, sockets: take(ebpf, "SOCKETS")? })
    }

    /// The address's row; a free one if it has none.
    fn row(&mut self, address: SocketAddr) -> Result<u32, Error> {
        let failed = Error::map("LISTENERS");
        let key = key(address);
        let mut used = [false; LISTENERS];
        for entry in self.rows.iter() {
            let (other, row) = entry.map_err(Error::map("LISTENERS"))?;
            if other == key {
                return Ok(row);
            }
            if let Some(used) = used.get_mut(row as usize) {
                *used = true;
            }
        }
        let Some(row) = used.iter().position(|is_used| !is_used) else {
            return Err(Error::OutOfRange { what: "listening address", index: LISTENERS });
        };
        self.rows.insert(key, row as u32, 0).map_err(failed)?;
        Ok(row as u32)
    }
}

/// Loads the program.
pub(super) fn load(ebpf: &mut aya::Ebpf) -> Result<(), Error> {
    let program = ebpf.program_mut(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
    let program: &mut SkReuseport = program.try_into().map_err(Error::load)?;
    program.load().map_err(Error::load)
}

impl Kernel {
    /// Has the program give the connections to `address` to the workers that sit at the sockets' seats,
    /// beside those that do already.
    ///
    /// # Errors
    /// If there are too many addresses, or the kernel refuses.
    pub fn steer<'a>(
        &mut self,
        address: SocketAddr,
        sockets: impl IntoIterator<Item = (usize, &'a TcpListener)>,
    ) -> Result<(), Error> {
        let row = self.seats.row(address)?;
        for (seat, socket) in sockets {
            let place = row * WORKERS as u32 + (seat % WORKERS) as u32;
            match self.seats.sockets.set(place, socket, 0) {
                // One that a former daemon passed on has its seat, and keeps it.
                Err(error) if os_error(&error) == Some(libc::EBUSY) => {}
                outcome => outcome.map_err(Error::map("SOCKETS"))?,
            }
            self.accept_program()?.attach(socket).map_err(Error::load)?;
        }
        Ok(())
    }

    /// Gives up the rows of all addresses but these.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn steer_only(&mut self, addresses: &[SocketAddr]) -> Result<(), Error> {
        let kept: Vec<_> = addresses.iter().copied().map(key).collect();
        let keys: Result<Vec<_>, _> = self.seats.rows.keys().collect();
        for key in keys.map_err(Error::map("LISTENERS"))? {
            if !kept.contains(&key) {
                self.seats.rows.remove(&key).map_err(Error::map("LISTENERS"))?;
            }
        }
        Ok(())
    }

    /// The program.
    ///
    /// # Errors
    /// If the object has none.
    pub fn accept_program(&self) -> Result<&SkReuseport, Error> {
        let program = self.ebpf.program(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
        program.try_into().map_err(Error::load)
    }

    /// The addresses that have a row.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn steered(&self) -> Result<Vec<SocketAddr>, Error> {
        let keys: Result<Vec<_>, _> = self.seats.rows.keys().collect();
        let keys = keys.map_err(Error::map("LISTENERS"))?;
        Ok(keys.iter().filter_map(address).collect())
    }
}

fn key(address: SocketAddr) -> [u8; KEY_BYTES] {
    let mut key = ListenerKey { address: [0; 16], port: address.port(), family: 0, reserved: 0 };
    match address.ip() {
        IpAddr::V4(v4) => {
            key.address[..4].copy_from_slice(&v4.octets());
            key.family = FAMILY_IPV4;
        }
        IpAddr::V6(v6) => {
            key.address = v6.octets();
            key.family = FAMILY_IPV6;
        }
    }
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(key.as_bytes());
    bytes
}

fn address(bytes: &[u8; KEY_BYTES]) -> Option<SocketAddr> {
    let key = ListenerKey::read_from_bytes(bytes).ok()?;
    let ip = match key.family {
        FAMILY_IPV4 => IpAddr::from(*key.address.first_chunk::<4>()?),
        _ => IpAddr::from(key.address),
    };
    Some(SocketAddr::new(ip, key.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_address() {
        for text in ["10.1.2.3:80", "0.0.0.0:443", "[2001:db8::7]:8080", "[::]:1"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(address(&key(at)), Some(at));
        }
    }
}
