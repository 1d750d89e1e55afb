//! Every kind of packet in every mode: what comes out, byte by byte, and what is counted. Needs root.
//!
//! A [`Case`](case::Case) is a plane of one backend, so that each output is known beforehand; the
//! vectors of a case run in their order, as later ones need the flows of the first. Whatever is a vector is
//! tried cut at every length as well: what is not whole is never sent on and never changed.

mod case;
mod errors;
mod foreign;
mod forward;
mod fragments;
mod malformed;
mod replies;

use anyhow::Result;
use case::Case;
use steerage_tests::xdp::vector::Vector;

fn vectors(case: &Case) -> Vec<Vector> {
    let mut vectors = forward::vectors(case);
    vectors.extend(errors::vectors(case));
    vectors.extend(fragments::vectors(case));
    vectors.extend(replies::vectors(case));
    vectors.extend(malformed::vectors(case));
    vectors.extend(foreign::vectors(case));
    vectors
}

#[test]
fn every_vector_comes_out_as_it_must() -> Result<()> {
    let mut ran = 0;
    for case in Case::all()? {
        let vectors = vectors(&case);
        println!("{}: {} vectors", case.name(), vectors.len());
        for vector in &vectors {
            vector.check(&case.plane);
        }
        ran += vectors.len();
    }
    println!("{ran} vectors");
    assert!(ran >= 150, "{ran}");
    Ok(())
}

#[test]
fn no_vector_cut_at_any_length_is_sent_on_or_changed() -> Result<()> {
    let mut ran = 0;
    for case in Case::all()? {
        for vector in vectors(&case) {
            // Whole first, so that what a later fragment follows is there.
            vector.check(&case.plane);
            ran += vector.check_cut(&case.plane);
        }
    }
    println!("{ran} vectors cut");
    Ok(())
}
