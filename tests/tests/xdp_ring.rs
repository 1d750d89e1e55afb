//! Ring first: when the flow table is asked, what it holds, and when that ends. Needs root.

use std::collections::HashMap;

use anyhow::Result;
use steerage_common::abi::{Reason, VIP_REMEMBERS};
use steerage_common::health::Event;
use steerage_common::slot::Slot;
use steerage_tests::xdp::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use steerage_tests::xdp::{Plane, client_socket, home_of, segment, slot_of, vip_socket};

const HOUR: i64 = 3_700;

fn datagram(port: u16) -> Packet {
    Packet::udp(client_socket(port), vip_socket())
}

fn slot_for(plane: &Plane, packet: &Packet) -> u16 {
    slot_of(&plane.from_client(packet).sent())
}

/// Flows that began on two backends, and a third that came since.
fn grown() -> Result<(Plane, HashMap<u16, u16>)> {
    let mut plane = Plane::new(&[1, 1, 0])?;
    let homes = (1..200).map(|port| (port, home_of(&plane, port))).collect();
    plane.set_weight(2, 1);
    plane.publish()?;
    Ok((plane, homes))
}

#[test]
fn on_a_settled_ring_nothing_is_remembered() -> Result<()> {
    let plane = Plane::new(&[1, 1, 1])?;
    for port in 1..200 {
        let home = home_of(&plane, port);
        assert_eq!(slot_for(&plane, &segment(port, ACK)), home);
        let datagrams = slot_for(&plane, &datagram(port));
        assert_eq!(slot_for(&plane, &datagram(port)), datagrams);
    }
    assert_eq!((plane.remembered()?, plane.changed_entries()?), (0, 0));
    let traffic = plane.vip_traffic(TCP);
    assert_eq!((traffic.remembered, traffic.misses), (0, 0));
    Ok(())
}

#[test]
fn after_a_change_old_flows_stay_and_new_ones_take_the_new_ring() -> Result<()> {
    let (plane, homes) = grown()?;
    assert!((20_000..24_000).contains(&plane.changed_entries()?), "a third of the ring");
    for (port, home) in &homes {
        assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home);
    }
    let old = plane.remembered()?;
    assert!((30..100).contains(&old), "those of changed entries alone: {old}");
    let new: Vec<(u16, u16)> = (1000..1200).map(|port| (port, home_of(&plane, port))).collect();
    assert!(new.iter().filter(|(_, home)| *home == 2).count() > 30);
    for (port, home) in new {
        assert_eq!(slot_for(&plane, &segment(port, ACK)), home);
    }
    assert_eq!(plane.count(Reason::Moved), 0);
    Ok(())
}

#[test]
fn a_second_change_moves_nobody_either() -> Result<()> {
    let (mut plane, mut homes) = grown()?;
    homes.extend((1000..1200).map(|port| (port, home_of(&plane, port))));
    for weights in [[5, 1, 1], [1, 7, 2], [0, 3, 1], [1, 1, 1]] {
        for (slot, weight) in (0..).zip(weights) {
            plane.set_weight(slot, weight);
        }
        plane.publish()?;
        for (port, home) in &homes {
            assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home, "weights {weights:?}");
        }
    }
    Ok(())
}

#[test]
fn entries_settle_when_their_flows_are_over() -> Result<()> {
    let (plane, homes) = grown()?;
    let mut settler = plane.settler()?;
    plane.settle(&mut settler, 0)?;
    for (port, home) in &homes {
        assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home);
    }
    let changed = plane.changed_entries()?;
    plane.settle(&mut settler, HOUR / 2)?;
    assert_eq!(plane.changed_entries()?, changed, "connections may be silent for an hour");
    // At the end of the hour all have been silent for long.
    plane.settle(&mut settler, HOUR)?;
    assert_eq!(plane.changed_entries()?, 0);
    Ok(())
}

#[test]
fn an_entry_with_a_flow_that_lives_does_not_settle() -> Result<()> {
    let (plane, homes) = grown()?;
    let changed = plane.changed_entries()?;
    for port in homes.keys() {
        let _ = plane.from_client(&segment(*port, ACK)).sent();
    }
    let old = plane.remembered()?;
    // As if the ring had changed an hour before the packets came.
    let mut aged = plane.settler()?;
    plane.settle(&mut aged, -HOUR)?;
    plane.settle(&mut aged, 0)?;
    let left = plane.changed_entries()?;
    assert!(left > 0 && left <= old && left < changed, "{left} of {changed}, {old} flows");
    for (port, home) in &homes {
        assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home);
    }
    // A reset ends a flow, and with the last one the entry settles.
    for port in homes.keys() {
        let _ = plane.from_client(&segment(*port, RST)).sent();
    }
    plane.settle(&mut aged, 0)?;
    assert_eq!(plane.changed_entries()?, 0);
    Ok(())
}

#[test]
fn a_flow_sent_off_stays_off_until_it_is_over() -> Result<()> {
    let plane = Plane::new(&[1, 1, 1])?;
    let mut settler = plane.settler()?;
    let port = (1..).find(|port| home_of(&plane, *port) == 0).expect("a flow at home with 0");
    plane.kill(0);
    let second = slot_for(&plane, &segment(port, SYN));
    let datagrams = slot_for(&plane, &datagram(port));
    assert!(second != 0 && datagrams != 0);
    plane.revive(0);
    plane.settle(&mut settler, 0)?;
    assert_eq!(plane.region.strays(0) & 1, 1, "flows of slot 0 are elsewhere");
    assert_eq!(slot_for(&plane, &segment(port, ACK)), second);
    plane.settle(&mut settler, HOUR)?;
    assert_eq!(plane.region.strays(0), 0);
    assert_eq!(slot_for(&plane, &segment(port, ACK)), 0, "a flow silent for an hour is over");
    Ok(())
}

#[test]
fn a_flood_at_a_changed_ring_is_forgotten_soon() -> Result<()> {
    let (plane, _) = grown()?;
    for port in 2000..3000 {
        let _ = plane.from_client(&segment(port, SYN)).sent();
    }
    let flood = plane.remembered()?;
    assert!(flood > 200, "{flood}");
    let mut settler = plane.settler()?;
    plane.settle(&mut settler, -HOUR)?;
    // Ten seconds later none of the handshakes has come to anything.
    plane.settle(&mut settler, 10)?;
    assert_eq!(plane.changed_entries()?, 0);
    Ok(())
}

#[test]
fn datagrams_stay_with_the_former_backend_for_a_minute_of_silence() -> Result<()> {
    let mut plane = Plane::new(&[1, 0])?;
    plane.set_weight(0, 0);
    plane.set_weight(1, 1);
    plane.publish()?;
    assert_eq!(slot_for(&plane, &datagram(1)), 0, "it may have begun before");
    assert_eq!(home_of(&plane, 1), 1, "a connection tells that it is new");
    let mut settler = plane.settler()?;
    plane.settle(&mut settler, 0)?;
    plane.settle(&mut settler, 70)?;
    assert_eq!(slot_for(&plane, &datagram(2)), 1, "whoever is new now began after the change");
    assert_eq!(slot_for(&plane, &datagram(1)), 0, "and who is known stays");
    Ok(())
}

#[test]
fn the_classic_way_remembers_every_flow() -> Result<()> {
    let mut plane = Plane::new(&[1, 1])?;
    for protocol in [TCP, UDP] {
        let mut vip = plane.vip(protocol, 1);
        vip.flags = VIP_REMEMBERS;
        plane.kernel.set_vip(&plane.vip_key(protocol), &vip)?;
    }
    for port in 1..50 {
        let home = home_of(&plane, port);
        assert_eq!(slot_for(&plane, &segment(port, ACK)), home);
        let _ = slot_for(&plane, &datagram(port));
    }
    assert_eq!(plane.remembered()?, 98);
    let traffic = plane.vip_traffic(TCP);
    assert_eq!((traffic.remembered, traffic.flows, traffic.misses), (49, 49, 49));
    Ok(())
}

#[test]
fn draining_moves_new_flows_only_and_recovery_brings_them_home() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    let homes: Vec<(u16, u16)> = (1..100).map(|port| (port, home_of(&plane, port))).collect();
    plane.tell(0, Event::Drain);
    for (port, home) in &homes {
        assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home);
        assert_eq!(slot_for(&plane, &segment(*port, ACK | FIN)), *home);
    }
    assert_eq!(plane.remembered()?, 0, "who is at home needs no memory");
    for port in 200..300 {
        assert_eq!(home_of(&plane, port), 1);
    }
    plane.tell(0, Event::Enable);
    for port in 200..300 {
        assert_eq!(slot_for(&plane, &segment(port, ACK)), 1, "begun while 0 took nothing new");
    }
    assert_eq!(plane.count(Reason::Moved), 0);
    Ok(())
}

/// Share of new connections that a third of the ring has while it warms up, in per mille of all.
fn share_of(plane: &Plane, slot: u16, ports: std::ops::Range<u16>) -> usize {
    let all = ports.len();
    ports.filter(|port| home_of(plane, *port) == slot).count() * 1000 / all
}

#[test]
fn whoever_recovers_takes_a_growing_share_of_new_connections_and_nobody_moves() -> Result<()> {
    let plane = Plane::new(&[1, 1, 1])?;
    assert!((280..390).contains(&share_of(&plane, 0, 1..1000)));
    plane.kill(0);
    let away: Vec<(u16, u16)> = (1000..1300).map(|port| (port, home_of(&plane, port))).collect();
    plane.revive_slowly(0, 0);
    let least = share_of(&plane, 0, 2000..5000);
    assert!((20..50).contains(&least), "a tenth of a third: {least}");
    let begun: Vec<(u16, u16)> = (2000..5000).map(|port| (port, home_of(&plane, port))).collect();
    plane.kill(0);
    plane.revive_slowly(0, 50);
    let half = share_of(&plane, 0, 6000..9000);
    assert!((150..220).contains(&half), "a little more than a half: {half}");
    let mut settler = plane.settler()?;
    plane.settle(&mut settler, 0)?;
    assert_eq!(plane.region.strays(0) & 1, 1, "marked while it warms up");
    for (port, home) in away.iter().chain(begun.iter().filter(|(_, home)| *home != 0)) {
        assert_eq!(slot_for(&plane, &segment(*port, ACK)), *home, "port {port}");
    }
    let moved = plane.count(Reason::Moved);
    let all_day = 90_000;
    plane.tell(0, Event::Drain);
    plane.tell(0, Event::Enable);
    plane.settle(&mut settler, all_day)?;
    assert_eq!(plane.region.strays(0), 0);
    assert!((280..390).contains(&share_of(&plane, 0, 10_000..11_000)), "warm at last");
    assert_eq!(plane.count(Reason::Moved), moved);
    Ok(())
}

#[test]
fn the_last_one_takes_everything_however_cold() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    plane.kill(0);
    plane.kill(1);
    plane.revive_slowly(1, 0);
    assert_eq!(share_of(&plane, 1, 1..300), 1000);
    Ok(())
}

#[test]
fn datagrams_of_whoever_recovers_stay_with_it() -> Result<()> {
    let plane = Plane::new(&[1, 1])?;
    let homes: Vec<(u16, u16)> =
        (1..200).map(|port| (port, slot_for(&plane, &datagram(port)))).collect();
    (0..10).for_each(|_| plane.fail(0));
    assert!(!plane.region.accepts_new(Slot::new(0).expect("a slot")), "ejected");
    for (port, home) in &homes {
        assert_eq!(slot_for(&plane, &datagram(*port)), *home, "an ejected one keeps its flows");
    }
    plane.revive_slowly(0, 0);
    for (port, home) in homes {
        assert_eq!(slot_for(&plane, &datagram(port)), home);
    }
    assert!(share_of(&plane, 0, 1000..2000) < 100, "it warms up");
    Ok(())
}
