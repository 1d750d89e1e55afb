//! Mode `nat`: what backends, and routers before them, send.

use steerage_common::abi::Reason;
use steerage_tests::xdp::Action;
use steerage_tests::xdp::Family;
use steerage_tests::xdp::ip::Ip;
use steerage_tests::xdp::packet::{ACK, Packet, SYN, TCP, UDP};
use steerage_tests::xdp::vector::Vector;

use crate::case::Case;
use crate::errors::{kinds, refusal};

pub fn vectors(case: &Case) -> Vec<Vector> {
    if !case.is_nat() {
        return Vec::new();
    }
    let mut vectors = plain(case);
    vectors.extend(fragments(case));
    vectors.extend(reports(case));
    vectors.extend(refusals(case));
    vectors
}

/// The backend's packet, and what the client gets of it.
fn answer(case: &Case, packet: Packet) -> [Packet; 2] {
    let came = Packet { source: case.backend(), destination: case.source(), ..packet };
    let goes = Packet { source: case.vip(), destination: case.client(), ..came.clone() };
    [came, goes]
}

fn sent(case: &Case, name: impl Into<String>, came: &Ip, goes: &Ip) -> Vector {
    let output = case.towards_client(goes);
    Vector::sent(name, case.inside(), came.frame(), Action::Redirect, output).counted(0, 1)
}

fn plain(case: &Case) -> Vec<Vector> {
    let mut packets = vec![
        ("SYN and ACK", case.segment(SYN | ACK)),
        ("an answer", case.segment(ACK)),
        ("a datagram back", case.datagram()),
        ("an odd length back", Packet { payload: vec![1; 77], ..case.datagram() }),
        ("the last hop but one back", Packet { ttl: 2, ..case.segment(ACK) }),
    ];
    if case.vips == Family::V4 {
        let none = Packet { udp_has_checksum: false, ..case.datagram() };
        packets.push(("a datagram back without a checksum", none));
        packets.push(("IP options back", Packet { ip_options: vec![1; 8], ..case.segment(ACK) }));
    }
    let both = |(name, packet)| {
        let [came, goes] = answer(case, packet).map(|packet| Ip::of(&packet));
        sent(case, name, &came, &goes)
    };
    let mut vectors: Vec<Vector> = packets.into_iter().map(both).collect();
    let [came, _] = answer(case, case.segment(0));
    let reason = Reason::Malformed;
    vectors.push(Vector::dropped("no flags back", case.inside(), came.frame(), reason));
    let [came, _] = answer(case, case.segment(ACK));
    let stranger = Packet { source: (case.backends.backend(9), 8080).into(), ..came };
    let name = "to a port of nat, from nobody's backend";
    vectors.push(Vector::untouched(name, case.inside(), stranger.frame()));
    vectors
}

fn fragments(case: &Case) -> Vec<Vector> {
    let packet = Packet { payload: vec![0x33; 100], ..case.datagram() };
    let pieces = |packet: &Packet| Ip { identification: 0x7171, ..Ip::of(packet) }.split(56);
    let [[first, last], [first_goes, last_goes]] = answer(case, packet).map(|p| pieces(&p));
    let orphan = Vector::untouched("an orphan from a backend", case.inside(), last.frame());
    let first = sent(case, "the first fragment back", &first, &first_goes);
    let last = sent(case, "the last fragment back", &last, &last_goes);
    vec![orphan, first, last.because(&[Reason::Fragment])]
}

/// Errors about what the client sent.
fn reports(case: &Case) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (name, head) in kinds(case.vips) {
        for (from, by) in [(case.backend().ip(), "a backend"), (case.router(), "a router")] {
            for (protocol, quoted) in [(TCP, 8), (UDP, 8), (TCP, 30), (UDP, 20)] {
                let about = Packet { protocol, ttl: 5, ..case.segment(ACK) };
                let quote = |about: &Packet| Ip::of(about).quote(quoted);
                let came =
                    Ip::icmp(from, case.source().ip(), head, &quote(&case.translated(&about)));
                let goes = Ip::icmp(case.vip().ip(), case.client().ip(), head, &quote(&about));
                let name = format!("{name} by {by}, {quoted} bytes of protocol {protocol}");
                let vector = sent(case, name, &came, &goes);
                vectors.push(vector.because(&[Reason::ErrorForwarded]));
            }
        }
    }
    let about = Packet { source: (case.source().ip(), 2_001).into(), ..case.segment(ACK) };
    let about = Packet { destination: case.backend(), ..about };
    let (head, quote) = (kinds(case.vips)[0].1, Ip::of(&about).quote(8));
    let own = Ip::icmp(case.backend().ip(), case.source().ip(), head, &quote);
    let name = "about the host's own packet to a backend";
    vectors.push(Vector::untouched(name, case.inside(), own.frame()));
    vectors
}

/// Errors that the backend gets.
fn refusals(case: &Case) -> Vec<Vector> {
    let is_v4 = case.vips == Family::V4;
    let expired = if is_v4 { (11, 0, 0) } else { (3, 0, 0) };
    let too_big = if is_v4 { (3, 4, 1_500) } else { (2, 0, 1_500) };
    let [old, _] = answer(case, Packet { ttl: 1, ..case.segment(ACK) });
    let [big, _] = answer(case, Packet { payload: vec![1; 1_500], ..case.segment(ACK) });
    let refused = |name, packet: &Packet, head, reason| {
        let output = refusal(case, &Ip::of(packet), head);
        Vector::sent(name, case.inside(), packet.frame(), Action::Transmit, output)
            .because(&[reason, Reason::ErrorSent])
    };
    vec![
        refused("an old packet back", &old, expired, Reason::TtlExpired),
        refused("too big a packet back", &big, too_big, Reason::TooBig),
    ]
}
