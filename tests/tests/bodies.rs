//! Bodies of any size stream through in constant memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use steerage_lab::pattern::Pattern;
use steerage_lab::process::resident_bytes;
use steerage_tests::stand::{Choices, Stand, l7};

const GIB: u64 = 1 << 30;

/// A worker may grow by this much while a body of 1 GiB passes.
const GROWTH_MAX: u64 = 16 << 20;

#[test]
fn a_gibibyte_passes_up_and_down_unchanged_in_constant_memory() {
    let choices = Choices { workers: 1, weights: vec![1], ..Choices::default() };
    let stand = Stand::start(&choices).unwrap();
    let worker = stand.daemon.workers().unwrap()[0];
    let digest = Pattern::digest(GIB);
    let mut client = stand.connect(l7()).unwrap();
    client.get("/").unwrap();
    let before = resident_bytes(worker).unwrap();

    let up = client.post("/hash", Pattern::new(GIB)).unwrap();
    assert_eq!(up.text(), format!("{digest} {GIB}\n"), "chunked upload");
    let after_upload = resident_bytes(worker).unwrap();
    let down = client.get(&format!("/bytes/{GIB}")).unwrap();
    assert_eq!((down.length, &*down.digest), (GIB, &*digest), "download");
    let after = resident_bytes(worker).unwrap();

    println!("worker RSS: {before} before, {after_upload} after the upload, {after} at the end");
    assert!(after_upload.saturating_sub(before) < GROWTH_MAX, "{before} to {after_upload}");
    assert!(after.saturating_sub(before) < GROWTH_MAX, "{before} to {after}");
    assert_eq!(stand.daemon.workers().unwrap(), [worker], "the same worker all along");
}
