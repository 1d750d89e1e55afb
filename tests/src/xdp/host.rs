//! A host as a network namespace: one link towards clients, one towards backends.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use super::{Family, SOURCE};

/// The link that clients' packets come in on.
pub const CLIENT_LINK: &str = "clients";
/// The link that leads to the backends.
pub const BACKEND_LINK: &str = "backends";

/// Neighbour of the default route, and the MAC address it has.
const GATEWAY: &str = "10.1.0.254";
const GATEWAY_V6: &str = "fd00:1::fe";
/// MAC address of the gateway: the last byte of every neighbour's address tells who it is.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 1, 0, 254];

/// The host's own MAC address on [`CLIENT_LINK`].
pub const CLIENT_LINK_MAC: [u8; 6] = [2, 0, 0, 1, 0, 1];
/// The host's own MAC address on [`BACKEND_LINK`].
pub const BACKEND_LINK_MAC: [u8; 6] = [2, 0, 0, 2, 0xff, 1];

/// A namespace, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Index of [`CLIENT_LINK`].
    pub client_ifindex: u32,
    /// Index of [`BACKEND_LINK`].
    pub backend_ifindex: u32,
}

impl Host {
    /// A host that knows the link addresses of its gateway and of `backends` backends.
    ///
    /// # Errors
    /// If this process is not root, or a command fails.
    pub fn new(backends: u16) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run as root"
        );
        let name = format!("steerage-xdp-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&["netns", "add", &name], "")?;
        let mut host = Self { name, client_ifindex: 0, backend_ifindex: 0 };
        let gateway = mac_text(GATEWAY_MAC);
        let mut batch = format!(
            "link add {CLIENT_LINK} address {} type veth peer name {CLIENT_LINK}-far\n\
             link add {BACKEND_LINK} address {} type veth peer name {BACKEND_LINK}-far\n\
             link set {CLIENT_LINK} up\nlink set {CLIENT_LINK}-far up\n\
             link set {BACKEND_LINK} up\nlink set {BACKEND_LINK}-far up\n\
             addr add 10.1.0.1/16 dev {CLIENT_LINK}\n\
             addr add {SOURCE}/16 dev {BACKEND_LINK}\n\
             addr add fd00:1::1/64 dev {CLIENT_LINK} nodad\n\
             addr add {}/64 dev {BACKEND_LINK} nodad\n\
             neigh replace {GATEWAY} lladdr {gateway} dev {CLIENT_LINK} nud permanent\n\
             route add default via {GATEWAY}\n\
             neigh replace {GATEWAY_V6} lladdr {gateway} dev {CLIENT_LINK} nud permanent\n\
             route add default via {GATEWAY_V6}\n",
            mac_text(CLIENT_LINK_MAC),
            mac_text(BACKEND_LINK_MAC),
            Family::V6.source(),
        );
        for slot in 0..backends {
            let mac = mac_text(backend_mac(slot));
            for family in Family::BOTH {
                let (address, dev) = (family.backend(slot), BACKEND_LINK);
                batch += &format!("neigh replace {address} lladdr {mac} dev {dev} nud permanent\n");
            }
        }
        run(&["-n", &host.name, "-batch", "-"], &batch)?;
        let indices = host.enter(|| -> Result<_> {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
            let v6 = "/proc/sys/net/ipv6/conf/all/forwarding";
            fs::write(v6, "1").context("forwarding of IPv6")?;
            Ok((if_nametoindex(CLIENT_LINK)?, if_nametoindex(BACKEND_LINK)?))
        })?;
        (host.client_ifindex, host.backend_ifindex) = indices;
        Ok(host)
    }

    /// Runs `action` in the namespace, on a thread of its own.
    ///
    /// # Panics
    /// If the namespace is gone, or `action` panics.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(self.path()).expect("the namespace exists");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter namespaces");
                action()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `ip` with these arguments on the host.
    ///
    /// # Errors
    /// If the command fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        run(&all, "")
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = run(&["netns", "delete", &self.name], "") {
            eprintln!("namespace {} stays: {error:#}", self.name);
        }
    }
}

/// The link address of the backend at `slot`.
#[must_use]
pub fn backend_mac(slot: u16) -> [u8; 6] {
    let [high, low] = slot.to_be_bytes();
    [2, 0, 0, 2, high, low]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn run(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("writing to ip")?;
    }
    let output = child.wait_with_output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), message.trim());
    Ok(())
}
