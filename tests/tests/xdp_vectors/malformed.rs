//! What no honest host sends to a vip.

use steerage_common::abi::Reason;
use steerage_tests::xdp::Family;
use steerage_tests::xdp::ip::{Fragment, Ip};
use steerage_tests::xdp::packet::{ACK, FIN, Packet, RST, SYN, TCP};
use steerage_tests::xdp::vector::Vector;

use crate::case::Case;

pub fn vectors(case: &Case) -> Vec<Vector> {
    let mut frames = flags(case);
    frames.extend(lengths(case));
    if case.vips == Family::V4 {
        frames.extend(headers_v4(case));
    } else {
        frames.extend(headers_v6(case));
    }
    let dropped = |(name, frame): (&str, Vec<u8>)| {
        Vector::dropped(name, case.outside(), frame, Reason::Malformed)
    };
    frames.into_iter().map(dropped).collect()
}

type Named = (&'static str, Vec<u8>);

/// Bytes of the headers before the transport's.
fn transport_at(case: &Case) -> usize {
    if case.vips == Family::V4 { 34 } else { 54 }
}

/// The frame with these bytes at `at`.
fn with(packet: &Packet, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = packet.frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn flags(case: &Case) -> Vec<Named> {
    let land = Packet { source: case.vip(), ..case.segment(SYN) };
    let land_udp = Packet { source: case.vip(), ..case.datagram() };
    vec![
        ("no flags", case.segment(0).frame()),
        ("only flags that mean nothing alone", case.segment(0x40 | 0x80).frame()),
        ("SYN and FIN", case.segment(SYN | FIN).frame()),
        ("SYN, FIN and ACK", case.segment(SYN | FIN | ACK).frame()),
        ("SYN and RST", case.segment(SYN | RST).frame()),
        ("all flags", case.segment(0x3f).frame()),
        ("a land attack", land.frame()),
        ("a land attack of datagrams", land_udp.frame()),
    ]
}

fn lengths(case: &Case) -> Vec<Named> {
    let at = transport_at(case);
    let (tcp, udp) = (case.segment(ACK), case.datagram());
    let empty = Packet { payload: Vec::new(), ..tcp.clone() };
    vec![
        ("a TCP header of no bytes", with(&tcp, at + 12, &[0x00])),
        ("a TCP header shorter than it can be", with(&tcp, at + 12, &[0x40])),
        ("a TCP header longer than the packet", with(&empty, at + 12, &[0x60])),
        ("the longest TCP header", with(&empty, at + 12, &[0xf0])),
        ("a UDP length of nothing", with(&udp, at + 4, &[0, 0])),
        ("a UDP length below its header", with(&udp, at + 4, &[0, 7])),
        ("a UDP length past the end by one", with(&udp, at + 4, &[0, 28])),
        ("a UDP length past the end", with(&udp, at + 4, &[0xff, 0xff])),
    ]
}

fn headers_v4(case: &Case) -> Vec<Named> {
    let tcp = case.segment(ACK);
    let fragment = |body: usize| {
        let ip = Ip::of(&case.datagram());
        let fragment = Some(Fragment { offset: 0, more: true });
        Ip { fragment, dont_fragment: false, body: ip.body[..body].to_vec(), ..ip }.frame()
    };
    vec![
        ("IP version 5", with(&tcp, 14, &[0x55])),
        ("IP version 6 in an IPv4 frame", with(&tcp, 14, &[0x65])),
        ("an IP header of no bytes", with(&tcp, 14, &[0x40])),
        ("an IP header of 16 bytes", with(&tcp, 14, &[0x44])),
        ("an IP header past the end", Ip { body: Vec::new(), ..Ip::of(&tcp) }.frame()),
        ("a total length of nothing", with(&tcp, 16, &[0, 0])),
        ("a total length within the header", with(&tcp, 16, &[0, 19])),
        ("a total length before the ports", with(&tcp, 16, &[0, 20])),
        ("a total length within the transport's header", with(&tcp, 16, &[0, 39])),
        ("a total length past the end by one", with(&tcp, 16, &[0, 60])),
        ("a total length past the end", with(&tcp, 16, &[0xff, 0xff])),
        ("a first fragment of no multiple of eight", fragment(21)),
        ("a tiny first fragment", tiny(case)),
    ]
}

fn headers_v6(case: &Case) -> Vec<Named> {
    let tcp = case.segment(ACK);
    let fragment = |body: usize| {
        let ip = Ip::of(&case.datagram());
        let fragment = Some(Fragment { offset: 0, more: true });
        Ip { fragment, body: ip.body[..body].to_vec(), ..ip }.frame()
    };
    let cut = Ip { fragment: Some(Fragment { offset: 0, more: true }), ..Ip::of(&tcp) }.frame();
    vec![
        ("IP version 4 in an IPv6 frame", with(&tcp, 14, &[0x40])),
        ("IP version 0", with(&tcp, 14, &[0x00])),
        ("a payload length of nothing", with(&tcp, 18, &[0, 0])),
        ("a payload length before the ports' end", with(&tcp, 18, &[0, 3])),
        ("a payload length within the transport's header", with(&tcp, 18, &[0, 19])),
        ("a payload length past the end by one", with(&tcp, 18, &[0, 40])),
        ("a payload length past the end", with(&tcp, 18, &[0xff, 0xff])),
        ("nothing behind the header", Ip { body: Vec::new(), ..Ip::of(&tcp) }.frame()),
        ("a fragment header cut off", cut[..60].to_vec()),
        ("a first fragment of no multiple of eight", fragment(21)),
        ("a tiny first fragment", tiny(case)),
    ]
}

/// Ports, and no flags behind them (RFC 1858).
fn tiny(case: &Case) -> Vec<u8> {
    let ip = Ip::of(&case.segment(SYN));
    assert_eq!(ip.protocol, TCP);
    let fragment = Some(Fragment { offset: 0, more: true });
    Ip { fragment, dont_fragment: false, body: ip.body[..8].to_vec(), ..ip }.frame()
}
