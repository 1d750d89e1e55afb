use steerage_common::health::State;

use super::*;

fn slot(index: u16) -> Slot {
    Slot::new(index).unwrap()
}

#[test]
fn a_second_mapping_sees_what_the_first_one_publishes() {
    let fds = Fds::in_memory(2).unwrap();
    let (ours, theirs) = (Region::map(&fds, 2).unwrap(), Region::map(&fds, 2).unwrap());
    let tenant = Tenant::new(slot(70), 0);
    ours.apply(tenant, Event::Assigned, &Policy::DEFAULT).unwrap();
    assert!(!theirs.accepts_new(tenant.slot()));
    ours.apply(tenant, Event::ProbeOk, &Policy::DEFAULT).unwrap();
    assert!(theirs.accepts_new(tenant.slot()));
    assert_eq!(theirs.health_word(1), 1 << 6);
    assert_eq!(theirs.word(tenant.slot()).state(), State::Up);
}

#[test]
fn a_generation_is_in_force_all_at_once() {
    let region = Region::in_memory(1).unwrap();
    let entry = |port: u16| abi::Backend {
        port_be: port.to_be(),
        family: abi::FAMILY_IPV4,
        ..abi::Backend::default()
    };
    region.write_backends(&[(slot(3), entry(80)), (slot(4), entry(81))]);
    assert_eq!(region.backend(slot(3)), None, "written but not published");
    assert_eq!(region.publish_generation(), 1);
    assert_eq!(region.backend(slot(3)), Some(entry(80)));
    region.write_backends(&[(slot(4), entry(82))]);
    assert_eq!(region.backend(slot(3)), Some(entry(80)));
    region.publish_generation();
    assert_eq!(region.backend(slot(3)), None);
    assert_eq!(region.backend(slot(4)), Some(entry(82)));
}

#[test]
fn a_bit_that_a_dying_process_left_behind_is_mended() {
    let region = Region::in_memory(1).unwrap();
    let tenant = Tenant::new(slot(1), 0);
    let policy = Policy { probed: false, ..Policy::DEFAULT };
    region.apply(tenant, Event::Assigned, &policy).unwrap();
    region.health.get(0).accepts_new.store(0, Ordering::Release);
    region.publish(tenant.slot());
    assert!(region.accepts_new(tenant.slot()));
}

#[test]
fn the_former_tenant_of_a_slot_has_no_say() {
    let region = Region::in_memory(1).unwrap();
    let former = Tenant::new(slot(9), 0);
    let policy = Policy { probed: false, consecutive: 1, ..Policy::DEFAULT };
    region.apply(former, Event::Assigned, &policy).unwrap();
    region.apply(former, Event::Removed, &policy).unwrap();
    let tenant = Tenant::new(slot(9), 1);
    region.apply(tenant, Event::Assigned, &policy).unwrap();
    assert_eq!(region.apply(former, Event::RequestFailed { jitter: 0 }, &policy), None);
    assert!(region.accepts_new(slot(9)));
}
