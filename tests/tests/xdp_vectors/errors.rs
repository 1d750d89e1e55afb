//! ICMP: echo, errors from the network about flows, and errors that begin here.

use steerage_common::abi::Reason;
use steerage_tests::xdp::ip::Ip;
use steerage_tests::xdp::packet::{ACK, Packet, TCP, UDP};
use steerage_tests::xdp::vector::Vector;
use steerage_tests::xdp::{Action, Family};

use crate::case::Case;

pub fn vectors(case: &Case) -> Vec<Vector> {
    let mut vectors = echo(case);
    vectors.extend(reports(case));
    vectors.extend(refusals(case));
    vectors
}

/// Type and code of each error, and the word behind the checksum.
pub fn kinds(family: Family) -> Vec<(&'static str, (u8, u8, u32))> {
    match family {
        Family::V4 => vec![
            ("unreachable host", (3, 1, 0)),
            ("unreachable port", (3, 3, 0)),
            ("too big", (3, 4, 1_400)),
            ("administratively prohibited", (3, 13, 0)),
            ("time exceeded", (11, 0, 0)),
            ("parameter problem", (12, 0, 0)),
        ],
        Family::V6 => vec![
            ("unreachable", (1, 0, 0)),
            ("unreachable port", (1, 4, 0)),
            ("too big", (2, 0, 1_400)),
            ("time exceeded", (3, 0, 0)),
            ("parameter problem", (4, 1, 6)),
        ],
    }
}

fn echo(case: &Case) -> Vec<Vector> {
    let (asks, answers) = if case.vips == Family::V4 { (8, 0) } else { (128, 129) };
    let (client, vip) = (case.client().ip(), case.vip().ip());
    let answered = [0, 1, 56, 1_400].map(|length| {
        let payload: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
        let asked = Ip { ttl: 1, ..Ip::icmp(client, vip, (asks, 0, 0x1234_0009), &payload) };
        let answer = Ip::icmp(vip, client, (answers, 0, 0x1234_0009), &payload);
        let (frame, output) = (asked.frame(), case.back(&answer));
        let name = format!("echo of {length} bytes");
        Vector::sent(name, case.outside(), frame, Action::Transmit, output)
            .because(&[Reason::EchoAnswered])
    });
    let mut vectors = Vec::from(answered);
    let asked = |from| Ip::icmp(from, vip, (asks, 0, 1), b"who is there").frame();
    for (name, source) in nobodies(case.vips) {
        let name = format!("an echo request from {name}");
        vectors.push(Vector::untouched(name, case.outside(), asked(source)));
    }
    let name = "an echo request of a vip to itself";
    vectors.push(Vector::dropped(name, case.outside(), asked(vip), Reason::Malformed));
    vectors
}

/// Errors about what a backend sent to the client.
fn reports(case: &Case) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (name, head) in kinds(case.vips) {
        for (protocol, quoted) in [(TCP, 8), (UDP, 8), (TCP, 28), (UDP, 20)] {
            let name = format!("{name}, {quoted} bytes of protocol {protocol}");
            vectors.push(report(case, name, head, protocol, quoted));
        }
    }
    let about = Packet::tcp(case.vip(), case.client(), ACK);
    let error = |packet: &Ip, quoted: usize| {
        Ip::icmp(case.router(), case.vip().ip(), kinds(case.vips)[0].1, &packet.quote(quoted))
    };
    let too_old = Ip { ttl: 1, ..error(&Ip::of(&about), 8) };
    let expired = Reason::TtlExpired;
    vectors.push(Vector::dropped("an old error", case.outside(), too_old.frame(), expired));
    let other = Packet { destination: (case.client().ip(), 40_001).into(), ..about };
    if case.is_nat() {
        let frame = error(&Ip::of(&other), 8).frame();
        let unknown = Reason::UnknownFlow;
        vectors.push(Vector::dropped("about no flow", case.outside(), frame, unknown));
    }
    vectors
}

fn report(case: &Case, name: String, head: (u8, u8, u32), protocol: u8, quoted: usize) -> Vector {
    let about = Packet { protocol, ttl: 7, ..Packet::tcp(case.vip(), case.client(), ACK) };
    let message = |from, to, about: &Packet| Ip {
        class: 0xc0,
        ttl: 61,
        ..Ip::icmp(from, to, head, &Ip::of(about).quote(quoted))
    };
    let came = message(case.router(), case.vip().ip(), &about);
    let goes = if case.is_nat() {
        let own = Packet { source: case.backend(), destination: case.source(), ..about };
        message(case.source().ip(), case.backend().ip(), &own)
    } else {
        came.clone()
    };
    let output = case.delivered(&goes, protocol);
    Vector::sent(name, case.outside(), came.frame(), Action::Redirect, output)
        .because(&[Reason::ErrorForwarded])
        .counted(1, 0)
}

/// The error that is sent to `about`'s sender.
pub fn refusal(case: &Case, about: &Ip, head: (u8, u8, u32)) -> Vec<u8> {
    let quoted = if about.bytes().len() >= about.header_bytes() + 128 { 128 } else { 8 };
    let error = Ip::icmp(about.destination, about.source, head, &about.quote(quoted));
    let (identification, dont_fragment, label) = (0, false, 0);
    case.back(&Ip { class: 0xc0, identification, dont_fragment, label, ..error })
}

fn refusals(case: &Case) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let is_v4 = case.vips == Family::V4;
    let expired = if is_v4 { (11, 0, 0) } else { (3, 0, 0) };
    for (ttl, payload) in [(0, 19), (1, 19), (1, 900)] {
        for packet in [case.segment(ACK), case.datagram()] {
            let packet = Packet { ttl, payload: vec![3; payload], ..packet };
            let frame = packet.frame();
            let output = refusal(case, &Ip::of(&packet), expired);
            let name = format!("a time to live of {ttl}, {payload} bytes");
            let reasons = [Reason::TtlExpired, Reason::ErrorSent];
            let vector = Vector::sent(name, case.outside(), frame, Action::Transmit, output);
            vectors.push(vector.because(&reasons));
        }
    }
    // The links have an MTU of 1,500.
    let room = 1_500 - case.overhead();
    let headers = if is_v4 { 40 } else { 60 };
    let sized = |bytes: usize| Packet { payload: vec![9; bytes - headers], ..case.segment(ACK) };
    let fits = sized(room);
    let (frame, output) = (fits.frame(), case.towards_backend(&fits));
    let name = "the largest that fits";
    let fitting = Vector::sent(name, case.outside(), frame, Action::Redirect, output);
    vectors.push(fitting.counted(1, 0));
    let too_big = if is_v4 { (3, 4, room as u32) } else { (2, 0, room as u32) };
    for bytes in [room + 1, 3_000] {
        let packet = sized(bytes);
        let output = refusal(case, &Ip::of(&packet), too_big);
        let name = format!("{bytes} bytes, too big");
        let vector = Vector::sent(name, case.outside(), packet.frame(), Action::Transmit, output);
        vectors.push(vector.because(&[Reason::TooBig, Reason::ErrorSent]));
    }
    if is_v4 {
        let packet = Packet { fragment: 0, ..sized(room + 1) };
        let name = "too big, and might be fragmented";
        vectors.push(Vector::dropped(name, case.outside(), packet.frame(), Reason::TooBig));
        let options = Packet { ip_options: vec![1; 12], ttl: 1, ..case.segment(ACK) };
        let name = "too old, with options and no room to quote them";
        vectors.push(Vector::dropped(name, case.outside(), options.frame(), Reason::TtlExpired));
    }
    for (name, source) in nobodies(case.vips) {
        let packet = Packet { source: (source, 40_000).into(), ttl: 1, ..case.segment(ACK) };
        let name = format!("too old, from {name}");
        vectors.push(Vector::dropped(name, case.outside(), packet.frame(), Reason::TtlExpired));
    }
    let mut frame = Packet { ttl: 1, ..case.segment(ACK) }.frame();
    frame[0] |= 1;
    let name = "too old, to more than one host";
    vectors.push(Vector::dropped(name, case.outside(), frame, Reason::TtlExpired));
    vectors
}

/// Addresses that are no host's.
fn nobodies(family: Family) -> Vec<(&'static str, std::net::IpAddr)> {
    match family {
        Family::V4 => vec![
            ("nobody", [0, 0, 0, 0].into()),
            ("a loopback address", [127, 0, 0, 1].into()),
            ("a group", [224, 0, 0, 1].into()),
            ("all", [255, 255, 255, 255].into()),
        ],
        Family::V6 => vec![
            ("nobody", [0u16; 8].into()),
            ("a loopback address", [0, 0, 0, 0, 0, 0, 0, 1u16].into()),
            ("a group", [0xff02, 0, 0, 0, 0, 0, 0, 1u16].into()),
        ],
    }
}
