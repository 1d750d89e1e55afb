//! Backends that misbehave: what the client sees, what becomes of the connection, what health hears.
//!
//! The table ([`cases`]) says what is right, with its reason; each of its rows is a service with one
//! scripted backend, and one exchange. What is about several exchanges has a test of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cases;
mod kept;
mod seen;
mod stand;

use self::cases::{Case, cases};
use self::seen::exchange;
use self::stand::Stand;

#[test]
fn each_misbehaviour_has_its_outcome_for_client_pool_and_health() {
    let cases = cases();
    let stand = Stand::start(cases.iter().map(Case::script).collect());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let seen = exchange(&stand, number, case.ask);
        if seen != case.sees {
            wrong.push(format!("{}: the client saw {seen:?}, not {:?}", case.name, case.sees));
        }
        let expected = case.figures();
        if let Err(figures) = stand.settles(number, &expected) {
            wrong.push(format!("{}: {figures:?}, not {expected:?}", case.name));
        }
        let executed = stand.backends[number].executed();
        if executed.values().any(|times| *times != 1) {
            wrong.push(format!("{}: executed {executed:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
