//! Copies of packets for `steerage capture`: as they came, and as they leave.
//!
//! While nobody captures, a packet costs a look at one word before and after. Which packets are wanted is
//! known only when their way is: so one of [`Capture::sample`] is noted when it comes, and handed over when
//! it leaves, if its vip is the one that is asked for. Whoever captures says again and again until when, so
//! that a reader that was killed is forgotten by itself.
//!
//! What became of the packet is read off the counters of reasons: the programs need not tell.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_PASS, XDP_REDIRECT, XDP_TX},
        xdp_md,
    },
    helpers::bpf_get_prandom_u32,
    programs::XdpContext,
};
use steerage_common::{
    abi::Reason,
    capture::{Captured, REASON_NONE},
};

use crate::{
    flow::now_ns,
    maps::{CAPTURE, CAPTURED, COPY, REASON_COUNTERS},
    packet::Frame,
};

/// A packet on its way through the programs, if it is to be copied.
#[repr(C, align(8))]
pub struct Copy {
    record: Captured,
    /// The counters of reasons when the packet came.
    reasons: [u64; Reason::ALL.len()],
    /// Whether a packet was noted, and has not left yet.
    is_noted: u64,
}

/// Whether anybody captures.
#[inline(always)]
fn is_on() -> bool {
    let Some(capture) = CAPTURE.get(0) else { return false };
    // SAFETY: a reference to a u32 in shared memory, stored whole elsewhere.
    unsafe { ptr::read_volatile(&raw const capture.sample) != 0 }
}

/// A packet came.
#[inline(always)]
pub fn begin(context: &XdpContext) {
    if is_on() {
        capture_begin(context.as_ptr().cast());
    }
}

/// It leaves, in the way of `action`.
#[inline(always)]
pub fn end(context: &XdpContext, action: u32) {
    if is_on() {
        capture_end(context.as_ptr().cast(), action);
    }
}

/// Copies the packet as it came, if it is one of those to be looked at.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn capture_begin(context: *mut xdp_md) -> u32 {
    let (Some(capture), Some(copy)) = (CAPTURE.get(0), COPY.get_ptr_mut(0)) else { return 0 };
    // SAFETY: this CPU's own; programs on one CPU do not interrupt each other here.
    let copy = unsafe { &mut *copy };
    copy.is_noted = 0;
    // SAFETY: references to words in shared memory, stored whole elsewhere; a helper that takes nothing.
    let (sample, until_ns, chance) = unsafe {
        (
            ptr::read_volatile(&raw const capture.sample),
            ptr::read_volatile(&raw const capture.until_ns),
            bpf_get_prandom_u32(),
        )
    };
    let now = now_ns();
    if now > until_ns || sample == 0 || chance % sample != 0 {
        return 0;
    }
    let frame = Frame::of(&XdpContext::new(context));
    copy.is_noted = 1;
    copy.record.time_ns = now;
    copy.record.before_bytes = frame.len() as u32;
    // SAFETY: the run's own context.
    copy.record.ifindex = unsafe { (*context).ingress_ifindex };
    frame.copy_to(&mut copy.record.before);
    for (index, count) in copy.reasons.iter_mut().enumerate() {
        *count = counted(index as u32);
    }
    0
}

/// Hands the packet over that was noted, if it is of the vip that is asked for.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn capture_end(context: *mut xdp_md, action: u32) -> u32 {
    let (Some(capture), Some(copy)) = (CAPTURE.get(0), COPY.get_ptr_mut(0)) else { return 0 };
    // SAFETY: as in `capture_begin`.
    let copy = unsafe { &mut *copy };
    if copy.is_noted == 0 {
        return 0;
    }
    copy.is_noted = 0;
    let record = &mut copy.record;
    record.action = action;
    record.reason = REASON_NONE;
    for (index, before) in copy.reasons.iter().enumerate() {
        if record.reason == REASON_NONE && counted(index as u32) != *before {
            record.reason = index as u32;
        }
    }
    record.after_bytes = 0;
    if action == XDP_TX || action == XDP_REDIRECT {
        let frame = Frame::of(&XdpContext::new(context));
        record.after_bytes = frame.len() as u32;
        frame.copy_to(&mut record.after);
    }
    let is_wanted = if capture.filter.family == 0 {
        action != XDP_PASS || record.reason != REASON_NONE
    } else {
        capture.filter.is_to(&record.before)
            || record.after_bytes != 0 && capture.filter.is_from(&record.after)
    };
    if is_wanted && CAPTURED.output(record, 0).is_err() {
        // SAFETY: a u64 of a map value; see `balance::set_bits`.
        unsafe { add_one((&raw const capture.lost).cast_mut()) };
    }
    0
}

#[inline(always)]
fn counted(reason: u32) -> u64 {
    REASON_COUNTERS.get(reason).copied().unwrap_or(0)
}

/// Counts while other CPUs do.
///
/// # Safety
/// The counter is an aligned word of a map value.
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(target_arch = "bpf")]
        core::arch::asm!(
            "lock *(u64 *)(r1 + 0) += r2",
            in("r1") counter,
            in("r2") 1u64,
        );
        #[cfg(not(target_arch = "bpf"))]
        counter.write(counter.read() + 1);
    }
}
