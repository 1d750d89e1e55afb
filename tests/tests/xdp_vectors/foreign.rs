//! What is not for a vip: it goes up as it came, bit for bit, and nothing is counted.

use std::net::{IpAddr, SocketAddr};

use steerage_tests::xdp::Family;
use steerage_tests::xdp::ip::Ip;
use steerage_tests::xdp::packet::{ACK, Packet, SYN};
use steerage_tests::xdp::vector::Vector;

use crate::case::Case;
use crate::errors::kinds;

pub fn vectors(case: &Case) -> Vec<Vector> {
    let mut frames = packets(case);
    frames.extend(links(case));
    frames.extend(messages(case));
    let mut vectors = Vec::new();
    for (name, frame) in frames {
        for (link, ifindex) in [("clients", case.outside()), ("backends", case.inside())] {
            let name = format!("{name}, from the link of {link}");
            vectors.push(Vector::untouched(name, ifindex, frame.clone()));
        }
    }
    vectors
}

type Named = (String, Vec<u8>);

fn named(frames: Vec<(&str, Vec<u8>)>) -> Vec<Named> {
    frames.into_iter().map(|(name, frame)| (name.to_owned(), frame)).collect()
}

/// Packets with ports.
fn packets(case: &Case) -> Vec<Named> {
    let syn = case.segment(SYN);
    let to = |address: IpAddr, port: u16| {
        let destination = SocketAddr::new(address, port);
        Packet { destination, ..syn.clone() }.frame()
    };
    let own = case.vips.source();
    let vip = case.vip().ip();
    let datagram = Packet { destination: (vip, 81).into(), ..case.datagram() };
    let bad = Packet { destination: (own, 80).into(), flags: 0, ..syn.clone() };
    let old = Packet { destination: (own, 80).into(), ttl: 1, ..syn.clone() };
    named(vec![
        ("another port", to(vip, 81)),
        ("another port of UDP", datagram.frame()),
        ("another address", to(case.router(), 80)),
        ("the host itself", to(own, 80)),
        ("the host itself, at a port of nat", to(own, 2_000)),
        ("a backend", to(case.vips.backend(0), 8_080)),
        ("null flags to the host", bad.frame()),
        ("a time to live of 1 to the host", old.frame()),
    ])
}

/// Frames of other kinds, and IP of other protocols.
fn links(case: &Case) -> Vec<Named> {
    let frame = case.segment(ACK).frame();
    let kind = |kind: [u8; 2]| {
        let mut frame = frame.clone();
        frame[12..14].copy_from_slice(&kind);
        frame
    };
    let tagged = |tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    let protocol = |protocol: u8| Ip { protocol, ..Ip::of(&case.segment(ACK)) }.frame();
    let other_version = if case.vips == Family::V4 { [0x86, 0xdd] } else { [8, 0] };
    let arp = [&frame[..12], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &[7; 20]].concat();
    let mut frames = named(vec![
        ("an ARP request", arp),
        ("a VLAN's frame", tagged(&[0x81, 0, 0, 5])),
        ("a VLAN's frame in another VLAN's", tagged(&[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5])),
        ("MPLS", kind([0x88, 0x47])),
        ("PPPoE", kind([0x88, 0x64])),
        ("LLDP", kind([0x88, 0xcc])),
        ("a length instead of a kind", kind([0, 60])),
        ("the other IP version's kind", kind(other_version)),
        ("an Ethernet header alone", frame[..14].to_vec()),
    ]);
    let protocols = [
        ("IGMP", 2),
        ("IP in IP", 4),
        ("IPv6 in IP", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("OSPF", 89),
        ("SCTP", 132),
        ("UDP-Lite", 136),
    ];
    frames.extend(protocols.map(|(name, number)| (name.to_owned(), protocol(number))));
    if case.vips == Family::V6 {
        let extensions = [
            ("hop-by-hop options", 0),
            ("a routing header", 43),
            ("no next header", 59),
            ("destination options", 60),
            ("a mobility header", 135),
        ];
        frames.extend(extensions.map(|(name, number)| (name.to_owned(), protocol(number))));
    }
    frames
}

/// The host's own ICMP, and what vips do not answer.
fn messages(case: &Case) -> Vec<Named> {
    let is_v4 = case.vips == Family::V4;
    let (client, vip, own) = (case.client().ip(), case.vip().ip(), case.vips.source());
    let asks = if is_v4 { 8 } else { 128 };
    let message = |to, head| Ip::icmp(client, to, head, b"payload that is echoed").frame();
    let mut frames = named(vec![
        ("an echo request to the host", message(own, (asks, 0, 1))),
        ("an echo request to a backend", message(case.vips.backend(0), (asks, 0, 1))),
        ("an echo request with a code", message(vip, (asks, 1, 1))),
        ("an echo reply to a vip", message(vip, (if is_v4 { 0 } else { 129 }, 0, 1))),
        ("a redirect to a vip", message(vip, (if is_v4 { 5 } else { 137 }, 0, 1))),
        ("a question that no vip answers", message(vip, (if is_v4 { 13 } else { 135 }, 0, 1))),
        ("an error that quotes nothing of ours", message(vip, kinds(case.vips)[0].1)),
    ]);
    if is_v4 {
        let options = Ip { options: vec![1; 4], ..Ip::icmp(client, vip, (8, 0, 1), b"echo") };
        frames.push(("an echo request with options".to_owned(), options.frame()));
    }
    let mut group = message(vip, (asks, 0, 1));
    group[0] |= 1;
    frames.push(("an echo request to more than one host".to_owned(), group));
    frames.extend(errors(case));
    frames
}

/// Errors about what is no flow of a vip's.
fn errors(case: &Case) -> Vec<Named> {
    let (vip, client) = (case.vip(), case.client());
    let about = Packet::tcp(vip, client, ACK);
    let error = |to: IpAddr, about: &Ip, quoted: usize| {
        Ip::icmp(case.router(), to, kinds(case.vips)[0].1, &about.quote(quoted)).frame()
    };
    let other = Packet { source: (case.vips.source(), 22).into(), ..about.clone() };
    let port = Packet { source: (vip.ip(), 81).into(), ..about.clone() };
    let whole = Ip::of(&about);
    let [_, later] = whole.split(16);
    let sctp = Ip { protocol: 132, ..whole.clone() };
    named(vec![
        ("an error about the host's own packet", error(other.source.ip(), &Ip::of(&other), 8)),
        ("an error about another port", error(vip.ip(), &Ip::of(&port), 8)),
        ("an error about a vip's packet to somebody else", error(case.vips.source(), &whole, 8)),
        ("an error that quotes seven bytes", error(vip.ip(), &whole, 7)),
        ("an error that quotes no ports", error(vip.ip(), &whole, 0)),
        ("an error about a later fragment", error(vip.ip(), &later, 8)),
        ("an error about SCTP", error(vip.ip(), &sctp, 8)),
    ])
}
