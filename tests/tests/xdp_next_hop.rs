//! Where the XDP program's packets go next: routes, neighbours, sizes. Needs root.

use std::time::{Duration, Instant};

use anyhow::Result;
use steerage_common::abi::Reason;
use steerage_tests::xdp::packet::{ACK, OWN_MAC, PEER_MAC, Packet, SYN};
use steerage_tests::xdp::{
    Action, BACKEND_LINK, CLIENT_LINK, Plane, answer, backend, client_socket, home_of, segment,
    vip_socket,
};

#[test]
fn a_backend_that_moves_to_another_link_address_is_followed() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let address = backend(0).to_string();
    let _ = plane.from_client(&segment(1, SYN)).sent();
    let mac = "02:00:00:aa:bb:cc";
    plane.host.ip(&["neigh", "replace", &address, "lladdr", mac, "dev", BACKEND_LINK])?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while plane.from_client(&segment(1, ACK)).frame[..6] != [2, 0, 0, 0xaa, 0xbb, 0xcc] {
        assert!(Instant::now() < deadline, "the old address is still used");
    }
    Ok(())
}

#[test]
fn an_unknown_next_hop_is_asked_for_and_then_found() -> Result<()> {
    let mut plane = Plane::new(&[1])?;
    let address = backend(0).to_string();
    let link = BACKEND_LINK;
    plane.host.ip(&["neigh", "del", &address, "dev", link])?;
    let mut events = plane.kernel.events()?;
    assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoNeighbor), 1);
    let event = events.next().expect("the program asks");
    assert_eq!(steerage::kernel::neighbor::address_of(&event), backend(0));
    assert_eq!(event.ifindex, plane.host.backend_ifindex);
    for _ in 0..200 {
        assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
    }
    // Ten in a second on each CPU at most.
    assert!(events.count() < 100, "a few questions are enough");
    // The kernel takes the question: it has an entry for the neighbour now.
    plane.host.enter(|| steerage::kernel::neighbor::resolve(event.ifindex, backend(0).into()))?;
    plane.host.ip(&["neigh", "get", &address, "dev", link])?;
    let mac = "02:00:00:02:00:00";
    plane.host.ip(&["neigh", "replace", &address, "lladdr", mac, "dev", link])?;
    assert_eq!(home_of(&plane, 1), 0);
    Ok(())
}

#[test]
fn answers_find_back_without_a_neighbour_entry_for_the_client() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let got = plane.from_client(&segment(1, SYN)).sent();
    plane.host.ip(&["neigh", "del", "10.1.0.254", "dev", CLIENT_LINK])?;
    let back = plane.from_backend(&answer(&got));
    assert_eq!(back.sent().destination, client_socket(1));
    assert_eq!(back.frame[..6], PEER_MAC, "to whoever sent the client's packets");
    assert_eq!(back.frame[6..12], OWN_MAC);
    Ok(())
}

#[test]
fn without_a_route_packets_are_dropped_with_a_reason() -> Result<()> {
    let plane = Plane::new(&[1])?;
    plane.host.ip(&["route", "add", "unreachable", "10.2.16.0/24"])?;
    assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoRoute), 1);
    Ok(())
}

#[test]
fn a_packet_that_is_too_large_for_the_way_is_dropped_with_a_reason() -> Result<()> {
    let plane = Plane::new(&[1])?;
    plane.host.ip(&["link", "set", BACKEND_LINK, "mtu", "1000"])?;
    let large = Packet { payload: vec![0; 1200], ..segment(1, ACK) };
    assert_eq!(plane.from_client(&large).action, Action::Transmit, "its sender is told");
    assert_eq!(plane.count(Reason::TooBig), 1);
    let _ = plane.from_client(&segment(1, ACK)).sent();
    // Also when the way is known already.
    assert_eq!(plane.from_client(&large).action, Action::Transmit);
    assert_eq!(plane.count(Reason::TooBig), 2);
    Ok(())
}

#[test]
fn a_client_on_the_backends_link_is_served_too() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let client = std::net::SocketAddr::new(backend(9).into(), 4000);
    let far = "neigh replace 10.2.16.9 lladdr 02:00:00:02:00:09 dev backends nud permanent";
    plane.host.ip(&far.split(' ').collect::<Vec<_>>())?;
    let packet = Packet::tcp(client, vip_socket(), SYN);
    let forward = plane.from_backend(&packet);
    assert_eq!(forward.action, Action::Transmit);
    let back = plane.from_backend(&answer(&forward.sent()));
    assert_eq!(back.action, Action::Transmit);
    assert_eq!(back.sent().destination, client);
    Ok(())
}
