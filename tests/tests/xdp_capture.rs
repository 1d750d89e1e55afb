//! Captured packets: what came, what left, and what became of it. Needs root.

use std::process::Command;

use anyhow::{Context as _, Result};
use steerage::kernel::capture::pcapng::Writer;
use steerage_common::abi::{MODE_TUNNEL, Reason};
use steerage_common::capture::{CAPTURE_BYTES, Captured, Filter, REASON_NONE};
use steerage_tests::xdp::packet::{ACK, Packet, SYN, TCP};
use steerage_tests::xdp::{Choices, Family, Plane, answer, client_socket, segment, vip_socket};

const REDIRECT: u32 = 4;
const DROP: u32 = 1;

fn begins_with(record: &[u8; CAPTURE_BYTES], bytes: u32, frame: &[u8]) -> bool {
    let kept = frame.len().min(CAPTURE_BYTES);
    bytes as usize == frame.len() && record[..kept] == frame[..kept]
}

#[test]
fn packets_are_copied_as_they_came_and_as_they_left() -> Result<()> {
    for payload in [0, 1, 7, 100, 1400] {
        let plane = Plane::new(&[1])?;
        let mut capture = plane.capture(1, &Filter::default())?;
        let packet = Packet { payload: vec![7; payload], ..segment(1, SYN) };
        let verdict = plane.from_client(&packet);
        let reply = answer(&verdict.sent());
        let replied = plane.from_backend(&reply);
        for (came, left) in [(&packet, &verdict), (&reply, &replied)] {
            let copy = capture.next().context("a captured packet")?;
            assert!(begins_with(&copy.before, copy.before_bytes, &came.frame()), "{payload}");
            assert!(begins_with(&copy.after, copy.after_bytes, &left.frame), "{payload}");
            assert_eq!((copy.action, copy.reason), (REDIRECT, REASON_NONE));
        }
        assert!(capture.next().is_none());
    }
    Ok(())
}

#[test]
fn a_dropped_packet_has_its_reason_and_a_tunnel_its_outer_headers() -> Result<()> {
    let choices = Choices { weights: vec![1], mode: MODE_TUNNEL, ..Choices::default() };
    let plane = Plane::with(choices)?;
    let mut capture = plane.capture(1, &Filter::default())?;
    let sent = plane.from_client(&segment(1, SYN));
    let copy = capture.next().context("a captured packet")?;
    assert!(begins_with(&copy.after, copy.after_bytes, &sent.frame));
    assert_eq!(copy.after_bytes, copy.before_bytes + 20);
    plane.kill(0);
    let _ = plane.from_client(&segment(2, SYN));
    let copy = capture.next().context("a captured packet")?;
    assert_eq!((copy.action, copy.reason), (DROP, Reason::NoBackend as u32));
    assert_eq!(copy.after_bytes, 0);
    Ok(())
}

#[test]
fn only_what_is_asked_for_is_copied_and_only_while_it_is() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let elsewhere = Packet::tcp(client_socket(1), "192.0.2.99:80".parse()?, SYN);
    let datagram = Packet::udp(client_socket(1), vip_socket());
    let packets = [segment(1, SYN), elsewhere, datagram];
    let send = |plane: &Plane| packets.iter().for_each(|packet| drop(plane.from_client(packet)));
    send(&plane);
    let filter = Filter {
        address: plane.vip_key(TCP).address,
        port_be: vip_socket().port().to_be(),
        protocol: TCP,
        family: 4,
    };
    let mut capture = plane.capture(1, &filter)?;
    assert!(plane.capture(1, &filter).is_err(), "one at a time");
    send(&plane);
    let got: Vec<Captured> = capture.by_ref().collect();
    assert_eq!(got.len(), 1);
    assert!(begins_with(&got[0].before, got[0].before_bytes, &packets[0].frame()));
    drop(capture);
    send(&plane);
    let mut all = plane.capture(1, &Filter::default())?;
    assert!(all.next().is_none(), "nobody captured");
    send(&plane);
    assert_eq!(all.by_ref().count(), 2, "what passes untouched is nobody's");
    drop(all);
    let mut some = plane.capture(4, &Filter::default())?;
    let mut count = 0;
    for _ in 0..400 {
        send(&plane);
        count += some.by_ref().count();
    }
    assert!((120..300).contains(&count), "a quarter of 800: {count}");
    Ok(())
}

#[test]
fn what_the_buffer_has_no_room_for_is_counted() -> Result<()> {
    let plane = Plane::new(&[1])?;
    let mut capture = plane.capture(1, &Filter::default())?;
    for _ in 0..1000 {
        let _ = plane.from_client(&segment(1, ACK));
    }
    let lost = capture.lost();
    assert_eq!(capture.by_ref().count() as u64 + lost, 1000);
    assert!(lost > 0);
    Ok(())
}

#[test]
fn tcpdump_and_tshark_read_the_file() -> Result<()> {
    let (vips, backends) = (Family::V6, Family::V6);
    let v6 = Plane::with(Choices { vips, backends, ..Choices::default() })?;
    let v6_client = std::net::SocketAddr::new(Family::V6.client(), 5);
    let v6_vip = std::net::SocketAddr::new(Family::V6.vip(), vip_socket().port());
    let v4 = Plane::new(&[1])?;
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file)?;
    for (plane, packet) in [(&v4, segment(5, SYN)), (&v6, Packet::tcp(v6_client, v6_vip, SYN))] {
        let mut capture = plane.capture(1, &Filter::default())?;
        let _ = plane.from_client(&packet).sent();
        plane.kill(0);
        let _ = plane.from_client(&packet);
        for copy in capture.by_ref() {
            writer.write(&copy, "clients", 1_000_000_000_000)?;
        }
    }
    let path = std::env::temp_dir().join(format!("steerage-capture-{}.pcapng", std::process::id()));
    std::fs::write(&path, &file)?;
    let read = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).arg(&path).output();
        let output = output.with_context(|| format!("{program}: `cargo xtask setup --all`"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    };
    let dump = read("tcpdump", &["-n", "-r"])?;
    assert_eq!(dump.lines().count(), 6, "{dump}");
    assert!(dump.contains("198.51.100.7.5 > 192.0.2.10.80: Flags [S]"), "{dump}");
    assert!(dump.contains("> 10.2.16.0.8080: Flags [S]"), "{dump}");
    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-r"];
    let shark = read("tshark", &fields)?;
    let expected = "clients\tsent on\nclients@after\tsent on\nclients\tdropped: no_backend\n";
    assert_eq!(shark, expected.repeat(2));
    std::fs::remove_file(path)?;
    Ok(())
}
