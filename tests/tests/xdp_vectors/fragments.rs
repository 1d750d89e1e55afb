//! Packets in fragments, to vips and through `nat` back.

use steerage_common::abi::Reason;
use steerage_tests::xdp::ip::{Fragment, Ip};
use steerage_tests::xdp::packet::{ACK, Packet, TCP, UDP};
use steerage_tests::xdp::vector::Vector;
use steerage_tests::xdp::{Action, Family};

use crate::case::Case;

/// Bytes of the first fragment's body.
const FIRST: usize = 48;

pub fn vectors(case: &Case) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (protocol, identification) in [(UDP, 0x5151), (TCP, 0x5252)] {
        let packet = Packet { protocol, payload: vec![0x77; 90], ..case.segment(ACK) };
        let goes = if case.is_nat() { case.translated(&packet) } else { packet.clone() };
        let pieces = |packet: &Packet| Ip { identification, ..Ip::of(packet) }.split(FIRST);
        let ([first, last], [first_goes, last_goes]) = (pieces(&packet), pieces(&goes));
        let sent = |name: &str, came: &Ip, goes: &Ip| {
            let output = case.delivered(goes, protocol);
            let name = format!("{name} of protocol {protocol}");
            Vector::sent(name, case.outside(), came.frame(), Action::Redirect, output).counted(1, 0)
        };
        let early = sent("", &last, &last_goes).frame;
        let orphan = Reason::OrphanFragment;
        vectors.push(Vector::dropped("the last before the first", case.outside(), early, orphan));
        vectors.push(sent("the first fragment", &first, &first_goes));
        let [middle, middle_goes] = [&last, &last_goes].map(|last| {
            let fragment = Some(Fragment { offset: FIRST, more: true });
            Ip { fragment, body: last.body[..24].to_vec(), ..last.clone() }
        });
        for (name, came, goes) in
            [("a middle fragment", &middle, &middle_goes), ("the last fragment", &last, &last_goes)]
        {
            vectors.push(sent(name, came, goes).because(&[Reason::Fragment]));
        }
        vectors.extend(bad(case, &last, protocol));
    }
    vectors.extend(foreign(case));
    vectors
}

/// Fragments of a packet whose first one is known that no host takes, or not any more.
fn bad(case: &Case, last: &Ip, protocol: u8) -> Vec<Vector> {
    let at = |offset: usize, more: bool, bytes: usize| Ip {
        fragment: Some(Fragment { offset, more }),
        body: vec![5; bytes],
        ..last.clone()
    };
    let other = |identification: u32| Ip { identification, ..last.clone() };
    let stranger = Ip { source: case.router(), ..last.clone() };
    let mut cases = vec![
        ("no multiple of eight bytes, and more", at(FIRST, true, 20), Reason::Malformed),
        ("past 65,535 bytes", at(65_528, false, 16), Reason::Malformed),
        ("of no bytes", at(FIRST, false, 0), Reason::Malformed),
        ("too old", Ip { ttl: 1, ..last.clone() }, Reason::TtlExpired),
        ("of another packet", other(0x5153), Reason::OrphanFragment),
        ("of another client", stranger, Reason::OrphanFragment),
        ("too big", at(FIRST, false, 1_600), Reason::TooBig),
    ];
    if protocol == TCP {
        cases.push(("over the flags", at(8, false, 64), Reason::Malformed));
    }
    let dropped = |(name, packet, reason): (&str, Ip, Reason)| {
        let name = format!("a fragment {name}, of protocol {protocol}");
        Vector::dropped(name, case.outside(), packet.frame(), reason)
    };
    cases.into_iter().map(dropped).collect()
}

/// Fragments that are the host's.
fn foreign(case: &Case) -> Vec<Vector> {
    let packet = Packet { payload: vec![0x77; 90], ..case.datagram() };
    let port = Packet { destination: (case.vip().ip(), 81).into(), ..packet.clone() };
    let address = Packet { destination: (case.router(), 80).into(), ..packet };
    let mut vectors = Vec::new();
    for (name, packet, identification) in
        [("a port of no vip", port, 0x6161), ("an address of no vip", address, 0x6262)]
    {
        let pieces = Ip { identification, ..Ip::of(&packet) }.split(FIRST);
        for (which, piece) in ["the first", "the last"].into_iter().zip(pieces) {
            let name = format!("{which} fragment to {name}");
            vectors.push(Vector::untouched(name, case.outside(), piece.frame()));
        }
    }
    // An echo request in fragments: nobody here puts it together.
    let asks = if case.vips == Family::V4 { 8 } else { 128 };
    let echo = Ip::icmp(case.client().ip(), case.vip().ip(), (asks, 0, 7), &[1; 90]);
    for piece in echo.split(FIRST) {
        vectors.push(Vector::untouched(
            "an echo request's fragment",
            case.outside(),
            piece.frame(),
        ));
    }
    vectors
}
