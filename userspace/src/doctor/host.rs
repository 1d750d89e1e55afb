//! The host: kernel, privileges, mounts, limits.

use std::fs;
use std::path::{Path, PathBuf};

use aya::util::KernelVersion;

use super::Finding;
use crate::config::Model;
use crate::kernel::{self, Kernel};
use crate::net;
use crate::supervisor::BACKLOG;
use crate::sys;

/// Since when the kernel hands received data over without a copy (`IORING_OP_RECV_ZC`).
const KERNEL_ZERO_COPY: (u8, u8) = (6, 15);

/// Capabilities that the supervisor uses, by their numbers in `capability.h`.
const CAPABILITIES: [(u32, &str); 6] = [
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Open files that 100,000 connections need: two each.
const FILES_WANTED: u64 = 200_000;

pub fn examine(model: Option<&Model>) -> Vec<Finding> {
    let mut findings = vec![version(), privileges(), container(), ebpf(model), ring(), zero_copy()];
    findings.extend([files(), backlog(), btf()]);
    findings.extend(user(model));
    findings.extend(running(model));
    findings
}

fn at_least((major, minor): (u8, u8)) -> Option<bool> {
    let version = KernelVersion::current().ok()?;
    Some(version >= KernelVersion::new(major, minor, 0))
}

fn version() -> Finding {
    match kernel::check_kernel() {
        Ok(()) => Finding::ok("kernel", read("/proc/sys/kernel/osrelease")),
        Err(error) => Finding::fail(
            "kernel",
            error.to_string(),
            "a newer kernel; L7 alone works with older ones, without eBPF",
        ),
    }
}

fn privileges() -> Finding {
    let status = read("/proc/self/status");
    let effective = field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let effective = effective.unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    if !sys::is_root() {
        return Finding::fail("privileges", "not root", "sudo steerage doctor");
    }
    match missing.is_empty() {
        true => Finding::ok("privileges", "root, with all capabilities that are used"),
        false => Finding::fail(
            "privileges",
            format!("root, without {}", missing.join(", ")),
            "give the service, or the container, these capabilities; without CAP_BPF and \
             CAP_NET_ADMIN there is L7 only",
        ),
    }
}

fn container() -> Finding {
    let status = read("/proc/self/status");
    let is_filtered = field(&status, "Seccomp:").is_some_and(|mode| mode != "0");
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let inside = marks.into_iter().find(|path| Path::new(path).exists());
    match (inside, is_filtered) {
        (None, false) => Finding::ok("container", "none"),
        (Some(_), false) => Finding::ok("container", "inside one, without a system call filter"),
        (_, true) => Finding::warn(
            "container",
            "a system call filter is in force",
            "it may forbid bpf(2) and io_uring: see the two below",
        ),
    }
}

/// Loads everything as the daemon does, in an instance of its own.
fn ebpf(model: Option<&Model>) -> Finding {
    const WHAT: &str = "eBPF";
    let bpf_dir =
        model.map_or(PathBuf::from("/sys/fs/bpf/steerage"), |model| model.global.bpf_dir.clone());
    let existed = bpf_dir.exists();
    let instance_dir = bpf_dir.join(format!("doctor-{}", std::process::id()));
    let log_level = crate::config::model::LogLevel::Error;
    let options = kernel::Options {
        instance_dir: instance_dir.clone(),
        cells: 1,
        max_flows: 1,
        max_sources: 1,
        log_level,
    };
    let loaded = Kernel::load(&options).map(drop);
    let _ = kernel::detach(&instance_dir);
    let _ = fs::remove_dir(&instance_dir);
    if !existed {
        let _ = fs::remove_dir(&bpf_dir);
    }
    let has_vips = model.is_some_and(|model| !model.vips.is_empty());
    match loaded {
        Ok(()) => Finding::ok(WHAT, "the programs load, and pins can be made"),
        Err(error) if has_vips => Finding::fail(WHAT, error.to_string(), "vips need it"),
        Err(error) => Finding::warn(
            WHAT,
            error.to_string(),
            "without it: no vips, health ends with the daemon, connections are spread by hash",
        ),
    }
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    match Path::new(path).exists() {
        true => Finding::ok("BTF", path),
        false => Finding::warn(
            "BTF",
            "the kernel has none",
            "CONFIG_DEBUG_INFO_BTF=y; without it bpftool shows tables as bytes",
        ),
    }
}

fn ring() -> Finding {
    match net::run(net::Io::IoUring, async {}) {
        Ok(()) => Finding::ok("io_uring", "is to be had"),
        Err(error) => Finding::warn(
            "io_uring",
            error.to_string(),
            "Linux 6.1 with kernel.io_uring_disabled = 0; workers use epoll, at a few percent more CPU",
        ),
    }
}

fn zero_copy() -> Finding {
    const WHAT: &str = "zero-copy receive";
    let (major, minor) = KERNEL_ZERO_COPY;
    match at_least(KERNEL_ZERO_COPY) {
        Some(true) => Finding::ok(
            WHAT,
            "the kernel has it; a card needs tcp-data-split (ethtool -g); not used by this version",
        ),
        _ => Finding::ok(WHAT, format!("Linux {major}.{minor} has it; not used by this version")),
    }
}

fn files() -> Finding {
    const WHAT: &str = "open files";
    match sys::raise_open_files() {
        Ok(limit) if limit >= FILES_WANTED => Finding::ok(WHAT, format!("up to {limit}")),
        Ok(limit) => Finding::warn(
            WHAT,
            format!("up to {limit}: about {} connections at a time", limit / 2),
            format!("LimitNOFILE={FILES_WANTED} or more (ulimit -Hn)"),
        ),
        Err(error) => Finding::warn(WHAT, error.to_string(), "LimitNOFILE in the unit file"),
    }
}

fn backlog() -> Finding {
    const WHAT: &str = "listen backlog";
    let found = read("/proc/sys/net/core/somaxconn");
    match found.parse::<i32>() {
        Ok(most) if most >= BACKLOG => Finding::ok(WHAT, format!("{most} connections may wait")),
        _ => Finding::warn(
            WHAT,
            format!("{found} connections may wait"),
            format!("sysctl -w net.core.somaxconn={BACKLOG}"),
        ),
    }
}

fn user(model: Option<&Model>) -> Option<Finding> {
    let wanted = model.and_then(|model| model.global.user.clone());
    let names = wanted.clone().map_or(vec!["steerage".into(), "nobody".into()], |name| vec![name]);
    let found = names.iter().find(|name| sys::account(name).ok().flatten().is_some());
    Some(match (found, wanted) {
        (Some(name), Some(_)) => Finding::ok("workers' user", name),
        (Some(name), None) if name == "steerage" => Finding::ok("workers' user", name),
        (Some(name), None) => Finding::warn(
            "workers' user",
            format!("{name}, which other services may use too"),
            "useradd --system --no-create-home steerage",
        ),
        (None, _) => Finding::fail(
            "workers' user",
            format!("there is no user {}", names.join(" or ")),
            "useradd --system --no-create-home steerage",
        ),
    })
}

fn running(model: Option<&Model>) -> Option<Finding> {
    let admin = &model?.global.admin;
    let is_there = std::os::unix::net::UnixStream::connect(admin).is_ok();
    let found = if is_there { "answers at" } else { "does not run: nobody answers at" };
    Some(Finding::ok("daemon", format!("{found} {}", admin.display())))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
