//! Both families, and the modes in which backends answer clients themselves. Needs root.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use steerage_common::abi::{
    MODE_L2, MODE_NAT, MODE_TUNNEL, Reason, VIP_ALL_PORTS, VIP_GUE, VIP_REMEMBERS,
};
use steerage_tests::xdp::packet::{ACK, Packet, SYN, TCP, UDP};
use steerage_tests::xdp::{
    Action, BACKEND_LINK, Choices, Family, GATEWAY_MAC, Plane, SOURCE, VIP_PORT, answer,
    backend_mac,
};

fn client(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.client(), port)
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.vip(), port)
}

/// A packet of each protocol that a client may send to a vip.
fn packets(family: Family, port: u16) -> [Packet; 2] {
    let (from, to) = (client(family, port), vip(family, VIP_PORT));
    [Packet::tcp(from, to, SYN), Packet::udp(from, to)]
}

/// What a tunnel carried: the outer addresses, time to live, class, and the inner packet.
#[derive(Debug)]
struct Carried {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    class: u8,
    /// Source port of GUE, 0 for plain tunnels.
    port: u16,
    inner: Packet,
}

/// Takes a tunnel's packet apart, every field of the outer headers checked.
#[track_caller]
fn carried(frame: &[u8]) -> Carried {
    let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let v4 = |at: usize| IpAddr::from(*frame[at..].first_chunk::<4>().expect("an address"));
    let v6 = |at: usize| IpAddr::from(*frame[at..].first_chunk::<16>().expect("an address"));
    let (source, destination, ttl, class, protocol, mut at) = match half(12) {
        0x0800 => {
            assert_eq!(frame[14], 0x45);
            assert_eq!(usize::from(half(16)) + 14, frame.len(), "the total length");
            assert_eq!(half(20), 0x4000, "not to be fragmented");
            let words = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the outer checksum");
            (v4(26), v4(30), frame[22], frame[15], frame[23], 34)
        }
        0x86dd => {
            assert_eq!(frame[14] >> 4, 6);
            assert_eq!(usize::from(half(18)) + 54, frame.len(), "the payload length");
            let class = frame[14] << 4 | frame[15] >> 4;
            (v6(22), v6(38), frame[21], class, frame[20], 54)
        }
        kind => panic!("an outer header of kind {kind:x}"),
    };
    let mut port = 0;
    let inner_kind = match protocol {
        4 => [8, 0],
        41 => [0x86, 0xdd],
        17 => {
            port = half(at);
            assert!(port >= 0xc000);
            assert_eq!(half(at + 2), 6080);
            assert_eq!(usize::from(half(at + 4)), frame.len() - at, "the UDP length");
            assert_eq!(half(at + 6), 0, "no checksum");
            at += 8;
            if frame[at] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] }
        }
        other => panic!("outer protocol {other}"),
    };
    let inner = Packet::read_ip(inner_kind, &frame[at..]);
    Carried { source, destination, ttl, class, port, inner }
}

fn plane(vips: Family, backends: Family, mode: u8, flags: u8) -> Result<Plane> {
    Plane::with(Choices { weights: vec![1; 3], vips, backends, mode, flags, ..Choices::default() })
}

#[test]
fn nat_serves_ipv6_both_ways() -> Result<()> {
    let family = Family::V6;
    let plane = plane(family, family, MODE_NAT, 0)?;
    for packet in packets(family, 40_000) {
        let verdict = plane.from_client(&packet);
        let got = verdict.sent();
        assert_eq!(got.source.ip(), family.source());
        assert_eq!((got.ttl, got.class), (63, packet.class));
        assert_eq!(got.payload, packet.payload);
        let back = plane.from_backend(&answer(&got));
        let heard = back.sent();
        assert_eq!((heard.source, heard.destination), (packet.destination, packet.source));
        assert_eq!(back.frame[..6], GATEWAY_MAC);
        let again = plane.from_client(&packet).sent();
        assert_eq!((again.source, again.destination), (got.source, got.destination));
        let none = Packet { udp_has_checksum: false, ..packet.clone() };
        if packet.protocol == UDP {
            assert!(!plane.from_client(&none).sent().udp_has_checksum);
        }
    }
    Ok(())
}

#[test]
fn checksums_over_ipv6_are_right_for_every_payload_length() -> Result<()> {
    let plane = plane(Family::V6, Family::V6, MODE_NAT, 0)?;
    for length in 0..64u16 {
        let payload: Vec<u8> = (0..length).map(|n| (n * 37) as u8).collect();
        for packet in packets(Family::V6, 1_000 + length) {
            let got = plane.from_client(&Packet { payload: payload.clone(), ..packet }).sent();
            assert_eq!(got.payload, payload);
            assert_eq!(plane.from_backend(&answer(&got)).sent().payload, payload);
        }
    }
    Ok(())
}

#[test]
fn tunnels_carry_either_family_in_either() -> Result<()> {
    for vips in Family::BOTH {
        for backends in Family::BOTH {
            for flags in [0, VIP_GUE] {
                let plane = plane(vips, backends, MODE_TUNNEL, flags)?;
                for packet in packets(vips, 40_000) {
                    let verdict = plane.from_client(&packet);
                    assert_eq!(verdict.action, Action::Redirect);
                    let carried = carried(&verdict.frame);
                    let slot = (0..3).find(|slot| backends.backend(*slot) == carried.destination);
                    assert_eq!(verdict.frame[..6], backend_mac(slot.expect("a backend")));
                    assert_eq!(carried.source, backends.source());
                    assert_eq!((carried.ttl, carried.class), (64, packet.class));
                    assert_eq!(carried.port != 0, flags == VIP_GUE);
                    let inner = carried.inner;
                    assert_eq!(
                        (inner.source, inner.destination),
                        (packet.source, packet.destination)
                    );
                    assert_eq!((inner.ttl, &inner.payload), (63, &packet.payload));
                }
                let traffic = plane.vip_traffic(TCP);
                assert_eq!((traffic.in_packets, traffic.flows, traffic.remembered), (1, 1, 0));
            }
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_s_payload_is_untouched_at_every_length() -> Result<()> {
    let plane = plane(Family::V4, Family::V6, MODE_TUNNEL, VIP_GUE)?;
    for length in 0..200u16 {
        let payload: Vec<u8> = (0..length).map(|n| (n * 31) as u8).collect();
        for packet in packets(Family::V4, 1_000) {
            let packet = Packet { payload: payload.clone(), ..packet };
            assert_eq!(carried(&plane.from_client(&packet).frame).inner.payload, payload);
        }
    }
    Ok(())
}

#[test]
fn outer_sources_vary_with_the_flow_and_not_within_it() -> Result<()> {
    for backends in Family::BOTH {
        let plane = plane(Family::V4, backends, MODE_TUNNEL, VIP_GUE)?;
        plane.set_tunnel_sources();
        let mut seen = std::collections::HashSet::new();
        for port in 1..100 {
            let [packet, _] = packets(Family::V4, port);
            let one = carried(&plane.from_client(&packet).frame);
            let two = carried(&plane.from_client(&Packet { flags: ACK, ..packet }).frame);
            assert_eq!(
                (one.source, one.port, one.destination),
                (two.source, two.port, two.destination)
            );
            let in_prefix = match one.source {
                IpAddr::V4(v4) => v4.octets()[..2] == [10, 99],
                IpAddr::V6(v6) => v6.segments()[..6] == [0xfd00, 0x99, 0, 0, 0, 0],
            };
            assert!(in_prefix, "{}", one.source);
            seen.insert((one.source, one.port));
        }
        assert!(seen.len() > 95, "{} different ones of 99", seen.len());
    }
    Ok(())
}

#[test]
fn a_syn_announces_no_larger_segments_than_the_tunnel_takes() -> Result<()> {
    let size = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    for (vips, backends, flags, most) in [
        (Family::V4, Family::V4, 0, 1440),
        (Family::V4, Family::V6, 0, 1420),
        (Family::V6, Family::V4, 0, 1420),
        (Family::V6, Family::V6, VIP_GUE, 1392),
    ] {
        let plane = plane(vips, backends, MODE_TUNNEL, flags)?;
        let [syn, _] = packets(vips, 7);
        let mss_at = |options: Vec<u8>, at: usize| {
            let packet = Packet { tcp_options: options, ..syn.clone() };
            let inner = carried(&plane.from_client(&packet).frame).inner;
            u16::from_be_bytes([inner.tcp_options[at], inner.tcp_options[at + 1]])
        };
        assert_eq!(mss_at(size(1460), 2), most);
        assert_eq!(mss_at(size(536), 2), 536, "a smaller one stays");
        // Behind others, and at an odd place of the checksum.
        assert_eq!(mss_at([&[1, 1, 4, 2][..], &size(9000)].concat(), 6), most);
        assert_eq!(mss_at([&[1][..], &size(9000), &[1, 1, 0]].concat(), 3), most);
        // Options that end before it, or say nonsense, are left alone.
        assert_eq!(mss_at([&[0, 0, 0, 0][..], &size(9000)].concat(), 6), 9000);
        assert_eq!(mss_at([&[8, 0, 0, 0][..], &size(9000)].concat(), 6), 9000);
        let established = Packet { flags: ACK, tcp_options: size(9000), ..syn.clone() };
        let inner = carried(&plane.from_client(&established).frame).inner;
        assert_eq!(inner.tcp_options, size(9000), "only a SYN announces");
    }
    Ok(())
}

#[test]
fn a_packet_that_a_tunnel_does_not_take_is_dropped_with_a_reason() -> Result<()> {
    for (vips, backends, flags, overhead) in [
        (Family::V4, Family::V4, 0, 20),
        (Family::V6, Family::V4, VIP_GUE, 28),
        (Family::V4, Family::V6, 0, 40),
        (Family::V6, Family::V6, VIP_GUE, 48),
    ] {
        let plane = plane(vips, backends, MODE_TUNNEL, flags)?;
        let header = if vips == Family::V4 { 40 } else { 60 };
        let with = |payload: usize| {
            let [syn, _] = packets(vips, 7);
            plane.from_client(&Packet { flags: ACK, payload: vec![7; payload], ..syn })
        };
        assert_eq!(
            with(1500 - overhead - header).action,
            Action::Redirect,
            "the largest that fits"
        );
        assert_eq!(plane.count(Reason::TooBig), 0);
        let _ = with(1501 - overhead - header);
        assert_eq!(plane.count(Reason::TooBig), 1);
    }
    Ok(())
}

#[test]
fn l2_sends_the_packet_as_it_is_to_the_backend_s_link_address() -> Result<()> {
    for (vips, backends) in
        [(Family::V4, Family::V4), (Family::V6, Family::V6), (Family::V6, Family::V4)]
    {
        let plane = plane(vips, backends, MODE_L2, 0)?;
        for packet in packets(vips, 40_000) {
            let verdict = plane.from_client(&packet);
            let got = verdict.sent();
            assert_eq!((got.source, got.destination), (packet.source, packet.destination));
            assert_eq!((got.ttl, got.payload), (63, packet.payload));
            assert!((0..3).any(|slot| verdict.frame[..6] == backend_mac(slot)));
        }
    }
    Ok(())
}

#[test]
fn l2_does_not_send_to_a_router() -> Result<()> {
    let plane = plane(Family::V4, Family::V4, MODE_L2, 0)?;
    let route = ["route", "add", "10.2.16.0/24", "via", "10.1.0.254"];
    plane.host.ip(&route)?;
    let [packet, _] = packets(Family::V4, 1);
    assert_eq!(plane.from_client(&packet).action, Action::Drop);
    assert_eq!(plane.count(Reason::NotOnLink), 1);
    Ok(())
}

#[test]
fn a_vip_of_all_ports_serves_each() -> Result<()> {
    for family in Family::BOTH {
        let plane = plane(family, family, MODE_NAT, VIP_ALL_PORTS)?;
        for port in [1, 80, 2_000, 65_535] {
            for packet in packets(family, 40_000) {
                let packet = Packet { destination: vip(family, port), ..packet };
                let got = plane.from_client(&packet).sent();
                assert_eq!(got.destination.port(), port, "the port stays");
                let heard = plane.from_backend(&answer(&got)).sent();
                assert_eq!((heard.source, heard.destination), (packet.destination, packet.source));
            }
        }
    }
    Ok(())
}

#[test]
fn flows_of_one_client_port_to_two_ports_of_a_vip_are_told_apart() -> Result<()> {
    let flags = VIP_ALL_PORTS | VIP_REMEMBERS;
    let plane = plane(Family::V4, Family::V4, MODE_TUNNEL, flags)?;
    for port in 1..=50 {
        let [packet, _] = packets(Family::V4, 40_000);
        let packet = Packet { destination: vip(Family::V4, port), ..packet };
        assert_eq!(plane.from_client(&packet).action, Action::Redirect);
    }
    assert_eq!(plane.remembered()?, 50);
    Ok(())
}

#[test]
fn a_tunnel_s_flow_stays_when_its_dead_backend_returns() -> Result<()> {
    let plane = plane(Family::V6, Family::V4, MODE_TUNNEL, 0)?;
    let to = |flags, port| {
        let [packet, _] = packets(Family::V6, port);
        carried(&plane.from_client(&Packet { flags, ..packet }).frame).destination
    };
    let first = Family::V4.backend(0);
    let port = (1..).find(|port| to(SYN, *port) == first).expect("a flow of backend 0");
    plane.kill(0);
    let second = to(ACK, port);
    assert_ne!(second, first);
    plane.revive(0);
    assert_eq!(to(ACK, port), second);
    assert_eq!(plane.vip_traffic(TCP).remembered, 1);
    Ok(())
}

#[test]
fn ipv6_that_is_not_for_a_vip_passes_untouched() -> Result<()> {
    let plane = plane(Family::V6, Family::V6, MODE_TUNNEL, 0)?;
    let [to_vip, _] = packets(Family::V6, 1);
    let other_port = Packet { destination: vip(Family::V6, 81), ..to_vip.clone() };
    let other_address = Packet { destination: client(Family::V6, 80), ..to_vip.clone() };
    let with_next = |next: u8| {
        let mut frame = to_vip.frame();
        frame[20] = next;
        frame
    };
    let frames = [
        ("another port", other_port.frame()),
        ("another address", other_address.frame()),
        ("hop-by-hop options", with_next(0)),
        ("a routing header", with_next(43)),
        ("no next header", with_next(59)),
        ("SCTP", with_next(132)),
    ];
    for (what, frame) in frames {
        let verdict = plane.receive(plane.host.client_ifindex, &frame)?;
        assert_eq!((verdict.action, verdict.frame), (Action::Pass, frame), "{what}");
    }
    Ok(())
}

#[test]
fn a_frame_cut_at_any_length_does_no_harm_in_any_mode() -> Result<()> {
    for (family, mode) in [
        (Family::V6, MODE_NAT),
        (Family::V4, MODE_TUNNEL),
        (Family::V6, MODE_TUNNEL),
        (Family::V4, MODE_L2),
        (Family::V6, MODE_L2),
    ] {
        let plane = plane(family, family, mode, VIP_GUE)?;
        for packet in packets(family, 7) {
            let frame = Packet { tcp_options: vec![2, 4, 5, 0xb4], ..packet }.frame();
            let address_end = if family == Family::V4 { 34 } else { 54 };
            for length in 14..frame.len() {
                let verdict = plane.receive(plane.host.client_ifindex, &frame[..length])?;
                assert_eq!(verdict.frame, &frame[..length], "cut to {length} bytes");
                let expected = if length < address_end { Action::Pass } else { Action::Drop };
                assert_eq!(verdict.action, expected, "{family:?} {mode} cut to {length} bytes");
            }
        }
    }
    Ok(())
}

#[test]
fn an_unknown_ipv6_next_hop_is_asked_for() -> Result<()> {
    let mut plane = plane(Family::V6, Family::V6, MODE_TUNNEL, 0)?;
    for slot in 0..3 {
        let address = Family::V6.backend(slot).to_string();
        plane.host.ip(&["neigh", "del", &address, "dev", BACKEND_LINK])?;
    }
    let mut events = plane.kernel.events()?;
    let [packet, _] = packets(Family::V6, 1);
    assert_eq!(plane.from_client(&packet).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoNeighbor), 1);
    let event = events.next().expect("the program asks");
    let address = steerage::kernel::neighbor::address_of(&event);
    assert!((0..3).any(|slot| Family::V6.backend(slot) == address), "{address}");
    assert_ne!(address, IpAddr::from(SOURCE));
    Ok(())
}
