//! Whether a request whose attempt gave no response may be sent again.
//!
//! One pure function, [`decide`], of what is known. Its point is the race that every proxy with kept
//! connections has: the backend closes an idle connection in the moment in which the next request is
//! sent on it. Sending it again may execute it twice; not sending it again is an error that nobody
//! caused. Here it is decided by proof: the kernel's count of bytes that the peer's TCP has
//! acknowledged, before the request and when the FIN came. If it has not moved, the peer closed before
//! it received a byte, and any request may be sent again, POST too. Only a FIN is such a proof: a reset
//! throws away what had been received and looks the same either way.
//!
//! The rules, by precedence: nothing is replayed for a client that has gone or to which a byte of a
//! response has passed. What certainly reached nobody is always replayed: the connection could not be
//! made ([`Rule::Connect`]), nothing was written ([`Rule::Unwritten`]), the peer said so
//! ([`Rule::StreamRefused`], [`Rule::GoneAway`]: RFC 9113, 8.7), or the kernel proves it ([`Rule::StaleProven`]). What may
//! have been received is replayed only if executing it twice does no harm (RFC 9110, 9.2.2) and the
//! budget allows the extra work. In any case the whole body must still be at hand.

/// What is known about an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How far the attempt came.
    pub stage: Stage,
    /// Whether the connection had carried a request before.
    pub is_reused: bool,
    /// Whether the method is idempotent, or the route vouches for the request by its
    /// `Idempotency-Key`.
    pub is_idempotent: bool,
    /// Whether the whole request body can be sent again.
    pub holds_body: bool,
    /// Whether the client still waits.
    pub is_client_there: bool,
    /// Whether the deadline has passed.
    pub is_late: bool,
    /// Attempts made so far, this one included.
    pub attempts: u32,
    /// Replays so far that a kernel's proof allowed.
    pub stale_replays: u32,
    /// Whether the budget allows a request that may be executed twice.
    pub is_in_budget: bool,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There was no connection.
    Unconnected,
    /// The connection was lost before a byte of the request went out.
    Unwritten,
    /// The peer said that it did not and will not process the request.
    Refused,
    /// The same, because it ends the connection (GOAWAY): no sign that it has too much to do.
    GoneAway,
    /// Bytes of the request went out, no byte of a response came, and the connection ended.
    Lost(End),
    /// Bytes of a response came.
    Answered,
}

/// How a connection ended under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer's FIN. `acked` is how many bytes its TCP acknowledged since before the request;
    /// `None` if the kernel did not tell.
    Fin {
        /// Bytes acknowledged.
        acked: Option<u64>,
    },
    /// A reset, or an error.
    Reset,
}

/// What the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `stale_replay`.
    pub stale: Stale,
    /// Attempts that a request may have in all.
    pub attempts_max: u32,
    /// Whether an idempotent request is tried again when a fresh connection is lost.
    pub fresh_lost: bool,
}

/// What happens to a request whose kept connection turned out to be closed: `stale_replay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// Replayed on proof whatever its method, without proof if it is idempotent.
    #[default]
    Proven,
    /// Replayed if it is idempotent.
    Idempotent,
    /// Not replayed.
    Off,
}

/// A rule that allows a replay: index into [`crate::abi::Cell::replays`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Rule {
    /// R1: no connection could be made.
    Connect = 0,
    /// R2: nothing had been written.
    Unwritten = 1,
    /// R3: the peer refused the stream.
    StreamRefused = 2,
    /// R4: a kept connection ended by FIN, and its peer had received nothing.
    StaleProven = 3,
    /// R5: a kept connection was lost, and the request is idempotent.
    Idempotent = 4,
    /// R6: a fresh connection was lost, and the request is idempotent.
    FreshLost = 5,
    /// R3: the peer ended the connection before the stream.
    GoneAway = 6,
}

/// Why a request is not sent again: index into [`crate::abi::Cell::refusals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    /// R7: bytes of a response came.
    Answered = 0,
    /// R8: nobody waits for the response.
    ClientGone = 1,
    /// R10: the deadline has passed.
    Deadline = 2,
    /// R10: it had its number of attempts.
    Attempts = 3,
    /// R10: too much of the service's work is retries already.
    Budget = 4,
    /// The body has passed and was too long to be held.
    BodyGone = 5,
    /// R11: it was lost on a kept connection, may have been received, and must not be executed twice.
    Unproven = 6,
    /// R6: it was lost on a fresh connection and must not be executed twice.
    NotIdempotent = 7,
    /// The configuration says so.
    Off = 8,
}

impl Rule {
    /// All rules, in index order.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Unwritten,
        Self::StreamRefused,
        Self::StaleProven,
        Self::Idempotent,
        Self::FreshLost,
        Self::GoneAway,
    ];

    /// The rule's name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unwritten => "unwritten",
            Self::StreamRefused => "stream_refused",
            Self::StaleProven => "stale_proven",
            Self::Idempotent => "idempotent",
            Self::FreshLost => "fresh_lost",
            Self::GoneAway => "gone_away",
        }
    }

    /// Whether the replay should go to another backend, if there is one.
    #[must_use]
    pub const fn wants_another_backend(self) -> bool {
        matches!(self, Self::Connect | Self::StreamRefused | Self::GoneAway | Self::FreshLost)
    }

    /// Whether the former attempt may have been executed, or was too much, so that the replay is extra
    /// work.
    #[must_use]
    pub const fn takes_budget(self) -> bool {
        matches!(self, Self::StreamRefused | Self::Idempotent | Self::FreshLost)
    }

    /// Whether the replay waits a moment, so that many do not come at once.
    #[must_use]
    pub const fn is_delayed(self) -> bool {
        matches!(self, Self::StreamRefused | Self::FreshLost)
    }
}

impl Refusal {
    /// All refusals, in index order.
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::ClientGone,
        Self::Deadline,
        Self::Attempts,
        Self::Budget,
        Self::BodyGone,
        Self::Unproven,
        Self::NotIdempotent,
        Self::Off,
    ];

    /// The refusal's name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::ClientGone => "client_gone",
            Self::Deadline => "deadline",
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::BodyGone => "body_gone",
            Self::Unproven => "unproven",
            Self::NotIdempotent => "not_idempotent",
            Self::Off => "off",
        }
    }
}

/// Whether a failed attempt may be followed by another one, and by which rule.
///
/// # Errors
/// Why it may not.
pub fn decide(evidence: &Evidence, policy: &Policy) -> Result<Rule, Refusal> {
    if evidence.stage == Stage::Answered {
        return Err(Refusal::Answered);
    }
    if !evidence.is_client_there {
        return Err(Refusal::ClientGone);
    }
    let rule = rule(evidence, policy)?;
    if !evidence.holds_body {
        return Err(Refusal::BodyGone);
    }
    if evidence.is_late {
        return Err(Refusal::Deadline);
    }
    // A stale connection is nobody's failure: the one replay that follows it is not an attempt less.
    let attempts = evidence.attempts.saturating_sub(evidence.stale_replays);
    if rule != Rule::StaleProven && attempts >= policy.attempts_max {
        return Err(Refusal::Attempts);
    }
    if rule.takes_budget() && !evidence.is_in_budget {
        return Err(Refusal::Budget);
    }
    Ok(rule)
}

/// The rule that the attempt's end falls under.
fn rule(evidence: &Evidence, policy: &Policy) -> Result<Rule, Refusal> {
    let end = match evidence.stage {
        Stage::Unconnected => return Ok(Rule::Connect),
        Stage::Unwritten => return Ok(Rule::Unwritten),
        Stage::Refused => return Ok(Rule::StreamRefused),
        Stage::GoneAway => return Ok(Rule::GoneAway),
        Stage::Answered => return Err(Refusal::Answered),
        Stage::Lost(end) => end,
    };
    if !evidence.is_reused {
        return match (evidence.is_idempotent, policy.fresh_lost) {
            (false, _) => Err(Refusal::NotIdempotent),
            (true, false) => Err(Refusal::Off),
            (true, true) => Ok(Rule::FreshLost),
        };
    }
    // Once: the replay goes to a fresh connection, which can't be stale.
    let is_proven = end == (End::Fin { acked: Some(0) }) && evidence.stale_replays == 0;
    match policy.stale {
        Stale::Off => Err(Refusal::Off),
        Stale::Proven if is_proven => Ok(Rule::StaleProven),
        _ if evidence.is_idempotent => Ok(Rule::Idempotent),
        _ => Err(Refusal::Unproven),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { stale: Stale::Proven, attempts_max: 3, fresh_lost: true };
    const PROOF: Stage = Stage::Lost(End::Fin { acked: Some(0) });
    const RESET: Stage = Stage::Lost(End::Reset);

    /// A POST with a held body, lost on a reused connection; the client waits.
    fn post(stage: Stage) -> Evidence {
        Evidence {
            stage,
            is_reused: true,
            is_idempotent: false,
            holds_body: true,
            is_client_there: true,
            is_late: false,
            attempts: 1,
            stale_replays: 0,
            is_in_budget: true,
        }
    }

    fn get(stage: Stage) -> Evidence {
        Evidence { is_idempotent: true, ..post(stage) }
    }

    fn fresh(evidence: Evidence) -> Evidence {
        Evidence { is_reused: false, ..evidence }
    }

    type Case = (&'static str, Evidence, Policy, Result<Rule, Refusal>);

    fn check(cases: &[Case]) {
        for (name, evidence, policy, expected) in cases {
            assert_eq!(decide(evidence, policy), *expected, "{name}");
        }
    }

    #[test]
    fn what_reached_nobody_is_replayed() {
        let stale = |stale| Policy { stale, ..POLICY };
        let lost = |acked| Stage::Lost(End::Fin { acked });
        check(&[
            ("R1", fresh(post(Stage::Unconnected)), POLICY, Ok(Rule::Connect)),
            ("R2", post(Stage::Unwritten), POLICY, Ok(Rule::Unwritten)),
            (
                "R2 without a budget",
                Evidence { is_in_budget: false, ..post(Stage::Unwritten) },
                POLICY,
                Ok(Rule::Unwritten),
            ),
            (
                "R2, whatever stale_replay is",
                post(Stage::Unwritten),
                stale(Stale::Off),
                Ok(Rule::Unwritten),
            ),
            ("R3", post(Stage::Refused), POLICY, Ok(Rule::StreamRefused)),
            ("R3: GOAWAY", post(Stage::GoneAway), POLICY, Ok(Rule::GoneAway)),
            (
                "R3: GOAWAY is no extra work",
                Evidence { is_in_budget: false, ..post(Stage::GoneAway) },
                POLICY,
                Ok(Rule::GoneAway),
            ),
            (
                "R3 takes budget",
                Evidence { is_in_budget: false, ..post(Stage::Refused) },
                POLICY,
                Err(Refusal::Budget),
            ),
            ("R4", post(PROOF), POLICY, Ok(Rule::StaleProven)),
            (
                "R4 without a budget",
                Evidence { is_in_budget: false, ..post(PROOF) },
                POLICY,
                Ok(Rule::StaleProven),
            ),
            ("R4 for a GET too", get(PROOF), POLICY, Ok(Rule::StaleProven)),
            (
                "R4 is no attempt less",
                Evidence { attempts: 3, ..post(PROOF) },
                POLICY,
                Ok(Rule::StaleProven),
            ),
            (
                "R4 once",
                Evidence { stale_replays: 1, attempts: 2, ..post(PROOF) },
                POLICY,
                Err(Refusal::Unproven),
            ),
            ("R4 only reused", fresh(post(PROOF)), POLICY, Err(Refusal::NotIdempotent)),
            ("R4: a byte was received", post(lost(Some(1))), POLICY, Err(Refusal::Unproven)),
            ("R4: the kernel does not tell", post(lost(None)), POLICY, Err(Refusal::Unproven)),
            ("R4: a reset is no proof", post(RESET), POLICY, Err(Refusal::Unproven)),
            (
                "R4 switched to idempotent",
                post(PROOF),
                stale(Stale::Idempotent),
                Err(Refusal::Unproven),
            ),
            ("R4 switched off", post(PROOF), stale(Stale::Off), Err(Refusal::Off)),
        ]);
    }

    #[test]
    fn what_may_have_been_received_is_replayed_if_that_does_no_harm() {
        let stale = |stale| Policy { stale, ..POLICY };
        let lost = |acked| Stage::Lost(End::Fin { acked });
        check(&[
            ("R5", get(RESET), POLICY, Ok(Rule::Idempotent)),
            ("R5, by FIN", get(lost(Some(9))), POLICY, Ok(Rule::Idempotent)),
            ("R5 by configuration", get(PROOF), stale(Stale::Idempotent), Ok(Rule::Idempotent)),
            ("R5 switched off", get(RESET), stale(Stale::Off), Err(Refusal::Off)),
            (
                "R5 with a long body",
                Evidence { holds_body: false, ..get(RESET) },
                POLICY,
                Err(Refusal::BodyGone),
            ),
            ("R6", fresh(get(RESET)), POLICY, Ok(Rule::FreshLost)),
            ("R6, POST", fresh(post(RESET)), POLICY, Err(Refusal::NotIdempotent)),
            (
                "R6 switched off",
                fresh(get(RESET)),
                Policy { fresh_lost: false, ..POLICY },
                Err(Refusal::Off),
            ),
            ("R7", get(Stage::Answered), POLICY, Err(Refusal::Answered)),
            (
                "R8",
                Evidence { is_client_there: false, ..get(PROOF) },
                POLICY,
                Err(Refusal::ClientGone),
            ),
            (
                "R10, budget",
                Evidence { is_in_budget: false, ..get(RESET) },
                POLICY,
                Err(Refusal::Budget),
            ),
            (
                "R10, attempts",
                Evidence { attempts: 3, ..get(RESET) },
                POLICY,
                Err(Refusal::Attempts),
            ),
            (
                "R10, deadline",
                Evidence { is_late: true, ..get(PROOF) },
                POLICY,
                Err(Refusal::Deadline),
            ),
            ("R11", post(RESET), POLICY, Err(Refusal::Unproven)),
        ]);
    }

    /// Every combination: what may have been executed is never sent again unless that does no harm.
    #[test]
    fn no_request_that_must_not_run_twice_is_replayed_without_proof() {
        let ends = [None, Some(0), Some(1)].map(|acked| End::Fin { acked });
        let lost = ends.into_iter().chain([End::Reset]).map(Stage::Lost);
        let stages: Vec<Stage> = lost.chain([Stage::Answered]).collect();
        for stage in stages {
            for bits in 0..32_u8 {
                let bit = |n: u8| bits & (1 << n) != 0;
                for stale in [Stale::Proven, Stale::Idempotent, Stale::Off] {
                    let evidence = Evidence {
                        is_reused: bit(0),
                        holds_body: bit(1),
                        is_client_there: bit(2),
                        is_late: bit(3),
                        is_in_budget: bit(4),
                        ..post(stage)
                    };
                    let verdict = decide(&evidence, &Policy { stale, ..POLICY });
                    if verdict.is_ok() {
                        assert_eq!(verdict, Ok(Rule::StaleProven));
                        assert_eq!(stage, PROOF);
                        assert!(evidence.is_reused && stale == Stale::Proven);
                    }
                }
            }
        }
    }

    #[test]
    fn names_stand_at_their_index() {
        for (index, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, index);
        }
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
        assert!(Refusal::ALL.len() <= crate::abi::REPLAYS_MAX);
    }
}
