//! The kernel programs of Steerage: entry points only.
//!
//! A packet goes through [`parse`] (what is it?), [`guard`] (may it?), [`balance`] (which backend?),
//! [`rewrite`] (new addresses, new checksums) or [`tunnel`] (new headers), and [`route`] (which link?);
//! [`verdict`] counts and decides. What is no whole packet with ports is [`rest`]'s: [`icmp`],
//! [`fragment`]. Policy is computed in userspace and read here from [`maps`]; the only pointer arithmetic on packets is in
//! [`packet`]. [`capture`] copies packets for whoever asks. A connection to a listener goes through [`accept`] (which worker?).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(clippy::needless_borrows_for_generic_args, reason = "keys by value would be copied")]
#![allow(missing_docs, reason = "the macros export symbols without documentation")]

use aya_ebpf::{
    macros::{sk_reuseport, xdp},
    programs::{SkReuseportContext, XdpContext},
};

mod accept;
mod balance;
mod capture;
mod challenge;
mod flow;
mod fragment;
mod guard;
mod icmp;
mod maps;
mod mss;
mod nat;
mod object;
mod packet;
mod parse;
mod quic;
mod rest;
mod rewrite;
mod route;
mod tunnel;
mod verdict;
mod vip;

/// Steers packets to the vips and back; everything else passes as it came.
#[xdp]
pub fn steerage_xdp(context: XdpContext) -> u32 {
    capture::begin(&context);
    let action = verdict::of(&context);
    capture::end(&context, action);
    action
}

/// The rest of [`steerage_xdp`]'s work: what is no packet with ports, and errors that senders get.
#[xdp]
pub fn steerage_rest(context: XdpContext) -> u32 {
    let action = rest::of(&context);
    capture::end(&context, action);
    action
}

/// Gives new connections of listeners to workers, and those of a worker that ends to others.
#[sk_reuseport(migrate)]
pub fn steerage_accept(context: SkReuseportContext) -> u32 {
    accept::steer(&context)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
