//! What `steerage flows` says is what the program does. Needs root.

use anyhow::Result;
use steerage::kernel::explain::{Chosen, Explanation, Tables, Tuple};
use steerage_common::abi::VIP_REMEMBERS;
use steerage_common::health::Event;
use steerage_tests::xdp::packet::{ACK, Packet, SYN, TCP, UDP};
use steerage_tests::xdp::{
    Action, Choices, Family, Plane, client_socket, home_of, segment, slot_of, vip_socket,
};

fn explained(plane: &Plane, tables: &Tables, packet: &Packet) -> Result<Explanation> {
    let tuple = Tuple { client: packet.source, vip: packet.destination, protocol: packet.protocol };
    let explanation = tables.explain(&tuple)?;
    assert_eq!(plane.region.generation(), explanation.as_ref().map_or(0, |e| e.generation));
    Ok(explanation.expect("there is such a vip"))
}

/// Asks about a packet, then sends it: it goes where it was said to go, and is remembered if it was said
/// to be.
fn check(plane: &Plane, tables: &Tables, packet: &Packet, what: &str) -> Result<Chosen> {
    let explanation = explained(plane, tables, packet)?;
    let kind = match (packet.protocol, packet.flags) {
        (UDP, _) => "datagram",
        (_, SYN) => "syn",
        _ => "segment",
    };
    let choice = explanation.choices.iter().find(|choice| choice.packet == kind);
    let choice = choice.expect("such a packet is told about").clone();
    let before = plane.remembered()?;
    let verdict = plane.from_client(packet);
    match choice.slot {
        None => assert_eq!(verdict.action, Action::Drop, "{explanation}"),
        Some(slot) => {
            let sent = verdict.sent();
            assert_eq!(slot_of(&sent), slot, "{what}:\n{explanation}");
            assert_eq!(Some(sent.destination), choice.backend);
        }
    }
    let is_new = explanation.remembered.is_none() && choice.is_remembered;
    assert_eq!(plane.remembered()? - before, usize::from(is_new), "{what}:\n{explanation}");
    Ok(choice)
}

fn datagram(port: u16) -> Packet {
    Packet::udp(client_socket(port), vip_socket())
}

/// New flows, then packets of those that exist; gives how many of the answers had each reason.
fn all(plane: &Plane, tables: &Tables, ports: std::ops::Range<u16>, what: &str) -> Result<usize> {
    let mut moves = 0;
    for port in ports {
        for packet in [segment(port, ACK), segment(port, SYN), segment(port, ACK), datagram(port)] {
            moves += usize::from(check(plane, tables, &packet, what)?.is_move);
        }
    }
    Ok(moves)
}

#[test]
fn whatever_happens_to_backends_the_explanation_is_what_the_packet_meets() -> Result<()> {
    let (weights, tiers) = (vec![1, 2, 1, 0, 1, 1], vec![0, 0, 0, 0, 1, 1]);
    let mut plane = Plane::with(Choices { weights, tiers, ..Choices::default() })?;
    let tables = plane.tables()?;
    assert_eq!(all(&plane, &tables, 1..60, "settled")?, 0);
    plane.set_weight(3, 3);
    plane.publish()?;
    all(&plane, &tables, 30..100, "changed")?;
    plane.kill(1);
    assert!(all(&plane, &tables, 30..100, "one dead")? > 0);
    plane.tell(2, Event::Drain);
    all(&plane, &tables, 60..130, "one draining")?;
    plane.revive_slowly(1, 20);
    all(&plane, &tables, 60..160, "one warming up")?;
    for slot in 0..4 {
        plane.tell(slot, Event::Maintain);
    }
    all(&plane, &tables, 100..180, "a tier down")?;
    plane.tell(0, Event::Enable);
    all(&plane, &tables, 100..180, "and back")?;
    for slot in [0, 4, 5] {
        plane.kill(slot);
    }
    all(&plane, &tables, 170..190, "nobody")?;
    plane.set_panicking(Some(1));
    all(&plane, &tables, 170..190, "panic")?;
    Ok(())
}

#[test]
fn the_reasons_are_told() -> Result<()> {
    let mut plane = Plane::new(&[1, 1, 0])?;
    let tables = plane.tables()?;
    let at = |plane: &Plane, slot| {
        (1..1000).find(|port| home_of(plane, *port) == slot).expect("a flow at home there")
    };
    let (first, second) = (at(&plane, 0), at(&plane, 1));
    let settled = check(&plane, &tables, &segment(first, ACK), "settled")?;
    assert_eq!(settled.why, "its home, the table is not asked");
    plane.kill(0);
    let dead = check(&plane, &tables, &segment(first, ACK), "dead")?;
    assert_eq!(dead.why, "its home takes nothing new: the next candidate");
    assert!(dead.is_move && dead.is_remembered);
    plane.revive(0);
    let away = check(&plane, &tables, &segment(first, ACK), "back")?;
    assert_eq!((away.why, away.slot), ("the flow table has it", Some(1)));
    plane.set_weight(2, 100);
    plane.publish()?;
    let old = check(&plane, &tables, &segment(second, ACK), "changed")?;
    let why = "the former home: nobody remembers it, so it began before the change";
    assert_eq!((old.why, old.slot), (why, Some(1)));
    let text = explained(&plane, &tables, &segment(second, ACK))?.to_string();
    assert!(text.contains("the position changed lately: it was that of 10.2.16.1:8080"), "{text}");
    Ok(())
}

#[test]
fn ipv6_and_flows_that_are_all_remembered_are_explained_too() -> Result<()> {
    let (vips, backends) = (Family::V6, Family::V6);
    let choices = Choices { weights: vec![1; 5], vips, backends, ..Choices::default() };
    let plane = Plane::with(Choices { flags: VIP_REMEMBERS, ..choices })?;
    let tables = plane.tables()?;
    let vip = std::net::SocketAddr::new(Family::V6.vip(), vip_socket().port());
    for port in 1..100 {
        let client = std::net::SocketAddr::new(Family::V6.client(), port);
        for packet in [Packet::tcp(client, vip, SYN), Packet::udp(client, vip)] {
            let choice = check(&plane, &tables, &packet, "first")?;
            assert!(choice.is_remembered);
            assert_eq!(check(&plane, &tables, &packet, "again")?.why, "the flow table has it");
        }
    }
    let stranger = Tuple { client: client_socket(1), vip: vip_socket(), protocol: TCP };
    assert_eq!(tables.explain(&stranger)?, None, "no such vip");
    Ok(())
}
