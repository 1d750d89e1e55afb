//! Requests that must be executed once: by whom they are, and how often.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use steerage_common::replay::{Refusal, Rule};

use super::harness::*;
use super::value;

/// What backends have executed, by the requests' bodies.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<HashMap<String, u32>>>);

impl Ledger {
    /// Executes three requests of a connection at most.
    pub(super) fn serve(&self, stream: &mut (impl Read + Write)) {
        for _ in 0..3 {
            let head = read_head(stream);
            if head.is_empty() {
                return;
            }
            let body = String::from_utf8(read_body(stream, &head)).unwrap();
            *self.0.lock().unwrap().entry(body).or_default() += 1;
            let _ = stream.write_all(ok("done").as_bytes());
        }
    }

    /// Sends six hundred requests: none is executed twice, and those that may not have been are told so.
    pub(super) fn race(&self, worker: &Worker) {
        let mut client = worker.client();
        let mut unproven = 0;
        for number in 0..600 {
            let id = format!("{number:08}");
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n{id}"));
            let response = client.response();
            if response.status == 502 {
                assert_eq!(header(&response.head, "x-steerage-error"), Some("stale_unproven"));
                unproven += 1;
            } else {
                assert_eq!(response.status, 200);
                assert_eq!(self.0.lock().unwrap().get(&id), Some(&1), "{id}");
            }
        }
        assert!(self.0.lock().unwrap().values().all(|times| *times == 1));
        let cell = worker.cell(0);
        assert_eq!(unproven, value(&cell.refusals[Refusal::Unproven as usize]));
        let failed: u64 = cell.failures.iter().map(value).sum();
        assert_eq!(failed, 0, "a stale connection is nobody's failure");
        let proven =
            [Rule::Unwritten, Rule::StaleProven].map(|rule| value(&cell.replays[rule as usize]));
        println!("replayed {proven:?}, unproven {unproven}");
    }
}
