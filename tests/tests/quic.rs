//! QUIC connections stay with their server whatever address their client has. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use steerage_lab::topology::{self, CLIENT, CLIENT_LINK, VIP};
use steerage_tests::stand::{Choices, Stand, name};

/// Addresses that a client may have beside its first one.
const ROAMING: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 80, 0, 7), Ipv4Addr::new(10, 80, 0, 8)];

/// A QUIC vip whose service has these backends.
fn vip(backends: &[u8]) -> String {
    let mut text = format!(
        "[[vip]]\nname = \"h3\"\naddress = \"{VIP}:443\"\nprotocol = \"quic\"\n\
         quic = {{ server_id_bytes = [0, 4] }}\nmode = \"nat\"\ninterface = \"{CLIENT_LINK}\"\n\
         service = \"h3\"\n[[service]]\nname = \"h3\"\n"
    );
    for number in backends {
        let address = topology::backend_socket(*number);
        let id = server_id(*number).map(|byte| format!("{byte:02x}")).concat();
        let _ =
            writeln!(text, "[[service.backend]]\naddress = \"{address}\"\nserver_id = \"{id}\"");
    }
    text
}

const fn server_id(number: u8) -> [u8; 4] {
    [0xc0, 0xff, 0xee, number]
}

/// A packet of a connection that backend `number` gave its id; each with another nonce.
fn packet(number: u8, nonce: u8) -> Vec<u8> {
    [&[0x40, 1 << 5 | 9][..], &server_id(number), &[nonce; 5], &[0xe5; 24]].concat()
}

/// Who answers a packet from a fresh port of `address`.
fn ask(stand: &Stand, address: Ipv4Addr, packet: &[u8]) -> String {
    let make = || {
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect(SocketAddr::from((VIP, 443)))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok::<_, std::io::Error>(socket)
    };
    let socket = stand.topology.client.enter(make).unwrap().unwrap();
    // The first packet to a neighbour the kernel does not know yet is lost, as ever.
    let answer = (0..5).find_map(|_| {
        socket.send(packet).unwrap();
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    });
    let answer = answer.expect("no answer to any of five packets");
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split_once(' ').unwrap().0.to_owned()
}

#[test]
fn a_connection_survives_its_client_s_new_address_and_its_server_s_removal() {
    let choices = Choices { weights: vec![1; 3], more: vip(&[1, 2, 3]), ..Choices::default() };
    let stand = Stand::start_with(&choices, |topology| {
        for address in ROAMING {
            topology.client.ip(&format!("address add {address}/24 dev eth0"))?;
        }
        Ok(())
    })
    .unwrap();
    let _echoes = stand.echoes(topology::backend_socket).unwrap();
    let addresses = [CLIENT, ROAMING[0], ROAMING[1]];
    for number in 1..=3 {
        for (nonce, address) in (0..).zip(addresses.iter().cycle().take(9)) {
            assert_eq!(ask(&stand, *address, &packet(number, nonce)), name(number));
        }
    }
    // First packets carry what the client chose, and are spread.
    let first = |choice: u8| [&[0xc3, 0, 0, 0, 1, 8][..], &[choice; 8], &[0; 30]].concat();
    let firsts: BTreeSet<String> = (0..40).map(|_| ask(&stand, CLIENT, &first(0xf7))).collect();
    assert_eq!(firsts.len(), 3, "{firsts:?}");

    // A server that goes keeps its connections, wherever their clients go; it gets no new ones.
    let choices = Choices { more: vip(&[1, 3]), ..choices };
    let answer = stand.reconfigure(&choices.config(&stand.scratch)).unwrap();
    assert!(answer["changes"].to_string().contains("10.81.2.2"), "{answer}");
    for address in addresses {
        assert_eq!(ask(&stand, address, &packet(2, 99)), name(2));
    }
    let firsts: BTreeSet<String> = (0..40).map(|_| ask(&stand, CLIENT, &first(0xf7))).collect();
    assert!(!firsts.contains(&name(2)), "{firsts:?}");
}
