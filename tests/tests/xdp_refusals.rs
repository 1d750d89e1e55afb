//! How often, and how much: the errors that begin here. Needs root.

use anyhow::Result;
use steerage_common::abi::{MODE_L2, MODE_NAT, MODE_TUNNEL, Reason, VIP_GUE};
use steerage_tests::xdp::packet::{ACK, Packet};
use steerage_tests::xdp::{Action, BACKEND_LINK, Choices, Family, Plane, VIP_PORT, segment};

/// The size that the error in this frame names.
fn size_named(frame: &[u8], family: Family) -> u32 {
    let at = if family == Family::V4 { 34 } else { 54 };
    u32::from_be_bytes([frame[at + 4], frame[at + 5], frame[at + 6], frame[at + 7]])
}

#[test]
fn the_size_that_fits_is_that_of_the_links_to_backends_less_the_outer_headers() -> Result<()> {
    for (vips, backends, mode, flags, overhead) in [
        (Family::V4, Family::V4, MODE_NAT, 0, 0),
        (Family::V6, Family::V6, MODE_NAT, 0, 0),
        (Family::V4, Family::V4, MODE_L2, 0, 0),
        (Family::V4, Family::V4, MODE_TUNNEL, 0, 20),
        (Family::V6, Family::V4, MODE_TUNNEL, VIP_GUE, 28),
        (Family::V4, Family::V6, MODE_TUNNEL, 0, 40),
        (Family::V6, Family::V6, MODE_TUNNEL, VIP_GUE, 48),
    ] {
        let weights = vec![1];
        let choices = Choices { weights, vips, backends, mode, flags, ..Choices::default() };
        let plane = Plane::with(choices)?;
        plane.host.ip(&["link", "set", BACKEND_LINK, "mtu", "1360"])?;
        let (from, to) = ((vips.client(), 40_000).into(), (vips.vip(), VIP_PORT).into());
        let headers = if vips == Family::V4 { 40 } else { 60 };
        let sized = |bytes: usize| {
            let payload = vec![7; bytes - headers];
            plane.from_client(&Packet { payload, ..Packet::tcp(from, to, ACK) })
        };
        // The second time the way is known.
        for _ in 0..2 {
            let refused = sized(1_500);
            assert_eq!(refused.action, Action::Transmit);
            let fits = size_named(&refused.frame, vips) as usize;
            assert_eq!(fits, 1_360 - overhead);
            assert_eq!(sized(fits).action, Action::Redirect, "what is said to fit does");
            assert_eq!(sized(fits + 1).action, Action::Transmit);
        }
        assert_eq!((plane.count(Reason::TooBig), plane.count(Reason::ErrorSent)), (4, 4));
    }
    Ok(())
}

#[test]
fn a_flood_of_packets_that_are_too_old_is_not_answered_with_one_of_errors() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let packet = Packet { ttl: 1, ..segment(1, ACK) };
    let answered =
        (0..5_000).filter(|_| plane.from_client(&packet).action == Action::Transmit).count();
    assert_eq!(plane.count(Reason::TtlExpired), 5_000);
    assert_eq!(plane.count(Reason::ErrorSent), answered as u64);
    assert!((64..4_000).contains(&answered), "{answered}");
    Ok(())
}
