//! Weights are promises, not hints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use steerage_tests::stand::{Choices, Stand, l7};

#[test]
fn weights_5_to_1_split_6000_requests_exactly_over_two_workers() {
    const CONNECTIONS: usize = 6;
    let stand = Stand::start(&Choices { weights: vec![5, 1], ..Choices::default() }).unwrap();
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut client = stand.connect(l7()).unwrap();
                scope.spawn(move || {
                    let mut counts = BTreeMap::new();
                    for _ in 0..6000 / CONNECTIONS {
                        let response = client.get("/").unwrap();
                        assert_eq!(response.status, 200);
                        *counts.entry(response.text()).or_insert(0) += 1;
                    }
                    counts
                })
            })
            .collect();
        let mut all: BTreeMap<String, u32> = BTreeMap::new();
        for client in clients {
            for (name, count) in client.join().unwrap() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    });
    let expected = [("backend-1\n".to_owned(), 5000), ("backend-2\n".to_owned(), 1000)];
    assert_eq!(counts, BTreeMap::from(expected));
}
