//! The laboratory itself, as root: hosts reach each other, and nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use steerage_lab::backend::Backend;
use steerage_lab::client::curl;
use steerage_lab::topology::{self, BALANCER, Topology};

#[test]
fn a_client_reaches_a_backend_through_the_balancer_and_nothing_is_left() {
    let topology = Topology::build("steerage-lab", 1).unwrap();
    let address = topology::backend_socket(1);
    let backend = Backend::start("one", Some(&topology.backends[0]), address).unwrap();
    let reply = curl(&topology.client, &[&format!("http://{address}/")]).unwrap();
    assert_eq!((reply.exit, reply.status, &*reply.text), (0, 200, "one\n"), "{reply:?}");
    let refused = curl(&topology.client, &[&format!("http://{BALANCER}:9/")]).unwrap();
    assert_eq!((refused.exit, refused.status), (7, 0), "{refused:?}");
    drop(backend);
    let handle = topology.client.path();
    assert!(handle.exists());
    drop(topology);
    assert!(!Path::new(&handle).exists());
}
