//! What the guard of a vip promises, packet by packet. Needs root.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use ipnet::IpNet;
use steerage::kernel::Guarding;
use steerage_common::abi::{
    GUARD_LISTS_V4, GUARD_LISTS_V6, GUARD_OFFENDERS, Guard, LISTED_ALLOW, LISTED_DENY,
    LISTED_EXEMPT, MODE_LOCAL, MODE_NAT, MODE_TUNNEL, Offender, Rate, Reason,
};
use steerage_tests::xdp::packet::{ACK, PEER_MAC, Packet, RST, SYN, TCP, UDP};
use steerage_tests::xdp::{Action, Choices, Family, Plane, VIP_PORT, Verdict, answer, segment};

/// So long that nothing comes back into a bucket while a test runs.
const LONG: u64 = 1_000_000_000_000_000;

const ALL: Guard = Guard {
    packets: Rate { interval_ns: 0, burst_ns: 0 },
    syns: Rate { interval_ns: 0, burst_ns: 0 },
    mask_v4: [255; 16],
    mask_v6: [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
    proof_ns: LONG,
    hold_ns: LONG,
    flood_begins: 0,
    flood_goes_on: 1,
    batch: 1,
    flags: 0,
    scope: 77,
    reserved: [0; 3],
};

/// So many at once and, for all a test sees, no more ever.
const fn only(count: u64) -> Rate {
    Rate { interval_ns: LONG, burst_ns: count * LONG }
}

fn plane(guard: Guard, prefixes: &[(&str, u32)]) -> Result<Plane> {
    plane_of(Choices::default(), guard, prefixes)
}

fn plane_of(choices: Choices, guard: Guard, prefixes: &[(&str, u32)]) -> Result<Plane> {
    let mut plane = Plane::with(choices)?;
    plane.set_guard(guarding(guard, prefixes))?;
    Ok(plane)
}

fn guarding(guard: Guard, prefixes: &[(&str, u32)]) -> Guarding {
    let mut prefixes: Vec<_> = prefixes
        .iter()
        .map(|(net, listed)| (net.parse::<IpNet>().expect("a prefix"), *listed))
        .collect();
    prefixes.sort_unstable();
    let mut flags = guard.flags;
    for (net, _) in &prefixes {
        flags |= if net.addr().is_ipv4() { GUARD_LISTS_V4 } else { GUARD_LISTS_V6 };
    }
    Guarding { guard: Guard { flags, ..guard }, prefixes }
}

fn family(family: Family) -> Choices {
    Choices { vips: family, backends: family, ..Choices::default() }
}

fn vip_of(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), VIP_PORT)
}

/// A packet from an address.
fn from(source: &str, port: u16, flags: u8) -> Packet {
    let source: IpAddr = source.parse().expect("an address");
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    Packet::tcp(SocketAddr::new(source, port), vip_of(family), flags)
}

fn is_sent(verdict: &Verdict) -> bool {
    matches!(verdict.action, Action::Transmit | Action::Redirect)
}

fn passes(plane: &Plane, packet: &Packet) -> bool {
    let verdict = plane.from_client(packet);
    assert!(is_sent(&verdict) || verdict.action == Action::Drop, "{:?}", verdict.action);
    // A challenge goes back to where the packet came from.
    is_sent(&verdict) && verdict.frame[..6] != PEER_MAC
}

#[test]
fn the_longest_prefix_of_all_lists_decides_v4() -> Result<()> {
    let lists = [
        ("0.0.0.0/0", LISTED_DENY),
        ("198.51.100.0/24", LISTED_ALLOW),
        ("198.51.100.64/26", LISTED_DENY),
        ("198.51.100.65/32", LISTED_EXEMPT),
    ];
    let plane = plane(Guard { packets: only(2), ..ALL }, &lists)?;
    for (source, expected) in [
        ("203.0.113.1", [false; 3]),
        ("198.51.100.7", [true, true, false]),
        ("198.51.100.64", [false; 3]),
        ("198.51.100.127", [false; 3]),
        ("198.51.100.128", [true, true, false]),
        ("198.51.100.65", [true; 3]),
    ] {
        let got = [0; 3].map(|_| passes(&plane, &from(source, 1, SYN)));
        assert_eq!(got, expected, "{source}");
        let datagram = Packet { protocol: UDP, flags: 0, ..from(source, 2, 0) };
        assert_eq!(passes(&plane, &datagram), source.ends_with(".65"), "{source}");
    }
    assert_eq!(plane.count(Reason::Denied), 3 * 4);
    assert_eq!(plane.count(Reason::PacketRate), 2 * 2);
    Ok(())
}

#[test]
fn the_longest_prefix_of_all_lists_decides_v6() -> Result<()> {
    let lists = [
        ("2001:db8::/32", LISTED_DENY),
        ("2001:db8:c::/48", LISTED_ALLOW),
        ("2001:db8:c::1:0:0/96", LISTED_DENY),
        ("2001:db8:c::1:0:7/128", LISTED_EXEMPT),
    ];
    let plane = plane_of(family(Family::V6), Guard { packets: only(1), ..ALL }, &lists)?;
    for (source, expected) in [
        ("2001:db8:ffff::1", [false, false]),
        ("2001:db8:c::7", [true, false]),
        ("2001:db8:c::1:0:6", [false, false]),
        ("2001:db8:c::1:0:7", [true, true]),
        ("2001:db9::1", [true, false]),
    ] {
        let got = [0; 2].map(|_| passes(&plane, &from(source, 1, SYN)));
        assert_eq!(got, expected, "{source}");
    }
    assert_eq!(plane.count(Reason::Denied), 4);
    Ok(())
}

/// An IPv4 prefix and an IPv6 prefix of the same first bytes have nothing to do with each other.
#[test]
fn lists_of_one_family_say_nothing_of_the_other() -> Result<()> {
    let plane = plane_of(family(Family::V6), ALL, &[("32.1.0.0/16", LISTED_DENY)])?;
    assert!(passes(&plane, &from("2001:db8:c::7", 1, SYN)));
    Ok(())
}

#[test]
fn lists_are_replaced_as_a_whole_and_nothing_of_the_former_is_left() -> Result<()> {
    let mut plane = plane(ALL, &[("198.51.100.0/24", LISTED_DENY)])?;
    let first = plane.guard();
    assert!(!passes(&plane, &from("198.51.100.7", 1, SYN)));
    plane.set_guard(guarding(ALL, &[("203.0.113.0/24", LISTED_DENY)]))?;
    assert!(passes(&plane, &from("198.51.100.7", 1, SYN)));
    assert!(!passes(&plane, &from("203.0.113.7", 1, SYN)));
    let second = plane.guard();
    assert_ne!(first, second, "a guard in force is not written to");
    plane.set_guard(guarding(ALL, &[("203.0.113.0/24", LISTED_DENY)]))?;
    assert_eq!(plane.guard(), second, "what is in force is not written again");
    // The first one's index is free, and its lists are gone.
    plane
        .set_guard(guarding(Guard { packets: only(5), ..ALL }, &[("192.0.2.0/24", LISTED_DENY)]))?;
    assert_eq!(plane.guard(), first);
    assert!(passes(&plane, &from("198.51.100.7", 1, SYN)));
    Ok(())
}

#[test]
fn a_source_has_its_syns_and_its_packets_and_no_more() -> Result<()> {
    for of in Family::BOTH {
        let guard = Guard { syns: only(3), packets: only(6), ..ALL };
        let plane = plane_of(family(of), guard, &[])?;
        let client = |port| SocketAddr::new(of.client(), port);
        let packet = |port, flags| Packet::tcp(client(port), vip_of(of), flags);
        let syns: Vec<bool> = (1..6).map(|port| passes(&plane, &packet(port, SYN))).collect();
        assert_eq!(syns, [true, true, true, false, false], "{of:?}");
        // A SYN that is refused has cost a packet.
        assert!(passes(&plane, &packet(1, ACK)));
        assert!(!passes(&plane, &packet(1, ACK)));
        assert!(!passes(&plane, &Packet::udp(client(1), vip_of(of))), "all protocols count");
        assert_eq!((plane.count(Reason::SynRate), plane.count(Reason::PacketRate)), (2, 2));
        let other = if of == Family::V4 { "198.51.100.8" } else { "2001:db8:c:1::7" };
        assert!(passes(&plane, &from(other, 1, SYN)), "another source has its own");
    }
    Ok(())
}

#[test]
fn a_source_is_a_prefix_of_the_configured_length() -> Result<()> {
    let mut mask_v4 = [0; 16];
    mask_v4[..3].fill(255);
    let v4 = plane(Guard { syns: only(1), mask_v4, ..ALL }, &[])?;
    assert!(passes(&v4, &from("198.51.100.7", 1, SYN)));
    assert!(!passes(&v4, &from("198.51.100.250", 1, SYN)));
    assert!(passes(&v4, &from("198.51.101.7", 1, SYN)));
    let v6 = plane_of(family(Family::V6), Guard { syns: only(1), ..ALL }, &[])?;
    assert!(passes(&v6, &from("2001:db8:c::7", 1, SYN)));
    assert!(!passes(&v6, &from("2001:db8:c::ffff:7", 1, SYN)), "the same /64");
    assert!(passes(&v6, &from("2001:db8:c:1::7", 1, SYN)));
    Ok(())
}

#[test]
fn buckets_outlive_a_change_of_the_guard() -> Result<()> {
    let mut plane = plane(Guard { syns: only(2), ..ALL }, &[])?;
    assert!(passes(&plane, &from("198.51.100.7", 1, SYN)));
    assert!(passes(&plane, &from("198.51.100.7", 2, SYN)));
    plane.set_guard(guarding(Guard { syns: only(2), ..ALL }, &[("10.0.0.0/8", LISTED_DENY)]))?;
    assert!(!passes(&plane, &from("198.51.100.7", 3, SYN)));
    plane.set_guard(guarding(Guard { syns: only(2), scope: 78, ..ALL }, &[]))?;
    assert!(passes(&plane, &from("198.51.100.7", 3, SYN)), "another scope, other buckets");
    Ok(())
}

/// Times by the coarse monotonic clock, as the program has them.
fn now_ns() -> u64 {
    steerage::sys::monotonic().as_nanos() as u64
}

#[test]
fn offenders_are_held_back_until_their_time_is_over() -> Result<()> {
    for of in Family::BOTH {
        let guard = Guard { flags: GUARD_OFFENDERS, ..ALL };
        let mut plane = plane_of(family(of), guard, &[])?;
        let packet = |flags| Packet::tcp(SocketAddr::new(of.client(), 5), vip_of(of), flags);
        let offender = |until_ns, packets| Offender { until_ns, packets, bucket: 0 };
        let minute = 60_000_000_000;
        plane.kernel.hold_back(of.client(), &offender(now_ns() + minute, Rate::default()))?;
        assert!(!passes(&plane, &packet(SYN)));
        assert!(!passes(&plane, &packet(ACK)));
        assert_eq!(plane.count(Reason::Offender), 2);
        plane.kernel.hold_back(of.client(), &offender(now_ns() + minute, only(1)))?;
        assert_eq!([0; 3].map(|_| passes(&plane, &packet(ACK))), [true, false, false]);
        // The coarse clock is a tick behind.
        plane.kernel.hold_back(of.client(), &offender(now_ns() - minute, Rate::default()))?;
        assert!(passes(&plane, &packet(ACK)));
        // A guard may say that it does not care.
        plane.kernel.hold_back(of.client(), &offender(now_ns() + minute, Rate::default()))?;
        plane.set_guard(guarding(Guard { syns: only(9), ..ALL }, &[]))?;
        assert!(passes(&plane, &packet(ACK)));
    }
    Ok(())
}

/// Three SYNs in a window are a flood.
const FLOODED: Guard = Guard { flood_begins: 3, ..ALL };

/// A plane of that guard whose vip is under flood.
fn flooded(choices: Choices, guard: Guard) -> Result<Plane> {
    let of = choices.vips;
    let plane = plane_of(choices, guard, &[])?;
    // A window may end in between.
    for port in 1..=6 {
        let flooder = if of == Family::V4 { "203.0.113.99" } else { "2001:db8:bad::1" };
        let _ = plane.from_client(&from(flooder, port, SYN));
    }
    let challenged = plane.count(Reason::Challenged);
    assert!(challenged >= 1, "{challenged}");
    Ok(plane)
}

/// The SYN of a real client: with options and no payload.
fn syn(of: Family, port: u16) -> Packet {
    Packet {
        tcp_options: vec![2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7],
        payload: Vec::new(),
        numbers: [0x7fff_0000, 0],
        ..Packet::tcp(SocketAddr::new(of.client(), port), vip_of(of), SYN)
    }
}

/// What RFC 9293, 3.10.7.3, has a client in SYN-SENT answer to an acknowledgement that it did not earn.
fn reset_for(challenge: &Packet) -> Packet {
    Packet {
        source: challenge.destination,
        destination: challenge.source,
        flags: RST,
        numbers: [challenge.numbers[1], 0],
        ttl: 64,
        ..challenge.clone()
    }
}

/// Whether the packet gets an answer, and no backend sees it.
fn is_challenged(plane: &Plane, packet: &Packet) -> bool {
    let challenged = plane.count(Reason::Challenged);
    let answer = plane.from_client(packet).sent();
    answer.destination == packet.source && plane.count(Reason::Challenged) == challenged + 1
}

#[test]
fn under_flood_a_source_proves_itself_and_then_passes() -> Result<()> {
    for of in Family::BOTH {
        for mode in [MODE_NAT, MODE_TUNNEL] {
            let plane = flooded(Choices { mode, ..family(of) }, FLOODED)?;
            let before = (plane.count(Reason::Challenged), plane.vip_traffic(TCP).in_packets);
            let asked = syn(of, 40_000);
            let verdict = plane.from_client(&asked);
            assert_eq!(verdict.action, Action::Redirect);
            assert_eq!(verdict.frame[..6], asked.frame()[6..12]);
            assert_eq!(verdict.frame[6..12], asked.frame()[..6]);
            let challenge = verdict.sent();
            assert_eq!(
                (challenge.source, challenge.destination),
                (asked.destination, asked.source)
            );
            assert_eq!((challenge.flags, challenge.payload.len()), (ACK, 0));
            assert!(challenge.tcp_options.is_empty());
            let bytes = if of == Family::V4 { 54 } else { 74 };
            assert_eq!(verdict.frame.len(), bytes, "no longer than any SYN");
            // No number that the client could take for its own.
            assert_ne!(challenge.numbers[1], asked.numbers[0].wrapping_add(1));

            let proof = plane.from_client(&reset_for(&challenge));
            assert_eq!(proof.action, Action::Drop, "it is nobody else's business");
            assert_eq!(plane.count(Reason::Proven), 1);
            assert_eq!(plane.vip_traffic(TCP).in_packets, before.1, "no backend saw anything");
            assert!(is_sent(&plane.from_client(&asked)), "sent again, it passes");
            assert!(is_sent(&plane.from_client(&syn(of, 40_001))), "and so does the next");
            assert_eq!(plane.vip_traffic(TCP).in_packets, before.1 + 2);
            assert_eq!(plane.count(Reason::Challenged), before.0 + 1);
        }
    }
    Ok(())
}

#[test]
fn a_reset_that_guesses_proves_nothing_and_passes_as_any_reset() -> Result<()> {
    let plane = flooded(Choices::default(), FLOODED)?;
    let challenge = plane.from_client(&syn(Family::V4, 40_000)).sent();
    let challenged = plane.count(Reason::Challenged);
    let proof = reset_for(&challenge);
    let guesses = [
        Packet { numbers: [challenge.numbers[1].wrapping_add(1), 0], ..proof.clone() },
        Packet { source: SocketAddr::new(Family::V4.client(), 40_001), ..proof.clone() },
        Packet { source: "198.51.100.8:40000".parse()?, ..proof.clone() },
        Packet { numbers: [challenge.numbers[0], 0], ..proof.clone() },
    ];
    for guess in guesses {
        assert!(is_sent(&plane.from_client(&guess)), "{guess:?}");
    }
    assert_eq!(plane.count(Reason::Proven), 0);
    assert_eq!(plane.count(Reason::Challenged), challenged);
    assert!(is_challenged(&plane, &syn(Family::V4, 40_000)));
    Ok(())
}

#[test]
fn what_is_open_goes_on_under_flood_and_nothing_is_remembered_of_the_flood() -> Result<()> {
    let mut plane = Plane::new(&[1, 1, 1])?;
    let before = plane.from_client(&segment(40_000, SYN)).sent();
    plane.set_guard(guarding(FLOODED, &[]))?;
    for low in 0..200_u8 {
        let _ = plane.from_client(&from(&format!("203.0.113.{low}"), 9, SYN));
    }
    assert!(plane.count(Reason::Challenged) >= 190);
    let after = plane.from_client(&segment(40_000, ACK)).sent();
    assert_eq!((before.source, before.destination), (after.source, after.destination));
    let heard = plane.from_backend(&answer(&after)).sent();
    assert_eq!(heard.destination, segment(40_000, ACK).source);
    assert_eq!(plane.kernel.sources()?, 0, "no flood fills the table");
    Ok(())
}

#[test]
fn a_proven_source_has_its_rate_still() -> Result<()> {
    let plane = flooded(Choices::default(), Guard { syns: only(3), ..FLOODED })?;
    let challenge = plane.from_client(&syn(Family::V4, 1)).sent();
    let _ = plane.from_client(&reset_for(&challenge));
    let passed: Vec<bool> = (1..6).map(|port| passes(&plane, &syn(Family::V4, port))).collect();
    assert_eq!(passed, [true, true, true, false, false]);
    Ok(())
}

#[test]
fn a_proof_ends() -> Result<()> {
    let plane = flooded(Choices::default(), Guard { proof_ns: 0, ..FLOODED })?;
    let challenge = plane.from_client(&syn(Family::V4, 1)).sent();
    let _ = plane.from_client(&reset_for(&challenge));
    assert_eq!(plane.count(Reason::Proven), 1);
    assert!(is_challenged(&plane, &syn(Family::V4, 1)), "asked again");
    Ok(())
}

#[test]
fn one_vip_s_flood_is_not_another_s_and_datagrams_are_none() -> Result<()> {
    let plane = plane(FLOODED, &[])?;
    for port in 0..20 {
        let datagram = Packet { protocol: UDP, flags: 0, ..from("198.51.100.7", port, 0) };
        assert!(passes(&plane, &datagram));
        assert!(passes(&plane, &segment(port, ACK)));
    }
    assert_eq!(plane.count(Reason::Challenged), 0);
    Ok(())
}

#[test]
fn a_local_address_passes_what_its_guard_lets_through_as_it_came() -> Result<()> {
    for of in Family::BOTH {
        let choices = Choices { mode: MODE_LOCAL, ..family(of) };
        let guard = Guard { syns: only(2), ..ALL };
        let plane = plane_of(choices, guard, &[("10.0.0.0/8", LISTED_DENY)])?;
        let packet = |port, ttl| Packet { ttl, ..syn(of, port) };
        for ttl in [64, 1] {
            let verdict = plane.from_client(&packet(1, ttl));
            assert_eq!(verdict.action, Action::Pass);
            assert_eq!(verdict.frame, packet(1, ttl).frame(), "untouched");
        }
        assert_eq!(plane.from_client(&packet(1, 64)).action, Action::Drop);
        assert_eq!(plane.vip_traffic(TCP).in_packets, 0);
    }
    Ok(())
}

#[test]
fn a_guard_looks_at_whole_packets_only_and_at_all_of_them() -> Result<()> {
    let plane = flooded(Choices::default(), FLOODED)?;
    let frame = syn(Family::V4, 7).frame();
    for length in 38..frame.len() {
        let verdict = plane.receive(plane.host.client_ifindex, &frame[..length])?;
        assert_eq!(verdict.action, Action::Drop, "cut to {length} bytes");
    }
    // Options of IP and a payload are no way around it, and are not sent back.
    let odd = Packet { ip_options: vec![1; 40], payload: vec![7; 900], ..syn(Family::V4, 7) };
    let verdict = plane.from_client(&odd);
    assert_eq!((verdict.action, verdict.frame.len()), (Action::Redirect, 54));
    let challenge = verdict.sent();
    assert_eq!(plane.from_client(&reset_for(&challenge)).action, Action::Drop);
    assert_eq!(plane.count(Reason::Proven), 1);
    Ok(())
}

#[test]
fn without_a_guard_nothing_is_asked() -> Result<()> {
    let mut plane = Plane::new(&[1])?;
    plane
        .kernel
        .hold_back(Family::V4.client(), &Offender { until_ns: u64::MAX, ..Offender::default() })?;
    for port in 1..300 {
        assert!(passes(&plane, &segment(port, SYN)));
    }
    assert_eq!(plane.kernel.reasons()?, [0; Reason::ALL.len()]);
    Ok(())
}
