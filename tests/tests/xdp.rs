//! What the XDP program promises, packet by packet. Needs root.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use steerage_common::abi::{Reason, VIP_PASSES};
use steerage_common::health::Event;
use steerage_tests::xdp::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use steerage_tests::xdp::{
    Action, Choices, GATEWAY_MAC, NAT_PORT_COUNT, NAT_PORT_FIRST, Plane, SOURCE, answer, backend,
    backend_mac, client_socket, home_of, segment, slot_of, vip_socket,
};

fn datagram(port: u16) -> Packet {
    Packet::udp(client_socket(port), vip_socket())
}

fn both_ways(make: impl Fn(u16) -> Packet) -> Result<()> {
    let plane = Plane::new(&[1, 1, 1])?;
    let packet = make(40_000);
    let forward = plane.from_client(&packet);
    let got = forward.sent();
    let slot = slot_of(&got);
    assert_eq!(forward.action, Action::Redirect);
    assert_eq!(forward.frame[..6], backend_mac(slot), "to the backend's own link address");
    assert_eq!(got.source.ip(), SOURCE);
    assert!((NAT_PORT_FIRST..NAT_PORT_FIRST + NAT_PORT_COUNT).contains(&got.source.port()));
    assert_eq!(got.ttl, packet.ttl - 1);
    assert_eq!((&got.payload, got.flags), (&packet.payload, packet.flags));

    let back = plane.from_backend(&answer(&got));
    let heard = back.sent();
    assert_eq!(back.action, Action::Redirect);
    assert_eq!(back.frame[..6], GATEWAY_MAC);
    assert_eq!((heard.source, heard.destination), (vip_socket(), client_socket(40_000)));
    assert_eq!((heard.ttl, heard.payload), (63, packet.payload.clone()));

    let again = plane.from_client(&make(40_000)).sent();
    assert_eq!((again.source, again.destination), (got.source, got.destination));
    let traffic = plane.vip_traffic(packet.protocol);
    let bytes = packet.frame().len() as u64;
    assert_eq!((traffic.in_packets, traffic.in_bytes), (2, 2 * bytes));
    assert_eq!((traffic.out_packets, traffic.out_bytes, traffic.flows), (1, bytes, 1));
    Ok(())
}

#[test]
fn a_tcp_client_talks_to_a_backend_and_only_ever_sees_the_vip() -> Result<()> {
    both_ways(|port| segment(port, SYN))
}

#[test]
fn a_udp_client_talks_to_a_backend_and_only_ever_sees_the_vip() -> Result<()> {
    both_ways(datagram)
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let got = plane.from_client(&Packet { udp_has_checksum: false, ..datagram(1) }).sent();
    assert!(!got.udp_has_checksum);
    let heard = plane.from_backend(&answer(&got)).sent();
    assert!(!heard.udp_has_checksum);
    Ok(())
}

#[test]
fn checksums_are_right_for_every_payload_length_and_option() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    for length in 0..64u16 {
        let payload: Vec<u8> = (0..length).map(|n| (n * 37) as u8).collect();
        let ip_options = vec![1; usize::from(length % 11) * 4];
        let tcp_options = vec![1; usize::from(length % 10) * 4];
        let tcp = Packet { payload, ip_options, tcp_options, ..segment(1000 + length, ACK) };
        let udp = Packet { protocol: UDP, tcp_options: Vec::new(), flags: 0, ..tcp.clone() };
        for packet in [tcp, udp] {
            let got = plane.from_client(&packet).sent();
            assert_eq!(got.payload, packet.payload);
            assert_eq!(got.ip_options, packet.ip_options);
            assert_eq!(got.tcp_options, packet.tcp_options);
            let heard = plane.from_backend(&answer(&got)).sent();
            assert_eq!(heard.payload, packet.payload);
        }
    }
    Ok(())
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let to_vip = segment(1, SYN);
    let other_port = Packet { destination: client_socket(81), ..to_vip.clone() };
    let in_nat_range = Packet {
        destination: std::net::SocketAddr::new(SOURCE.into(), NAT_PORT_FIRST + 7),
        ..to_vip.clone()
    };
    let with_kind = |kind: [u8; 2]| {
        let mut frame = to_vip.frame();
        frame[12..14].copy_from_slice(&kind);
        frame
    };
    let with_protocol = |protocol: u8| {
        let mut frame = to_vip.frame();
        frame[23] = protocol;
        frame
    };
    let first_fragment = Packet { fragment: 0x2000, ..other_port.clone() };
    let last_fragment = Packet { fragment: 0x0010, ..other_port.clone() };
    let frames = [
        ("another address", other_port.frame()),
        ("a port of nat that no flow has", in_nat_range.frame()),
        ("ARP", with_kind([8, 6])),
        ("VLAN", with_kind([0x81, 0])),
        ("what says IPv6 and is not", with_kind([0x86, 0xdd])),
        ("ICMP", with_protocol(1)),
        ("SCTP", with_protocol(132)),
        ("a first fragment", first_fragment.frame()),
        ("a last fragment", last_fragment.frame()),
        ("an Ethernet header alone", to_vip.frame()[..14].to_vec()),
    ];
    for (what, frame) in frames {
        for ifindex in [plane.host.client_ifindex, plane.host.backend_ifindex] {
            let verdict = plane.receive(ifindex, &frame)?;
            assert_eq!(verdict.action, Action::Pass, "{what}");
            assert_eq!(verdict.frame, frame, "{what}");
        }
    }
    assert_eq!(plane.kernel.reasons()?, [0; Reason::ALL.len()]);
    Ok(())
}

#[test]
fn a_frame_cut_at_any_length_does_no_harm() -> Result<()> {
    let plane = Plane::new(&[1])?;
    for packet in [segment(7, SYN), datagram(7)] {
        let frame = packet.frame();
        for length in 14..frame.len() {
            let verdict = plane.receive(plane.host.client_ifindex, &frame[..length])?;
            assert_eq!(verdict.frame, &frame[..length], "cut to {length} bytes");
            // From the destination on it is known to be for a vip's address.
            let expected = if length < 34 { Action::Pass } else { Action::Drop };
            assert_eq!(verdict.action, expected, "cut to {length} bytes");
        }
        assert_eq!(plane.from_client(&packet).action, Action::Redirect);
    }
    Ok(())
}

#[test]
fn what_no_honest_host_sends_is_dropped_with_a_reason() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let changed = |packet: &Packet, at: usize, value: u8| {
        let mut frame = packet.frame();
        frame[at] = value;
        frame
    };
    let (tcp, udp) = (segment(9, SYN), datagram(9));
    let land = Packet { source: vip_socket(), ..tcp.clone() };
    let frames = [
        ("no flags", segment(9, 0).frame()),
        ("SYN and FIN", segment(9, SYN | FIN).frame()),
        ("SYN and RST", segment(9, SYN | RST).frame()),
        ("source and destination are the same", land.frame()),
        ("IP version 5", changed(&tcp, 14, 0x55)),
        ("a total length past the end", changed(&tcp, 16, 0x7f)),
        ("a total length within the header", changed(&tcp, 17, 30)),
        ("a TCP header shorter than it can be", changed(&tcp, 46, 0x40)),
        ("a TCP header longer than the packet", changed(&tcp, 46, 0xf0)),
        ("a UDP length below its header", changed(&udp, 39, 7)),
        ("a UDP length past the end", changed(&udp, 38, 0x7f)),
    ];
    let count = frames.len() as u64;
    for (what, frame) in frames {
        let verdict = plane.receive(plane.host.client_ifindex, &frame)?;
        assert_eq!(verdict.action, Action::Drop, "{what}");
    }
    assert_eq!(plane.count(Reason::Malformed), count);
    assert_eq!(plane.vip_traffic(TCP).flows + plane.vip_traffic(UDP).flows, 0);
    Ok(())
}

#[test]
fn a_packet_at_the_end_of_its_life_goes_no_further() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let got = plane.from_client(&segment(3, SYN)).sent();
    for ttl in [0, 1] {
        // It goes back, in an error.
        let forward = plane.from_client(&Packet { ttl, ..segment(3, ACK) });
        assert_eq!(forward.action, Action::Transmit);
        let back = plane.from_backend(&Packet { ttl, ..answer(&got) });
        assert_eq!(back.action, Action::Transmit);
    }
    assert_eq!(plane.count(Reason::TtlExpired), 4);
    assert_eq!(plane.count(Reason::ErrorSent), 4);
    let last = plane.from_client(&Packet { ttl: 2, ..segment(3, ACK) }).sent();
    assert_eq!(last.ttl, 1);
    Ok(())
}

#[test]
fn flows_spread_by_weight() -> Result<()> {
    let plane = Plane::new(&[5, 1, 0])?;
    let mut flows: HashMap<u16, u32> = HashMap::new();
    for port in 1..=1200 {
        *flows.entry(home_of(&plane, port)).or_default() += 1;
    }
    assert_eq!(flows.get(&2), None, "weight 0 takes no flow");
    // Five sigma of a binomial with n = 1200, p = 1/6.
    assert!((135..=265).contains(&flows[&1]), "{flows:?}");
    Ok(())
}

#[test]
fn with_nobody_alive_packets_are_dropped_and_nobody_gets_them() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    plane.kill(0);
    plane.kill(1);
    assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
    assert_eq!(plane.from_client(&datagram(1)).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoBackend), 2);
    plane.revive(1);
    assert_eq!(home_of(&plane, 1), 1);
    Ok(())
}

#[test]
fn what_nobody_takes_is_the_host_s_own_if_the_vip_says_so() -> Result<()> {
    let choices = Choices { weights: vec![1, 1], flags: VIP_PASSES, ..Choices::default() };
    let plane = Plane::with(choices)?;
    let begun = home_of(&plane, 1);
    (0..2).for_each(|slot| plane.kill(slot));
    for packet in [segment(1, ACK), segment(2, SYN), datagram(3)] {
        let verdict = plane.from_client(&packet);
        assert_eq!((verdict.action, verdict.frame), (Action::Pass, packet.frame()));
    }
    assert_eq!(plane.count(Reason::NoBackend), 3);
    plane.revive(begun);
    assert_eq!(home_of(&plane, 2), begun);
    Ok(())
}

#[test]
fn a_service_of_nobody_drops() -> Result<()> {
    let plane = Plane::new(&[0, 0])?;
    assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoBackend), 1);
    Ok(())
}

#[test]
fn the_very_next_packet_after_a_death_goes_elsewhere_and_stays_there() -> Result<()> {
    let plane = Plane::new(&[1, 1, 1])?;
    let first = home_of(&plane, 5);
    plane.kill(first);
    let second = slot_of(&plane.from_client(&segment(5, ACK)).sent());
    assert_ne!(second, first);
    assert_eq!(plane.count(Reason::Moved), 1);
    plane.revive(first);
    assert_eq!(slot_of(&plane.from_client(&segment(5, ACK)).sent()), second, "the flow stays");
    assert_eq!(plane.count(Reason::Moved), 1);
    Ok(())
}

#[test]
fn flows_of_the_living_do_not_move_when_another_dies() -> Result<()> {
    let plane = Plane::new(&[1; 8])?;
    let homes: Vec<(u16, u16)> = (1..200).map(|port| (port, home_of(&plane, port))).collect();
    plane.kill(3);
    for (port, home) in homes {
        let now = slot_of(&plane.from_client(&segment(port, ACK)).sent());
        assert!(if home == 3 { now != 3 } else { now == home }, "port {port}: {home} to {now}");
    }
    Ok(())
}

#[test]
fn the_last_one_alive_of_many_is_always_found() -> Result<()> {
    let plane = Plane::new(&[1; 300])?;
    for slot in (0..300).filter(|slot| *slot != 217) {
        plane.kill(slot);
    }
    for port in 1..100 {
        assert_eq!(home_of(&plane, port), 217);
    }
    // The few that are left share the work.
    plane.revive(3);
    plane.revive(299);
    let homes: HashSet<u16> = (100..300).map(|port| home_of(&plane, port)).collect();
    assert_eq!(homes, HashSet::from([3, 217, 299]));
    Ok(())
}

#[test]
fn a_draining_backend_keeps_its_flows_and_takes_no_new_ones() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    let home = home_of(&plane, 5);
    plane.tell(home, Event::Drain);
    assert_eq!(slot_of(&plane.from_client(&segment(5, ACK)).sent()), home);
    for port in 100..200 {
        assert_ne!(home_of(&plane, port), home);
    }
    assert_ne!(home_of(&plane, 5), home, "the same ports, but a new connection");
    assert_eq!(plane.count(Reason::Moved), 0);
    Ok(())
}

#[test]
fn a_weight_of_zero_keeps_flows_and_takes_no_new_ones() -> Result<()> {
    let mut plane = Plane::new(&[1, 1])?;
    let home = home_of(&plane, 5);
    plane.set_weight(home, 0);
    plane.publish()?;
    assert_eq!(slot_of(&plane.from_client(&segment(5, ACK)).sent()), home);
    for port in 100..200 {
        assert_ne!(home_of(&plane, port), home);
    }
    assert_ne!(home_of(&plane, 5), home, "the same ports, but a new connection");
    Ok(())
}

#[test]
fn a_new_connection_from_the_same_ports_meets_the_same_backend() -> Result<()> {
    let plane = Plane::new(&[1; 5])?;
    let first = plane.from_client(&segment(6, SYN)).sent();
    let second = plane.from_client(&segment(6, SYN)).sent();
    assert_eq!((second.source, second.destination), (first.source, first.destination));
    assert_eq!(plane.vip_traffic(TCP).flows, 1);
    Ok(())
}

#[test]
fn a_publication_moves_no_flow() -> Result<()> {
    let mut plane = Plane::new(&[1; 4])?;
    let before: Vec<_> =
        (1..100).map(|port| plane.from_client(&segment(port, SYN)).sent()).collect();
    for weight in [7, 2, 9] {
        plane.set_weight(1, weight);
        plane.publish()?;
        for (port, before) in (1..100).zip(&before) {
            let now = plane.from_client(&segment(port, ACK)).sent();
            assert_eq!((now.source, now.destination), (before.source, before.destination));
        }
    }
    Ok(())
}

#[test]
fn a_flow_never_reaches_the_next_tenant_of_its_backends_slot() -> Result<()> {
    let mut plane = Plane::new(&[1, 1])?;
    let home = home_of(&plane, 5);
    let got = plane.from_client(&segment(5, ACK)).sent();
    plane.tell(home, Event::Removed);
    plane.tell(home, Event::Assigned);
    plane.move_to(home, 77);
    // The new tenant has no weight: whoever got there did so by the old flow.
    plane.set_weight(home, 0);
    plane.publish()?;
    let now = plane.from_client(&segment(5, ACK)).sent();
    assert_eq!(slot_of(&now), 1 - home);
    let late = plane.from_backend(&answer(&got));
    assert_eq!(late.action, Action::Pass, "the former tenant's packets are the host's business");
    Ok(())
}

#[test]
fn a_flow_does_not_outlive_its_vip() -> Result<()> {
    let mut plane = Plane::new(&[1, 1])?;
    let first = plane.from_client(&segment(5, SYN)).sent();
    plane.kernel.remove_vip(&plane.vip_key(TCP))?;
    assert_eq!(plane.from_client(&segment(5, ACK)).action, Action::Pass);
    plane.kernel.set_vip(&plane.vip_key(TCP), &plane.vip(TCP, 2))?;
    // Found anew, by the same hash: the same backend and the same source port.
    let again = plane.from_client(&segment(5, ACK)).sent();
    assert_eq!((again.source, again.destination), (first.source, first.destination));
    assert_eq!(plane.vip_traffic(TCP).flows, 2);
    Ok(())
}

#[test]
fn flows_to_one_backend_never_share_a_source_port() -> Result<()> {
    let plane = Plane::new(&[1])?;
    plane.set_nat_ports(2000, 400);
    let mut taken = HashSet::new();
    let mut refused = 0;
    for port in 1..=400 {
        let verdict = plane.from_client(&segment(port, SYN));
        if verdict.action == Action::Drop {
            refused += 1;
            continue;
        }
        let got = verdict.sent();
        assert!((2000..2400).contains(&got.source.port()));
        assert!(taken.insert(got.source.port()), "port {} twice", got.source.port());
        let heard = plane.from_backend(&answer(&got)).sent();
        assert_eq!(heard.destination, client_socket(port));
    }
    assert_eq!(plane.count(Reason::NoPort), refused);
    assert!(refused < 40, "{refused} of 400 flows found no port");
    Ok(())
}

#[test]
fn a_closed_connection_leaves_its_source_port_to_another() -> Result<()> {
    let plane = Plane::new(&[1])?;
    plane.set_nat_ports(2000, 1);
    let got = plane.from_client(&segment(1, SYN)).sent();
    let _ = plane.from_backend(&answer(&got)).sent();
    assert_eq!(plane.from_client(&segment(2, SYN)).action, Action::Drop, "the port is taken");
    let _ = plane.from_client(&segment(1, FIN | ACK)).sent();
    assert_eq!(plane.from_client(&segment(2, SYN)).action, Action::Drop, "half closed only");
    let _ = plane.from_backend(&Packet { flags: FIN | ACK, ..answer(&got) }).sent();
    let second = plane.from_client(&segment(2, SYN)).sent();
    assert_eq!(second.source, got.source);
    let heard = plane.from_backend(&answer(&second)).sent();
    assert_eq!(heard.destination, client_socket(2));
    // The former owner is a stranger now; the port is not his to use.
    assert_eq!(plane.from_client(&segment(1, ACK)).action, Action::Drop);
    let _ = plane.from_client(&segment(2, RST)).sent();
    assert_eq!(plane.from_client(&segment(1, SYN)).sent().source, got.source);
    Ok(())
}

#[test]
fn other_traffic_of_a_backend_to_a_port_of_nat_is_not_taken_for_an_answer() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let got = plane.from_client(&segment(1, SYN)).sent();
    let elsewhere = Packet {
        destination: std::net::SocketAddr::new(backend(40).into(), got.source.port()),
        ..answer(&got)
    };
    let verdict = plane.from_backend(&elsewhere);
    assert_eq!(verdict.action, Action::Pass);
    assert_eq!(verdict.frame, elsewhere.frame());
    Ok(())
}

/// What a panic is, is one rule for both planes; here is what the packets' half makes of it.
#[test]
fn in_a_panic_flows_go_home_to_the_dead_but_not_against_an_operator_s_wish() -> Result<()> {
    let (plane, twin) = (Plane::new(&[1, 1, 1])?, Plane::new(&[1, 1, 1])?);
    // The twin tells where flows are at home, without beginning them here.
    let homes: Vec<(u16, u16)> = (1000..1100).map(|port| (port, home_of(&twin, port))).collect();
    let at = |slot| homes.iter().filter(move |(_, home)| *home == slot).map(|(port, _)| *port);
    let sent = |port, flags| plane.from_client(&segment(port, flags)).sent();
    plane.kill(0);
    plane.kill(1);
    assert!(at(0).take(5).all(|port| slot_of(&sent(port, SYN)) == 2), "the one that lives has all");
    plane.set_panicking(Some(0));
    for port in at(0).skip(5) {
        let first = sent(port, SYN);
        assert_eq!(slot_of(&first), 0, "home, dead or not");
        assert_eq!(sent(port, ACK).source, first.source, "and the flow stays there");
    }
    assert_eq!(plane.count(Reason::Moved), 0);
    plane.tell(1, Event::Drain);
    assert!(at(1).all(|port| slot_of(&sent(port, SYN)) != 1));
    plane.set_panicking(None);
    let back = at(0).skip(5).inspect(|port| assert_eq!(slot_of(&sent(*port, ACK)), 2)).count();
    assert_eq!(plane.count(Reason::Moved), back as u64);
    Ok(())
}
