//! The benchmark's wrapper: restores the packet, varies its flow, and tail-calls the program under
//! test.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count hands each round the packet that the round before left. A
//! program that rewrites would see its own output from the second round on; this wrapper gives it the
//! same packet, or the next of [`Case::flows`] clients, each time. Its own cost is measured in the same
//! way, with [`bench_floor`] as the program under test.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(missing_docs, reason = "the macros export symbols without documentation")]

use core::{hint::black_box, ptr};

#[path = "../object.rs"]
mod object;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_TX},
    btf_maps::{Array, ProgramArray},
    helpers::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Bytes of the packet that are restored: Ethernet, IP and what of TCP or UDP a program changes.
const HEAD_V4: usize = 54;
const HEAD_V6: usize = 74;
/// Where they are stored, so that no field straddles two stores: a load that spans two fresh stores
/// waits for both, which a packet that a network card wrote never does.
const WORDS_V4: [usize; 8] = [0, 6, 14, 22, 26, 34, 42, 46];
const WORDS_V6: [usize; 10] = [0, 6, 14, 22, 30, 38, 46, 54, 62, 66];

/// One measurement.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Case {
    /// Packets sent so far.
    pub sent: u64,
    /// Flows less one; a power of two less one.
    pub flows_mask: u64,
    /// Bytes of the packet.
    pub bytes: u32,
    /// 1 for IPv6.
    pub is_v6: u32,
    /// The packet, with the client's address and port of flow 0.
    pub head: [u8; 80],
}

#[btf_map]
static CASE: Array<Case, 1> = Array::new();

#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

#[xdp]
pub fn bench(context: XdpContext) -> u32 {
    let _ = restore(&context);
    // SAFETY: both are this run's own. A missing program makes the call return.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    XDP_ABORTED
}

/// What the wrapper is measured with.
#[xdp]
pub fn bench_floor(_context: XdpContext) -> u32 {
    XDP_TX
}

#[inline(always)]
fn restore(context: &XdpContext) -> Option<()> {
    // SAFETY: one program run at a time uses the map.
    let case = unsafe { &mut *CASE.get_ptr_mut(0)? };
    // Opaque, or the compiler subtracts the halves of pointers, which the kernel forbids.
    let bytes = black_box(context.data_end() - context.data());
    let excess = bytes as i32 - case.bytes as i32;
    // What the last round put in front.
    // SAFETY: the context is this run's own.
    if excess != 0 && unsafe { bpf_xdp_adjust_head(context.ctx, excess) } != 0 {
        return None;
    }
    let flow = spread(case.sent & case.flows_mask) & case.flows_mask;
    case.sent += 1;
    if case.is_v6 == 0 {
        fill::<HEAD_V4>(context, &case.head, &WORDS_V4, 26, 34, flow)
    } else {
        fill::<HEAD_V6>(context, &case.head, &WORDS_V6, 34, 54, flow)
    }
}

/// Writes the head, and the client of `flow` into it: 2¹⁴ ports for each address, of which four bytes lie
/// at `address_at`.
#[inline(always)]
fn fill<const HEAD: usize>(
    context: &XdpContext,
    from: &[u8; 80],
    words: &[usize],
    address_at: usize,
    port_at: usize,
    flow: u64,
) -> Option<()> {
    let raw = context.ctx;
    // SAFETY: the run's own context; read anew, as the head may have moved.
    let (start, end) = unsafe {
        ((&raw const (*raw).data).read_volatile(), (&raw const (*raw).data_end).read_volatile())
    };
    let (start, end) = (start as usize, end as usize);
    if start + HEAD > end {
        return None;
    }
    // SAFETY: HEAD bytes are within the packet, as just checked, and within `from`.
    unsafe {
        let head = start as *mut u8;
        for at in words {
            let word = ptr::read_unaligned(from.as_ptr().add(*at).cast::<u64>());
            ptr::write_unaligned(head.add(*at).cast(), word);
        }
        let address = head.add(address_at).cast::<u32>();
        let port = head.add(port_at).cast::<u16>();
        let first = u32::from_be(ptr::read_unaligned(address));
        ptr::write_unaligned(address, (first + (flow >> 14) as u32).to_be());
        let first = u16::from_be(ptr::read_unaligned(port));
        ptr::write_unaligned(port, (first + (flow & 0x3fff) as u16).to_be());
    }
    Some(())
}

/// A permutation of the flows, so that no prefetcher knows the next one.
#[inline(always)]
fn spread(flow: u64) -> u64 {
    flow.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
