//! Tiers: the next one serves while nobody of the former takes work. Needs root.

use anyhow::Result;
use steerage_common::abi::Reason;
use steerage_common::health::Event;
use steerage_tests::xdp::packet::{ACK, SYN};
use steerage_tests::xdp::{Action, Choices, Plane, home_of, segment, slot_of};

/// Two backends in the first tier, two in the second (of weights 1 and 3), one in the last.
fn plane() -> Result<Plane> {
    let (weights, tiers) = (vec![1, 1, 1, 3, 1], vec![0, 0, 1, 1, 7]);
    Plane::with(Choices { weights, tiers, ..Choices::default() })
}

fn slots_of_new_flows(plane: &Plane, ports: std::ops::Range<u16>) -> [usize; 5] {
    let mut counts = [0; 5];
    ports.for_each(|port| counts[usize::from(home_of(plane, port))] += 1);
    counts
}

#[test]
fn the_next_tier_serves_by_weight_while_the_former_has_nobody_and_keeps_its_flows() -> Result<()> {
    let plane = plane()?;
    assert_eq!(slots_of_new_flows(&plane, 1..500)[2..], [0; 3]);
    assert_eq!(plane.remembered()?, 0, "flows of the first tier are at home");
    plane.kill(0);
    assert_eq!(slots_of_new_flows(&plane, 1..500)[1], 499, "one of the tier is enough");
    plane.tell(1, Event::Drain);
    let stays = (1..500).find(|port| slot_of(&plane.from_client(&segment(*port, ACK)).sent()) == 1);
    assert!(stays.is_some(), "who drains keeps what it has");
    let second = slots_of_new_flows(&plane, 1000..2000);
    assert_eq!(second[..2], [0; 2]);
    assert!((650..850).contains(&second[3]), "three quarters: {second:?}");
    assert_eq!(second[2] + second[3], 1000);
    let homes: Vec<u16> = (1000..2000).map(|port| home_of(&plane, port)).collect();
    plane.tell(1, Event::Enable);
    plane.revive(0);
    for (port, home) in (1000..2000).zip(homes) {
        assert_eq!(slot_of(&plane.from_client(&segment(port, ACK)).sent()), home, "port {port}");
    }
    assert_eq!(slots_of_new_flows(&plane, 2000..2500)[2..], [0; 3], "and back");
    Ok(())
}

#[test]
fn tiers_follow_each_other_to_the_last() -> Result<()> {
    let plane = plane()?;
    (0..4).for_each(|slot| plane.kill(slot));
    assert_eq!(slots_of_new_flows(&plane, 1..100)[4], 99);
    plane.kill(4);
    assert_eq!(plane.from_client(&segment(100, SYN)).action, Action::Drop);
    assert_eq!(plane.count(Reason::NoBackend), 1);
    plane.revive(3);
    assert_eq!(slots_of_new_flows(&plane, 100..200)[3], 100);
    Ok(())
}

/// The rings of a tier that is no more are in the kernel still.
#[test]
fn a_tier_that_is_no_more_serves_nobody() -> Result<()> {
    let mut plane = plane()?;
    for slot in 2..5 {
        plane.set_weight(slot, 0);
    }
    for _ in 0..3 {
        plane.publish()?;
        plane.kill(0);
        plane.kill(1);
        assert_eq!(plane.from_client(&segment(1, SYN)).action, Action::Drop);
        plane.revive(0);
        assert_eq!(slots_of_new_flows(&plane, 1..100)[0], 99);
    }
    Ok(())
}

/// The first tier with members is the first, whatever its number; flows of one that was taken out of
/// service stay where they are.
#[test]
fn a_first_tier_without_weight_hands_its_homes_to_the_next() -> Result<()> {
    let mut plane = plane()?;
    let homes: Vec<(u16, u16)> = (1..200).map(|port| (port, home_of(&plane, port))).collect();
    plane.set_weight(0, 0);
    plane.set_weight(1, 0);
    plane.publish()?;
    for (port, home) in homes {
        assert_eq!(slot_of(&plane.from_client(&segment(port, ACK)).sent()), home);
    }
    let new = slots_of_new_flows(&plane, 1000..1400);
    assert!(new[2] > 60 && new[3] > 240 && new[4] == 0, "{new:?}");
    assert_eq!(plane.count(Reason::Moved), 0);
    Ok(())
}

#[test]
fn in_a_panic_of_one_tier_the_others_stay_as_they_are() -> Result<()> {
    let plane = plane()?;
    for slot in [0, 1, 2] {
        plane.kill(slot);
    }
    plane.set_panicking(Some(1));
    let counts = slots_of_new_flows(&plane, 1..400);
    assert_eq!((counts[0], counts[1], counts[4]), (0, 0, 0));
    assert!(counts[2] > 50 && counts[3] > 200, "{counts:?}");
    Ok(())
}
