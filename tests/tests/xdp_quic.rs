//! Which backend a QUIC packet reaches, packet by packet. Needs root.

use std::collections::HashSet;
use std::net::SocketAddr;

use anyhow::Result;
use steerage_common::abi::{MODE_L2, MODE_NAT, MODE_TUNNEL};
use steerage_common::health::Event;
use steerage_common::quic::Lengths;
use steerage_tests::xdp::packet::Packet;
use steerage_tests::xdp::{
    Action, Choices, Family, Plane, VIP_PORT, Verdict, backend_mac, slot_of,
};

const BACKENDS: u16 = 4;
/// The server ids of configurations 0, 1 and 3; the others are not in use.
const LENGTHS: [u8; 4] = [4, 1, 0, 15];

/// The server id of the backend at `slot`, of so many bytes.
fn id(slot: u16, bytes: usize) -> Vec<u8> {
    (0..bytes as u16).map(|at| (0xa0 + slot * 16 + at) as u8).collect()
}

/// A plane whose backends have ids for each configuration.
fn plane(family: Family, mode: u8) -> Result<Plane> {
    let mut plane = Plane::with(Choices {
        weights: vec![1; BACKENDS.into()],
        vips: family,
        backends: family,
        mode,
        server_id_lengths: Lengths::of(&LENGTHS).0,
        ..Choices::default()
    })?;
    let ids: Vec<_> = [4, 1, 15]
        .into_iter()
        .flat_map(|bytes| (0..BACKENDS).map(move |slot| (id(slot, bytes), slot)))
        .collect();
    let names: Vec<(&[u8], u16)> = ids.iter().map(|(id, slot)| (&id[..], *slot)).collect();
    plane.set_server_ids(&names)?;
    Ok(plane)
}

/// A connection id of `config` that names a server, and goes on as servers like.
fn connection_id(config: u8, id: &[u8]) -> Vec<u8> {
    [&[config << 5 | 0x0b][..], id, &[0x5a; 5]].concat()
}

fn datagram(family: Family, port: u16, payload: &[u8]) -> Packet {
    let client = SocketAddr::new(family.client(), port);
    let vip = SocketAddr::new(family.vip(), VIP_PORT);
    Packet { payload: payload.to_vec(), ..Packet::udp(client, vip) }
}

/// What follows an id: a packet's number, its payload and its tag, encrypted.
const REST: [u8; 24] = [0xe5; 24];

/// A packet of a connection (RFC 9000, 17.3).
fn short(family: Family, port: u16, id: &[u8]) -> Packet {
    datagram(family, port, &[&[0x43][..], id, &REST].concat())
}

/// A packet of a handshake (RFC 9000, 17.2), of this type.
fn long(family: Family, port: u16, kind: u8, id: &[u8]) -> Packet {
    let head = [0xc0 | kind << 4, 0, 0, 0, 1, id.len() as u8];
    datagram(family, port, &[&head[..], id, &[4, 9, 9, 9, 9], &REST].concat())
}

/// Where a packet went, by its link address.
#[track_caller]
fn slot_by_mac(verdict: &Verdict) -> u16 {
    assert_eq!(verdict.action, Action::Redirect);
    let slot = (0..BACKENDS).find(|slot| verdict.frame[..6] == backend_mac(*slot));
    slot.expect("a backend's link address")
}

const INITIAL: u8 = 0;
const ZERO_RTT: u8 = 1;
const HANDSHAKE: u8 = 2;

#[test]
fn a_packet_goes_to_the_server_that_its_id_names_wherever_it_comes_from() -> Result<()> {
    for family in Family::BOTH {
        for mode in [MODE_NAT, MODE_TUNNEL, MODE_L2] {
            let plane = plane(family, mode)?;
            for slot in 0..BACKENDS {
                for (config, bytes) in [(0, 4), (1, 1), (3, 15)] {
                    let id = connection_id(config, &id(slot, bytes));
                    for port in [40_000, 40_001, 50_017] {
                        let sent = plane.from_client(&short(family, port, &id));
                        assert_eq!(slot_by_mac(&sent), slot, "{family:?}, config {config}");
                        for kind in [INITIAL, ZERO_RTT, HANDSHAKE] {
                            let sent = plane.from_client(&long(family, port, kind, &id));
                            assert_eq!(slot_by_mac(&sent), slot, "long header, type {kind}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn answers_to_a_client_that_moved_go_where_it_is_now() -> Result<()> {
    let plane = plane(Family::V4, MODE_NAT)?;
    let id = connection_id(0, &id(2, 4));
    let mut seen = HashSet::new();
    for port in [40_000, 41_000, 42_000] {
        let got = plane.from_client(&short(Family::V4, port, &id)).sent();
        assert_eq!(slot_of(&got), 2);
        assert!(seen.insert(got.source), "the server sees that the client moved");
        let answer = Packet { source: got.destination, destination: got.source, ..got };
        assert_eq!(plane.from_backend(&answer).sent().destination.port(), port);
    }
    Ok(())
}

/// What names nobody is spread as any datagrams are, and a flow of it stays.
#[test]
fn packets_that_name_nobody_go_by_hash() -> Result<()> {
    for family in Family::BOTH {
        let plane = plane(family, MODE_NAT)?;
        let known = id(1, 4);
        let plain = |port| datagram(family, port, b"no quic at all, but long enough for an id");
        let cases: [(&str, Vec<u8>); 7] = [
            ("an id that nobody has", connection_id(0, &[9, 9, 9, 9])),
            ("a configuration that is not in use", connection_id(2, &known)),
            ("one beyond those that are configured", connection_id(5, &known)),
            ("the codepoint that says: by address", connection_id(7, &known)),
            ("an id of another length", connection_id(1, &[0xee])),
            ("no id", Vec::new()),
            ("a client's own choice", vec![0x33; 8]),
        ];
        let mut slots = HashSet::new();
        for port in 1000..1040 {
            let home = slot_of(&plane.from_client(&plain(port)).sent());
            for (what, id) in &cases {
                for packet in [short(family, port, id), long(family, port, INITIAL, id)] {
                    let got = slot_of(&plane.from_client(&packet).sent());
                    assert_eq!(got, home, "{family:?}: {what}");
                }
            }
            slots.insert(home);
        }
        assert_eq!(slots.len(), usize::from(BACKENDS), "all take part");
        // A long header says how long its id is; one that has no room for the server id names nobody.
        let cut: Vec<u8> = connection_id(0, &known)[..4].to_vec();
        for port in 1000..1040 {
            let home = slot_of(&plane.from_client(&plain(port)).sent());
            let mut packet = long(family, port, HANDSHAKE, &cut);
            packet.payload[10..].fill(known[3]);
            assert_eq!(slot_of(&plane.from_client(&packet).sent()), home);
        }
    }
    Ok(())
}

#[test]
fn a_datagram_of_any_length_is_taken_and_harms_nothing() -> Result<()> {
    let plane = plane(Family::V4, MODE_NAT)?;
    let id = connection_id(3, &id(1, 15));
    for packet in [short(Family::V4, 7, &id), long(Family::V4, 7, HANDSHAKE, &id)] {
        let whole = packet.payload.clone();
        for length in 0..whole.len() {
            let cut = Packet { payload: whole[..length].to_vec(), ..packet.clone() };
            let got = plane.from_client(&cut).sent();
            assert_eq!(got.payload, cut.payload);
        }
        assert_eq!(slot_of(&plane.from_client(&packet).sent()), 1);
    }
    Ok(())
}

#[test]
fn a_dead_server_s_packets_go_by_hash_and_a_draining_one_keeps_its_own() -> Result<()> {
    let mut plane = plane(Family::V4, MODE_NAT)?;
    let of = |slot| connection_id(0, &id(slot, 4));
    let ask = |plane: &Plane, slot, port| {
        slot_of(&plane.from_client(&short(Family::V4, port, &of(slot))).sent())
    };
    plane.tell(0, Event::Drain);
    assert!((1..50).all(|port| ask(&plane, 0, port) == 0), "draining keeps connections");
    let begin =
        |port| slot_of(&plane.from_client(&long(Family::V4, port, INITIAL, &[0xee; 8])).sent());
    assert!((1..50).all(|port| begin(port) != 0), "and takes no new ones");
    plane.kill(1);
    let elsewhere: HashSet<u16> = (1..50).map(|port| ask(&plane, 1, port)).collect();
    assert!(!elsewhere.contains(&1) && elsewhere.len() > 1, "{elsewhere:?}");
    plane.revive(1);
    assert!((1..50).all(|port| ask(&plane, 1, port) == 1));
    // The next tenant of a slot has nothing to do with the former one's id.
    plane.tell(2, Event::Removed);
    plane.tell(2, Event::Assigned);
    plane.move_to(2, 77);
    plane.set_weight(2, 0);
    plane.publish()?;
    let elsewhere: HashSet<u16> = (100..150).map(|port| ask(&plane, 2, port)).collect();
    assert!(!elsewhere.contains(&77) && !elsewhere.contains(&2), "{elsewhere:?}");
    Ok(())
}

#[test]
fn a_udp_vip_does_not_look_at_ids_and_other_vips_ids_are_nobody_s() -> Result<()> {
    let mut plain = Plane::with(Choices { weights: vec![1; 4], ..Choices::default() })?;
    let name = id(1, 4);
    plain.set_server_ids(&[(&name, 1)])?;
    let packet = |port| short(Family::V4, port, &connection_id(0, &name));
    let slots: HashSet<u16> =
        (1..60).map(|port| slot_of(&plain.from_client(&packet(port)).sent())).collect();
    assert_eq!(slots.len(), 4);
    Ok(())
}
