//! Which worker's queue a new connection goes to.
//!
//! The decision is `steerage_common::crew::choose`; here is what it asks. It runs for every SYN to a
//! listener, and for what is left in the queue of a listening socket that closes. Where it decides
//! nothing (no worker lives, the address is not in the table) the kernel takes its own choice, by hash.

use core::ptr;

use aya_ebpf::{
    bindings::{sk_action::SK_PASS, sk_reuseport_md},
    helpers::bpf_ktime_get_ns,
    programs::SkReuseportContext,
};
use steerage_common::{
    abi::{FAMILY_IPV4, FAMILY_IPV6, ListenerKey},
    crew::{self, Candidate, Live, Load, NOBODY},
    limits::WORKERS as LINES,
};

use crate::maps::{CREW, LISTENERS, SOCKETS, WORKERS};

/// Workers to try: one may live and have no socket at this address, while a configuration or a
/// supervisor follows another.
const ATTEMPTS: u32 = 4;

/// `AF_INET6` of the kernel.
const AF_INET6: u32 = 10;

/// Leaves the connection with a worker, or with the kernel.
pub fn steer(context: &SkReuseportContext) -> u32 {
    // Whatever is not chosen here is chosen by the kernel: no connection is refused.
    let _ = choose(context);
    SK_PASS
}

fn choose(context: &SkReuseportContext) -> Option<()> {
    let key = listener(context.md);
    // SAFETY: the row is stored whole, and entries are neither freed nor used again within a run.
    let row = *unsafe { LISTENERS.get(&key) }?;
    let count = live()?.count();
    // SAFETY: the helper has no preconditions.
    let now_us = unsafe { bpf_ktime_get_ns() } / 1000;
    // The lines that were tried, in 16 bits each.
    let mut tried = u64::MAX;
    for _ in 0..ATTEMPTS {
        let candidate = |n| Candidate::from_raw(accept_candidate(n, now_us, tried));
        let line = crew::choose(count, context.hash(), candidate).line();
        if line == NOBODY {
            return None;
        }
        let worker = WORKERS.get_ptr_mut(line.into())?;
        // SAFETY: a u32 of a map value, stored whole elsewhere.
        let seat = unsafe { ptr::read_volatile(&raw const (*worker).seat) };
        let place = row * LINES as u32 + seat % LINES as u32;
        if SOCKETS.select_reuseport(context, place).is_ok() {
            // SAFETY: a u32 of a map value.
            add_one(unsafe { &raw mut (*worker).pending });
            return Some(());
        }
        tried = tried << 16 | u64::from(line);
    }
    None
}

/// The nth live worker, unless it was tried. A function of its own, so that the kernel looks at it once
/// and not for every call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn accept_candidate(n: u32, now_us: u64, tried: u64) -> u64 {
    let Some(live) = live() else { return Candidate::NONE.to_raw() };
    let line = live.nth(n);
    let is_tried = (0..ATTEMPTS).any(|at| (tried >> (16 * at)) as u16 == line);
    // Another one may have died since they were counted.
    if line == NOBODY || is_tried {
        return Candidate::NONE.to_raw();
    }
    load(line).candidate(line, now_us).to_raw()
}

/// The workers that take connections.
#[inline(always)]
fn live() -> Option<Live> {
    let crew = CREW.get(0)?;
    let mut live = Live::default();
    for (word, shared) in live.0.iter_mut().zip(&crew.live) {
        // SAFETY: a reference to a u64 in shared memory, changed by atomic operations elsewhere.
        *word = unsafe { ptr::read_volatile(shared) };
    }
    Some(live)
}

#[inline(always)]
fn load(line: u16) -> Load {
    let Some(worker) = WORKERS.get(line.into()) else { return Load::default() };
    // SAFETY: references to words in shared memory, each stored whole elsewhere.
    unsafe {
        Load {
            active: ptr::read_volatile(&raw const worker.active_requests),
            pending: ptr::read_volatile(&raw const worker.pending),
            connections: ptr::read_volatile(&raw const worker.connections),
            busy_since_us: ptr::read_volatile(&raw const worker.busy_since_us),
            is_full: ptr::read_volatile(&raw const worker.full) != 0,
        }
    }
}

/// The address that the group of sockets listens at.
#[inline(always)]
fn listener(md: *mut sk_reuseport_md) -> ListenerKey {
    // SAFETY: the context's socket is one of the group, and never null. Each field is read by itself,
    // as wide as the kernel lets them be read.
    unsafe {
        let socket = (*md).__bindgen_anon_3.sk;
        let mut words = [0_u32; 4];
        let is_ipv6 = ptr::read_volatile(&raw const (*socket).family) == AF_INET6;
        if is_ipv6 {
            words[0] = ptr::read_volatile(&raw const (*socket).src_ip6[0]);
            words[1] = ptr::read_volatile(&raw const (*socket).src_ip6[1]);
            words[2] = ptr::read_volatile(&raw const (*socket).src_ip6[2]);
            words[3] = ptr::read_volatile(&raw const (*socket).src_ip6[3]);
        } else {
            words[0] = ptr::read_volatile(&raw const (*socket).src_ip4);
        }
        ListenerKey {
            address: zerocopy::transmute!(words),
            port: ptr::read_volatile(&raw const (*socket).src_port) as u16,
            family: if is_ipv6 { FAMILY_IPV6 } else { FAMILY_IPV4 },
            reserved: 0,
        }
    }
}

/// Adds one while others do.
#[inline(always)]
fn add_one(counter: *mut u32) {
    // SAFETY: a u32 of a map value; `core::sync::atomic` has no read-modify-write on this target.
    unsafe {
        #[cfg(target_arch = "bpf")]
        core::arch::asm!(
            "lock *(u32 *)(r1 + 0) += r2",
            in("r1") counter,
            in("r2") 1_u64,
        );
        #[cfg(not(target_arch = "bpf"))]
        counter.write(counter.read() + 1);
    }
}
