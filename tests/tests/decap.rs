//! What the backend's end of a tunnel makes of packets, on XDP and on tcx. Needs root.

use anyhow::{Result, bail};
use aya::{TestRun as _, TestRunOptions};
use steerage::kernel::decap::{Decapsulator, Hook};
use steerage_common::abi::Decap;
use steerage_tests::xdp::Family;
use steerage_tests::xdp::ip::{Fragment, Ip};
use steerage_tests::xdp::packet::{ACK, Packet, UDP};

const GUE_PORT: u16 = 6080;

/// Runs the program of `hook`; gives what is left of the frame if it goes up.
fn run(decapsulator: &Decapsulator, hook: Hook, frame: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = vec![0; frame.len() + 256];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
    // XDP_DROP and XDP_PASS, TCX_DROP and TCX_NEXT.
    let (result, drop, pass) = match hook {
        Hook::Xdp => (decapsulator.xdp()?.test_run(options)?, 1, 2),
        Hook::Tcx => (decapsulator.tcx()?.test_run(options)?, 2, u32::MAX),
    };
    out.truncate(result.data_size_out as usize);
    match result.return_value {
        value if value == drop => Ok(None),
        value if value == pass => Ok(Some(out)),
        other => bail!("the program returned {other}"),
    }
}

/// A packet for a service address.
fn inner(family: Family, payload: usize) -> Ip {
    let (client, vip) = ((family.client(), 40_000).into(), (family.vip(), 80).into());
    Ip::of(&Packet { payload: vec![7; payload], ..Packet::tcp(client, vip, ACK) })
}

/// It in a tunnel.
fn outer(family: Family, inner: &Ip, is_gue: bool) -> Ip {
    let mut body = inner.bytes();
    let mut protocol = if inner.source.is_ipv4() { 4 } else { 41 };
    if is_gue {
        let fields = [0xc123, GUE_PORT, 8 + body.len() as u16, 0];
        body = [fields.map(u16::to_be_bytes).concat(), body].concat();
        protocol = UDP;
    }
    Ip::new(family.source(), family.backend(0), protocol, body)
}

/// A frame, what goes up of it, and what is counted.
struct Vector {
    name: String,
    frame: Vec<u8>,
    left: Option<Vec<u8>>,
    counted: Option<Decap>,
}

impl Vector {
    fn untouched(name: &str, frame: Vec<u8>, counted: Option<Decap>) -> Self {
        Self { name: name.to_owned(), left: Some(frame.clone()), frame, counted }
    }
}

fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for outside in Family::BOTH {
        for inside in Family::BOTH {
            for is_gue in [false, true] {
                for payload in [0, 1, 333, 1_300] {
                    let packet = inner(inside, payload);
                    vectors.push(Vector {
                        name: format!("{inside:?} in {outside:?}, GUE {is_gue}, {payload} bytes"),
                        frame: outer(outside, &packet, is_gue).frame(),
                        left: Some(packet.frame()),
                        counted: Some(if is_gue { Decap::Gue } else { Decap::Plain }),
                    });
                }
                let packet = Ip { destination: inside.source(), ..inner(inside, 10) };
                let frame = outer(outside, &packet, is_gue).frame();
                let foreign = Some(Decap::Foreign);
                vectors.push(Vector::untouched("for nobody who is served", frame, foreign));
            }
        }
        vectors.extend(others(outside));
    }
    vectors
}

/// What is no tunnel's packet, or no whole one.
fn others(family: Family) -> Vec<Vector> {
    let packet = inner(family, 10);
    let whole = outer(family, &packet, false);
    let gue = outer(family, &packet, true);
    let mut other_port = gue.clone();
    other_port.body[3] ^= 1;
    let mut other_variant = gue.clone();
    other_variant.body[8] = 0x00;
    let piece = Ip {
        fragment: Some(Fragment { offset: 0, more: true }),
        dont_fragment: false,
        ..whole.clone()
    };
    let wrong = Ip { protocol: if whole.protocol == 4 { 41 } else { 4 }, ..whole.clone() };
    let cut = Ip { body: whole.body[..12].to_vec(), ..whole.clone() };
    let arp = [&whole.frame()[..12], &[8, 6], &[1; 40][..]].concat();
    let dropped = |name: &str, packet: &Ip| Vector {
        name: name.to_owned(),
        frame: packet.frame(),
        left: None,
        counted: Some(Decap::Malformed),
    };
    vec![
        Vector::untouched("no tunnel", packet.frame(), None),
        Vector::untouched("ARP", arp, None),
        Vector::untouched("UDP to another port", other_port.frame(), None),
        Vector::untouched("another variant of GUE", other_variant.frame(), None),
        Vector::untouched("a fragment of a tunnel's packet", piece.frame(), None),
        dropped("half an inner header", &cut),
        dropped("not what the protocol says", &wrong),
    ]
}

fn check(hook: Hook) -> Result<()> {
    let served = Family::BOTH.map(Family::vip);
    let decapsulator = Decapsulator::load(&served, hook)?;
    let vectors = vectors();
    for Vector { name, frame, left, counted } in &vectors {
        let mut expected = decapsulator.counts()?;
        if let Some(what) = counted {
            expected[*what as usize] += 1;
        }
        assert_eq!(run(&decapsulator, hook, frame)?, *left, "{name}");
        assert_eq!(decapsulator.counts()?, expected, "{name}");
    }
    println!("{} vectors", vectors.len());
    Ok(())
}

#[test]
fn xdp_takes_the_outer_headers_off_and_counts() -> Result<()> {
    check(Hook::Xdp)
}

#[test]
fn tcx_takes_the_outer_headers_off_and_counts() -> Result<()> {
    check(Hook::Tcx)
}

#[test]
fn a_frame_cut_at_any_length_does_no_harm() -> Result<()> {
    for hook in [Hook::Xdp, Hook::Tcx] {
        let decapsulator = Decapsulator::load(&Family::BOTH.map(Family::vip), hook)?;
        for family in Family::BOTH {
            for is_gue in [false, true] {
                let frame = outer(family, &inner(family, 0), is_gue).frame();
                let inner_header = frame.len() - inner(family, 0).bytes().len()
                    + if family == Family::V4 { 20 } else { 40 };
                // A run of tcx has an IP header at least.
                let shortest = if family == Family::V4 { 34 } else { 54 };
                for length in shortest..frame.len() {
                    let left = run(&decapsulator, hook, &frame[..length])?;
                    let Some(left) = left else {
                        assert!(length < inner_header, "{length} bytes dropped");
                        continue;
                    };
                    let is_whole = length >= inner_header;
                    let taken = length - left.len();
                    assert_eq!(taken != 0, is_whole, "{hook:?} {family:?} {length} bytes");
                    assert_eq!(left[14..], frame[14 + taken..length]);
                }
            }
        }
    }
    Ok(())
}
