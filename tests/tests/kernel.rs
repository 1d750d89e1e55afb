//! What an operator may rely on when the programs are loaded, attached, replaced and removed. Needs
//! root.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use socket2::{Domain, Socket, Type};
use steerage::config::model::LogLevel;
use steerage::kernel::{self, Error, Kernel, Mode, Options};
use steerage_common::abi::{FAMILY_IPV4, FAMILY_IPV6, SCHEMA_VERSION, Vip, VipKey};
use steerage_common::limits::{LISTENERS, SLOTS};
use steerage_tests::xdp::{CLIENT_LINK, Host};

/// An instance of its own, removed when dropped.
struct Instance(PathBuf);

impl Instance {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("steerage-test-kernel-{}-{number}", std::process::id());
        Self(Path::new("/sys/fs/bpf").join(name))
    }

    fn options(&self) -> Options {
        Options {
            instance_dir: self.0.clone(),
            cells: SLOTS as u32,
            max_flows: 1000,
            max_sources: 1000,
            log_level: LogLevel::Info,
        }
    }

    fn load(&self) -> Result<Kernel, Error> {
        Kernel::load(&self.options())
    }

    fn maps(&self) -> PathBuf {
        self.0.join(format!("v{SCHEMA_VERSION}"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        kernel::detach(&self.0).expect("the instance's pins can be removed");
        assert!(!self.0.exists());
    }
}

const KEY: VipKey = VipKey { address: [9; 16], port_be: 80, protocol: 6, family: 4 };
const VIP: Vip =
    Vip { generation: 7, index: 3, service: 2, mode: 1, flags: 0, guard: 0, server_id_lengths: 0 };

#[test]
fn vips_survive_the_daemon() -> Result<()> {
    let instance = Instance::new();
    let mut first = instance.load()?;
    first.set_vip(&KEY, &VIP)?;
    drop(first);
    let mut second = instance.load()?;
    assert_eq!(second.vips()?, [(KEY, VIP)]);
    second.remove_vip(&KEY)?;
    second.remove_vip(&KEY)?;
    assert_eq!(second.vips()?, []);
    Ok(())
}

#[test]
fn a_map_of_another_layout_is_refused_and_left_alone() -> Result<()> {
    let instance = Instance::new();
    std::fs::create_dir_all(instance.maps())?;
    let foreign: Array<MapData, u64> = Array::create(3, 0)?;
    let pin = instance.maps().join("VIPS");
    foreign.pin(&pin)?;
    let message = instance.load().map(drop).expect_err("a refusal").to_string();
    for part in ["VIPS", "a array of 3 entries", "a hash of 512 entries", "steerage detach"] {
        assert!(message.contains(part), "{part} in: {message}");
    }
    assert!(pin.exists());
    assert_eq!(std::fs::read_dir(instance.maps())?.count(), 1, "nothing half-started");
    Ok(())
}

#[test]
fn tables_follow_the_configured_size() -> Result<()> {
    let instance = Instance::new();
    let mut first = instance.load()?;
    first.set_vip(&KEY, &VIP)?;
    drop(first);
    let options = Options { cells: 2 * SLOTS as u32, max_flows: 5000, ..instance.options() };
    let second = Kernel::load(&options)?;
    steerage::region::Region::map(&second.region_fds(steerage::region::figures::memory(2)?)?, 2)
        .context("room for two workers")?;
    assert_eq!(second.vips()?, [(KEY, VIP)], "other maps stay");
    Ok(())
}

#[test]
fn pins_need_a_bpf_file_system() {
    let instance_dir = std::env::temp_dir().join("steerage-test-no-bpffs");
    let options = Options { instance_dir: instance_dir.clone(), ..Instance::new().options() };
    let error = Kernel::load(&options).map(drop).expect_err("a refusal");
    assert!(matches!(error, Error::NoBpffs { .. }), "{error}");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
    assert!(!instance_dir.exists());
}

#[test]
fn the_program_stays_on_its_link_and_is_replaced_in_place() -> Result<()> {
    let host = Host::new(1)?;
    let instance = Instance::new();
    host.enter(|| -> Result<()> {
        let mut first = instance.load()?;
        assert_eq!(first.attach(CLIENT_LINK, &[FAMILY_IPV4])?, Mode::Native);
        let first_id = first.program()?.info()?.id();
        drop(first);
        let is_loaded =
            |id| aya::programs::loaded_programs().flatten().any(|program| program.id() == id);
        assert!(is_loaded(first_id), "the link keeps it");
        let mut second = instance.load()?;
        assert_eq!(second.attach(CLIENT_LINK, &[FAMILY_IPV4])?, Mode::Native);
        assert_ne!(second.program()?.info()?.id(), first_id);

        let other = Instance::new();
        let error =
            other.load()?.attach(CLIENT_LINK, &[FAMILY_IPV4]).expect_err("a link has one program");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(other);

        second.detach_all()?;
        let third = Instance::new();
        assert_eq!(
            third.load()?.attach(CLIENT_LINK, &[FAMILY_IPV4])?,
            Mode::Native,
            "the link is free again"
        );
        Ok(())
    })
}

#[test]
fn a_link_that_went_and_came_again_gets_the_program_again() -> Result<()> {
    let host = Host::new(1)?;
    let instance = Instance::new();
    host.enter(|| instance.load()?.attach(CLIENT_LINK, &[FAMILY_IPV4]).map(drop))?;
    host.ip(&["link", "del", CLIENT_LINK])?;
    host.ip(&["link", "add", CLIENT_LINK, "type", "veth", "peer", "name", "far"])?;
    let mode = host.enter(|| instance.load()?.attach(CLIENT_LINK, &[FAMILY_IPV4]))?;
    assert_eq!(mode, Mode::Native);
    Ok(())
}

#[test]
fn a_driver_without_xdp_gets_the_generic_mode() -> Result<()> {
    let host = Host::new(1)?;
    let instance = Instance::new();
    // The loopback's driver has no XDP.
    assert_eq!(host.enter(|| instance.load()?.attach("lo", &[]))?, Mode::Generic);
    Ok(())
}

#[test]
fn a_missing_interface_and_a_link_that_does_not_forward_are_named() -> Result<()> {
    let host = Host::new(1)?;
    let instance = Instance::new();
    host.enter(|| -> Result<()> {
        let mut kernel = instance.load()?;
        let error = kernel.attach("nowhere0", &[]).expect_err("there is no such link");
        assert!(error.to_string().contains("\"nowhere0\""), "{error}");
        let forwarding = format!("/proc/sys/net/ipv4/conf/{CLIENT_LINK}/forwarding");
        std::fs::write(forwarding, "0")?;
        let error = kernel.attach(CLIENT_LINK, &[FAMILY_IPV4]).expect_err("nat needs forwarding");
        assert!(error.to_string().contains("sysctl -w net.ipv4.conf.clients.forwarding=1"));
        let forwarding = format!("/proc/sys/net/ipv6/conf/{CLIENT_LINK}/forwarding");
        std::fs::write(forwarding, "0")?;
        let error = kernel.attach(CLIENT_LINK, &[FAMILY_IPV6]).expect_err("and so does IPv6");
        assert!(error.to_string().contains("sysctl -w net.ipv6.conf.clients.forwarding=1"));
        Ok(())
    })
}

#[test]
fn a_listening_address_has_a_row_for_as_long_as_it_is_wanted() -> Result<()> {
    let instance = Instance::new();
    let mut first = instance.load()?;
    let listen = || -> Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(1)?;
        Ok(socket.into())
    };
    let sockets = [listen()?, listen()?];
    let at: Vec<_> = sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    first.steer(at[0], [(0, &sockets[0])])?;
    drop(first);
    let mut second = instance.load()?;
    second.steer(at[1], [(7, &sockets[1])])?;
    let steered: HashSet<_> = second.steered()?.into_iter().collect();
    assert_eq!(steered, HashSet::from([at[0], at[1]]), "rows survive the daemon");
    second.steer_only(&at[1..])?;
    assert_eq!(second.steered()?, at[1..]);

    let places = (1..=LISTENERS as u16).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let more = places.filter(|place| !at.contains(place)).collect::<Vec<_>>();
    for place in &more[..LISTENERS - 1] {
        second.steer(*place, [])?;
    }
    let error = second.steer(SocketAddr::from(([127, 0, 0, 2], 1)), []).expect_err("no row left");
    assert!(error.to_string().contains("listening address 256"), "{error}");
    Ok(())
}

/// A quarter of what the kernel allows: it shows early when a change makes it look at much more.
#[test]
fn the_kernel_need_not_look_at_too_much_of_the_program() -> Result<()> {
    let plane = steerage_tests::xdp::Plane::new(&[1])?;
    let kernel = &plane.kernel;
    let programs = [
        kernel.program()?.info()?,
        kernel.rest_program()?.info()?,
        kernel.accept_program()?.info()?,
    ];
    let mut total = 0;
    for info in programs {
        let looked_at = info.verified_instruction_count().context("Linux 5.16 tells")?;
        println!(
            "{:?}: {looked_at} instructions looked at, {} bytes as loaded",
            info.name_as_str(),
            info.size_translated().unwrap_or(0)
        );
        total += looked_at;
    }
    assert!(total < 250_000, "{total}");
    Ok(())
}
