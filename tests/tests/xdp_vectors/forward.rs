//! Clients' packets to vips.

use steerage_tests::xdp::Action;
use steerage_tests::xdp::Family;
use steerage_tests::xdp::ip::{Fragment, Ip};
use steerage_tests::xdp::packet::{ACK, FIN, Packet, RST, SYN, UDP};
use steerage_tests::xdp::vector::Vector;

use crate::case::Case;

pub fn vectors(case: &Case) -> Vec<Vector> {
    let is_v4 = case.vips == Family::V4;
    let (syn, ack, datagram) = (case.segment(SYN), case.segment(ACK), case.datagram());
    let odd = Packet { payload: vec![0xa5; 333], ..ack.clone() };
    let empty = Packet { payload: Vec::new(), ..datagram.clone() };
    let options = Packet { tcp_options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], ..ack.clone() };
    let mut packets = vec![
        ("SYN", syn),
        ("ACK", ack.clone()),
        ("a datagram", datagram.clone()),
        ("PSH, URG and an odd length", Packet { flags: ACK | 8 | 32, ..odd }),
        ("TCP options", options),
        ("an empty datagram", empty),
        ("the last hop but one", Packet { ttl: 2, ..ack.clone() }),
        ("another class", Packet { class: 0xb9, ..datagram.clone() }),
    ];
    if is_v4 {
        let none = Packet { udp_has_checksum: false, ..datagram };
        packets.push(("a datagram without a checksum", none));
        packets.push(("IP options", Packet { ip_options: vec![1; 12], ..ack.clone() }));
        packets.push(("the most IP options", Packet { ip_options: vec![1; 40], ..ack.clone() }));
    }
    let sent = |(name, packet): (&str, Packet)| {
        let (frame, output) = (packet.frame(), case.towards_backend(&packet));
        Vector::sent(name, case.outside(), frame, Action::Redirect, output).counted(1, 0)
    };
    let mut vectors: Vec<Vector> = packets.into_iter().map(sent).collect();
    vectors.push(padded(case, &ack));
    if !is_v4 {
        vectors.push(atomic_fragment(case));
    }
    // Last: no other vector of the flow comes after its end.
    for (name, flags) in [("FIN", FIN | ACK), ("RST", RST)] {
        vectors.push(sent((name, case.segment(flags))));
    }
    // Whatever follows finds the flow open.
    vectors.push(sent(("a new SYN", case.segment(SYN))));
    vectors
}

/// Bytes behind the packet, as short frames have them, stay there.
fn padded(case: &Case, packet: &Packet) -> Vector {
    let pad = [0; 6];
    let (mut frame, mut output) = (packet.frame(), case.towards_backend(packet));
    frame.extend(pad);
    output.extend(pad);
    Vector::sent("a padded frame", case.outside(), frame, Action::Redirect, output).counted(1, 0)
}

/// IPv6: a packet with a fragment header that is whole (RFC 6946).
fn atomic_fragment(case: &Case) -> Vector {
    let datagram = case.datagram();
    let inner = if case.is_nat() { case.translated(&datagram) } else { datagram.clone() };
    let with = |packet: &Packet| {
        let fragment = Some(Fragment { offset: 0, more: false });
        Ip { fragment, ..Ip::of(packet) }
    };
    let (frame, output) = (with(&datagram).frame(), case.delivered(&with(&inner), UDP));
    let name = "a whole packet with a fragment header";
    Vector::sent(name, case.outside(), frame, Action::Redirect, output).counted(1, 0)
}
