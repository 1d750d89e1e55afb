//! The backend's end of tunnels: a program of its own on the backend's link, for as long as the process
//! that put it there runs. It shares nothing with a balancer on the same host.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use steerage_common::abi::Decap;
use tracing::info;

use super::Error;
use crate::config::model::table_address;

/// The program, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.o"));

const XDP: &str = "steerage_decap";
const TCX: &str = "steerage_decap_tcx";

/// Where a program sees a link's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hook {
    /// XDP: the cheapest; one program on each link, and frames of one page in native mode.
    Xdp,
    /// tcx: beside any other program, on any link and with frames of any size (Linux 6.6).
    Tcx,
}

/// A decapsulator. Dropping it takes its program off all links.
pub struct Decapsulator {
    ebpf: Ebpf,
    hook: Hook,
    counters: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Decapsulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decapsulator").finish_non_exhaustive()
    }
}

impl Decapsulator {
    /// Loads the program of a hook, for packets to these service addresses.
    ///
    /// # Errors
    /// If there is no privilege, or too many addresses.
    pub fn load(served: &[IpAddr], hook: Hook) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(Error::load)?;
        let mut map: HashMap<MapData, [u8; 16], u8> = super::take(&mut ebpf, "SERVED")?;
        for address in served {
            let (address, _) = table_address(*address);
            map.insert(address, 1, 0).map_err(Error::map("SERVED"))?;
        }
        let counters = super::take(&mut ebpf, "DECAP_COUNTERS")?;
        let mut this = Self { ebpf, hook, counters };
        match hook {
            Hook::Xdp => this.xdp_mut()?.load(),
            Hook::Tcx => this.tcx_mut()?.load(),
        }
        .map_err(Error::load)?;
        Ok(this)
    }

    /// Puts the program on a link: on XDP in native mode if the driver can, on tcx before all others.
    ///
    /// # Errors
    /// If there is no such link, another program is on it, or the kernel has no tcx.
    pub fn attach(&mut self, interface: &str) -> Result<(), Error> {
        let ifindex =
            if_nametoindex(interface).map_err(|_| Error::NoInterface(interface.to_owned()))?;
        let failed =
            |error| Error::Attach { interface: interface.to_owned(), source: Box::new(error) };
        if self.hook == Hook::Tcx {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let program = self.tcx_mut()?;
            let link = program.attach_with_options(interface, TcAttachType::Ingress, options);
            return link.map(drop).map_err(failed);
        }
        let program = self.xdp_mut()?;
        if let Err(error) = program.attach_to_if_index(ifindex, XdpMode::Driver) {
            info!(interface, %error, "no XDP in this driver, or not as it is set up: generic mode");
            program.attach_to_if_index(ifindex, XdpMode::Skb).map_err(failed)?;
        }
        Ok(())
    }

    /// The program on XDP, to run it on packets of one's own (`aya::TestRun`).
    ///
    /// # Errors
    /// If the object has none.
    pub fn xdp(&self) -> Result<&Xdp, Error> {
        let program = self.ebpf.program(XDP).ok_or(Error::Missing(XDP))?;
        program.try_into().map_err(Error::load)
    }

    /// The program on tcx, to run it on packets of one's own.
    ///
    /// # Errors
    /// If the object has none.
    pub fn tcx(&self) -> Result<&SchedClassifier, Error> {
        let program = self.ebpf.program(TCX).ok_or(Error::Missing(TCX))?;
        program.try_into().map_err(Error::load)
    }

    fn xdp_mut(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(XDP).ok_or(Error::Missing(XDP))?;
        program.try_into().map_err(Error::load)
    }

    fn tcx_mut(&mut self) -> Result<&mut SchedClassifier, Error> {
        let program = self.ebpf.program_mut(TCX).ok_or(Error::Missing(TCX))?;
        program.try_into().map_err(Error::load)
    }

    /// Packets by what became of them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counts(&self) -> Result<[u64; Decap::ALL.len()], Error> {
        let mut counts = [0; Decap::ALL.len()];
        for (count, what) in counts.iter_mut().zip(Decap::ALL) {
            let values = self.counters.get(&(what as u32), 0);
            *count = values.map_err(Error::map("DECAP_COUNTERS"))?.iter().sum();
        }
        Ok(counts)
    }
}
