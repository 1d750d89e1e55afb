//! The one state machine of a backend's health.
//!
//! Each slot has one packed word. Probes, request outcomes, timers and operators all feed it through
//! [`transition`], a pure function; whoever computes the next word tries to swap it in
//! ([`crate::publish`]). There is no second opinion anywhere: the bitmap that XDP and the workers
//! read is [`Word::accepts_new`] and [`Word::keeps_flows`] of this word and nothing else.
//!
//! What the machine holds to:
//!
//! - An ejection lasts its time. Neither a probe nor a late success of a request ends it early; only
//!   a failing probe (to `Down`) or an operator changes an ejected backend before its deadline.
//! - A backend that comes back from `Down` within its ejection goes back to `Ejected`.
//! - Each recovery clears all streaks in the same swap.
//! - Ejections grow with their number, up to a cap, and are forgotten after a quiet time.
//! - Failed requests are counted here, but they eject by a claim alone ([`Event::Eject`], see
//!   [`crate::publish::eject`]): how many may be out is the service's matter, not one backend's.
//! - A recovered backend warms up: its share grows over a slow start. One that was never seen to fail
//!   has none, so a start or a reload slows nobody down.
//! - `Draining` keeps flows, unless probes say that the backend is dead. `Maintenance` keeps none.
//!
//! Time is an argument: [`Ticks`] of 100 ms that wrap after 19 days and compare by distance.

use crate::hash::mix;

/// Coarse time: units of 100 ms of the monotonic clock, 24 bits, wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks(u32);

impl Ticks {
    const BITS: u32 = 24;
    const MASK: u32 = (1 << Self::BITS) - 1;

    /// The tick of a monotonic time in milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self((ms / 100) as u32 & Self::MASK)
    }

    /// This time and `ticks` more, which must be under half the range (9 days).
    #[must_use]
    pub const fn after(self, ticks: u32) -> Self {
        Self((self.0 + ticks) & Self::MASK)
    }

    /// Whether this time is at or after `other`, by the shorter way round.
    #[must_use]
    pub const fn reached(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) & Self::MASK) < 1 << (Self::BITS - 1)
    }

    /// Ticks from this time until `other`; 0 if it has been reached.
    #[must_use]
    pub const fn until(self, other: Self) -> u32 {
        if self.reached(other) { 0 } else { other.0.wrapping_sub(self.0) & Self::MASK }
    }
}

/// What a backend may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// No backend holds the slot.
    Unused = 0,
    /// Not heard of yet: takes no work until the first probe has succeeded.
    Unknown = 1,
    /// In service.
    Up = 2,
    /// Its ejection is over: one trial request, or one probe, decides.
    Probation = 3,
    /// Taken out after failed requests, until a deadline.
    Ejected = 4,
    /// Probes fail.
    Down = 5,
    /// No new work by an operator's wish; what is begun is finished.
    Draining = 6,
    /// Out of service by an operator's wish.
    Maintenance = 7,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Unused,
        Self::Unknown,
        Self::Up,
        Self::Probation,
        Self::Ejected,
        Self::Down,
        Self::Draining,
        Self::Maintenance,
    ];

    /// The state's name in status, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Probation => "probation",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The slot was given to a backend, or its service's policy was read anew.
    Assigned,
    /// A probe succeeded.
    ProbeOk,
    /// A probe failed or timed out.
    ProbeFailed,
    /// A request was answered by the backend.
    RequestOk,
    /// A request failed in the way of a gateway failure (connect, reset, timeout, 502/503/504): it
    /// counts, and it ends a trial. `jitter` is a random byte: it spreads the length of the ejection
    /// by ±20 %.
    RequestFailed {
        /// 0 for the shortest ejection, 255 for the longest.
        jitter: u8,
    },
    /// The service agreed to an ejection. `jitter` as above.
    Eject {
        /// What the backend did.
        cause: Cause,
        /// 0 for the shortest ejection, 255 for the longest.
        jitter: u8,
    },
    /// Time has passed.
    Tick,
    /// A worker takes the one trial request of a probation upon itself.
    TrialStarted,
    /// An operator wants the backend to finish its work.
    Drain,
    /// An operator wants the backend out at once.
    Maintain,
    /// An operator wants the backend back.
    Enable,
    /// The backend left the configuration.
    Removed,
}

/// Why a backend was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// It was not.
    None = 0,
    /// Its requests failed one after another.
    InARow = 1,
    /// Too great a share of its latest requests failed.
    Share = 2,
    /// The one request that was to decide over its return failed.
    Trial = 3,
}

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::None, Self::InARow, Self::Share, Self::Trial];
}

/// A service's numbers for [`transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether probes run: without, a backend counts as up until requests say otherwise.
    pub probed: bool,
    /// Failed probes in a row that take a backend down. At least 1.
    pub fall: u8,
    /// Good probes in a row that bring it back. At least 1.
    pub rise: u8,
    /// Failed requests in a row that eject it; 0 turns ejection off.
    pub consecutive: u8,
    /// Length of the first ejection.
    pub ejection_ticks: u32,
    /// Limit of an ejection's length.
    pub ejection_ticks_max: u32,
    /// How long a trial request may be out before another one may be tried.
    pub trial_ticks: u32,
    /// How long a recovered backend's share takes to grow to its weight; 0 for none.
    pub slow_start_ticks: u32,
}

impl Policy {
    /// The defaults: fall 3, rise 2, ejection after 5 failures for 10 s, at most 300 s; slow start 30 s.
    pub const DEFAULT: Self = Self {
        probed: true,
        fall: 3,
        rise: 2,
        consecutive: 5,
        ejection_ticks: 100,
        ejection_ticks_max: 3000,
        trial_ticks: 600,
        slow_start_ticks: 300,
    };
}

/// A slot's packed state. All zero is [`State::Unused`] in the first tenancy, so that fresh memory
/// accepts nothing.
///
/// ```text
/// bits  0..3   state
///       3      probes say that the backend is dead (kept under Draining and Maintenance)
///       4      a trial request is out (Probation)
///       5      it recovered and warms up (Up)
///       6..8   cause of the latest ejection, until it is over
///       8..16  probes in a row that contradict the state
///      16..24  failed requests in a row
///      24..28  ejections that still count
///      28..40  tenancy (low bits of the backend's epoch)
///      40..64  deadline: end of the ejection, of the trial, of the slow start, or of the memory of
///              past ejections
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Word(u64);

/// Bits of the epoch that a word can hold.
pub const EPOCH_MASK: u32 = 0xfff;

const EJECTIONS_MAX: u8 = 15;

impl Word {
    /// The word as the shared region stores it.
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// The word that the shared region stores.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The state.
    #[must_use]
    pub const fn state(self) -> State {
        State::ALL[(self.0 & 7) as usize]
    }

    /// Whether probes say that the backend is dead, in a state that an operator decided.
    #[must_use]
    pub const fn is_dead(self) -> bool {
        self.field(3, 1) != 0
    }

    /// Whether the one trial request of a probation is out.
    #[must_use]
    pub const fn trial_is_out(self) -> bool {
        self.field(4, 1) != 0
    }

    /// Whether the backend recovered lately and its share still grows.
    #[must_use]
    pub const fn is_warming(self) -> bool {
        self.field(5, 1) != 0
    }

    /// Why the backend was ejected, as long as that keeps it out.
    #[must_use]
    pub const fn cause(self) -> Cause {
        Cause::ALL[self.field(6, 3) as usize]
    }

    /// Whether an ejection keeps the backend out, or would if probes found it alive again.
    #[must_use]
    pub const fn is_out_by_ejection(self, now: Ticks) -> bool {
        match self.state() {
            State::Ejected | State::Probation => true,
            State::Down => self.ejection_runs(now),
            _ => false,
        }
    }

    /// Whether a backend that is down would come back into its ejection.
    const fn ejection_runs(self, now: Ticks) -> bool {
        !matches!(self.cause(), Cause::None) && !now.reached(self.deadline())
    }

    /// The share of its weight that a backend should get at `now`, in 256ths: a tenth when it has
    /// recovered, growing evenly to the whole over the slow start.
    #[must_use]
    pub const fn warmth(self, now: Ticks, slow_start_ticks: u32) -> u32 {
        const LEAST: u64 = 256 / 10;
        if !self.is_warming() || slow_start_ticks == 0 {
            return 256;
        }
        let all = slow_start_ticks as u64;
        let left = now.until(self.deadline()) as u64;
        // A policy with a shorter slow start may have come since.
        let gone = all.saturating_sub(left);
        (LEAST + (256 - LEAST) * gone / all) as u32
    }

    /// Whether the backend is warm enough for work of this hash, on both planes: who was let in once is
    /// let in as long as it warms up.
    #[must_use]
    pub const fn admits(self, hash: u64, now: Ticks, slow_start_ticks: u32) -> bool {
        // Bits that name no position and no candidate.
        ((mix(hash) & 0xff) as u32) < self.warmth(now, slow_start_ticks)
    }

    /// Probes in a row that contradict the state.
    #[must_use]
    pub const fn probe_streak(self) -> u8 {
        self.field(8, 0xff) as u8
    }

    /// Failed requests in a row.
    #[must_use]
    pub const fn request_failures(self) -> u8 {
        self.field(16, 0xff) as u8
    }

    /// Ejections that still count towards the length of the next one.
    #[must_use]
    pub const fn ejections(self) -> u8 {
        self.field(24, 0xf) as u8
    }

    /// The slot's tenancy.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        self.field(28, EPOCH_MASK as u64) as u32
    }

    /// When the ejection, the trial, the slow start, or the memory of past ejections ends.
    #[must_use]
    pub const fn deadline(self) -> Ticks {
        Ticks(self.field(40, Ticks::MASK as u64) as u32)
    }

    /// Whether the backend takes new connections, requests and flows.
    #[must_use]
    pub const fn accepts_new(self) -> bool {
        matches!(self.state(), State::Up)
    }

    /// Whether flows that the backend has may stay with it.
    #[must_use]
    pub const fn keeps_flows(self) -> bool {
        match self.state() {
            State::Unknown | State::Up | State::Probation | State::Ejected => true,
            State::Draining => !self.is_dead(),
            State::Unused | State::Down | State::Maintenance => false,
        }
    }

    /// Whether the backend is given work when its service ignores health: it is not by an operator's
    /// wish that it is out.
    #[inline(always)]
    #[must_use]
    pub const fn serves_in_panic(self) -> bool {
        // By numbers, for the kernel programs: a table of states would have to be a map.
        let state = self.0 & 7;
        State::Unknown as u64 <= state && state <= State::Down as u64
    }

    /// Whether [`transition`] would make anything of a successful request: false on the hot path.
    #[must_use]
    pub const fn awaits_success(self) -> bool {
        matches!(self.state(), State::Probation) || self.request_failures() != 0
    }

    const fn field(self, shift: u32, mask: u64) -> u64 {
        self.0 >> shift & mask
    }

    const fn with(self, shift: u32, mask: u64, value: u64) -> Self {
        Self(self.0 & !(mask << shift) | (value & mask) << shift)
    }

    /// The same backend in another state, all streaks cleared.
    const fn enter(self, state: State) -> Self {
        self.with(0, 7, state as u64).with(4, 3, 0).with(8, 0xff, 0).with(16, 0xff, 0)
    }

    const fn with_dead(self, dead: bool) -> Self {
        self.with(3, 1, dead as u64)
    }

    const fn with_cause(self, cause: Cause) -> Self {
        self.with(6, 3, cause as u64)
    }

    const fn with_probe_streak(self, streak: u8) -> Self {
        self.with(8, 0xff, streak as u64)
    }

    const fn with_request_failures(self, failures: u8) -> Self {
        self.with(16, 0xff, failures as u64)
    }

    const fn with_ejections(self, ejections: u8) -> Self {
        self.with(24, 0xf, ejections as u64)
    }

    const fn with_deadline(self, deadline: Ticks) -> Self {
        self.with(40, Ticks::MASK as u64, deadline.0 as u64)
    }
}

/// The word after `event`, or the same word if the event changes nothing.
#[must_use]
pub fn transition(word: Word, event: Event, now: Ticks, policy: &Policy) -> Word {
    match event {
        Event::Assigned => assigned(word, policy),
        Event::Removed if word.state() != State::Unused => removed(word),
        _ if word.state() == State::Unused => word,
        Event::Removed => word,
        Event::ProbeOk => probe_ok(word, now, policy),
        Event::ProbeFailed => probe_failed(word, policy),
        Event::RequestOk => request_ok(word, now, policy),
        Event::RequestFailed { jitter } => request_failed(word, jitter, now, policy),
        Event::Eject { cause, jitter } => eject(word, cause, jitter, now, policy),
        Event::Tick => tick(word, now, policy),
        Event::TrialStarted => trial_started(word, now, policy),
        Event::Drain => by_operator(word, State::Draining),
        Event::Maintain => by_operator(word, State::Maintenance),
        Event::Enable => enable(word, policy),
    }
}

/// A backend that stays keeps its state, but without probes nothing would ever bring it up.
fn assigned(word: Word, policy: &Policy) -> Word {
    match word.state() {
        State::Unused => word.enter(first_state(policy)),
        State::Unknown | State::Down if !policy.probed => {
            word.enter(State::Up).with_cause(Cause::None)
        }
        _ => word,
    }
}

/// What a backend is before anything is known of it.
fn first_state(policy: &Policy) -> State {
    if policy.probed { State::Unknown } else { State::Up }
}

/// A clean word for the next tenant.
fn removed(word: Word) -> Word {
    Word::default().with(28, u64::from(EPOCH_MASK), u64::from(word.epoch() + 1))
}

fn probe_ok(word: Word, now: Ticks, policy: &Policy) -> Word {
    match word.state() {
        State::Unused => word,
        State::Unknown => word.enter(State::Up),
        State::Up | State::Ejected => word.with_probe_streak(0),
        State::Probation => recovered(word, now, policy),
        State::Down => {
            let streak = word.probe_streak().saturating_add(1);
            if streak < policy.rise {
                word.with_probe_streak(streak)
            } else if word.ejection_runs(now) {
                word.enter(State::Ejected)
            } else {
                recovered(word, now, policy)
            }
        }
        State::Draining | State::Maintenance => {
            if !word.is_dead() {
                return word.with_probe_streak(0);
            }
            let streak = word.probe_streak().saturating_add(1);
            if streak < policy.rise {
                word.with_probe_streak(streak)
            } else {
                word.with_dead(false).with_probe_streak(0)
            }
        }
    }
}

fn probe_failed(word: Word, policy: &Policy) -> Word {
    let streak = word.probe_streak().saturating_add(1);
    let fell = streak >= policy.fall;
    match word.state() {
        State::Unused => word,
        // The contradiction ends here: the streak counts successes in this state.
        State::Down => word.with_probe_streak(0),
        // The deadline stays, for a recovery within the ejection.
        State::Unknown | State::Up | State::Ejected if fell => word.enter(State::Down),
        State::Unknown | State::Up | State::Ejected => word.with_probe_streak(streak),
        // The probe is the trial; the ejection is over.
        State::Probation => word.enter(State::Down).with_cause(Cause::None),
        State::Draining | State::Maintenance if word.is_dead() => word.with_probe_streak(0),
        State::Draining | State::Maintenance if fell => word.with_dead(true).with_probe_streak(0),
        State::Draining | State::Maintenance => word.with_probe_streak(streak),
    }
}

fn request_ok(word: Word, now: Ticks, policy: &Policy) -> Word {
    match word.state() {
        State::Up => word.with_request_failures(0),
        // Only the trial decides; a success from before the ejection is stale.
        State::Probation if word.trial_is_out() => recovered(word, now, policy),
        _ => word,
    }
}

fn request_failed(word: Word, jitter: u8, now: Ticks, policy: &Policy) -> Word {
    match word.state() {
        // No further than what ejects, so that the next failure asks again.
        State::Up if word.request_failures() < policy.consecutive => {
            word.with_request_failures(word.request_failures() + 1)
        }
        State::Probation if word.trial_is_out() => ejected(word, Cause::Trial, jitter, now, policy),
        _ => word,
    }
}

fn eject(word: Word, cause: Cause, jitter: u8, now: Ticks, policy: &Policy) -> Word {
    let is_due = match cause {
        // A success may have come since the failure that asked for it.
        Cause::InARow => policy.consecutive > 0 && word.request_failures() >= policy.consecutive,
        Cause::Share => true,
        Cause::None | Cause::Trial => false,
    };
    match word.state() {
        State::Up if is_due => ejected(word, cause, jitter, now, policy),
        _ => word,
    }
}

fn ejected(word: Word, cause: Cause, jitter: u8, now: Ticks, policy: &Policy) -> Word {
    // In Up the deadline is the end of the memory of earlier ejections, once it has warmed up.
    let remembers = word.state() == State::Up && !word.is_warming();
    let forgotten = remembers && now.reached(word.deadline());
    let earlier = if forgotten { 0 } else { word.ejections() };
    let ticks = ejection_ticks(earlier, jitter, policy);
    word.enter(State::Ejected)
        .with_cause(cause)
        .with_ejections((earlier + 1).min(EJECTIONS_MAX))
        .with_deadline(now.after(ticks))
}

/// Length of the ejection after `earlier` ones: base × 2ⁿ ± 20 %, capped.
#[must_use]
pub fn ejection_ticks(earlier: u8, jitter: u8, policy: &Policy) -> u32 {
    let grown = u64::from(policy.ejection_ticks) << earlier.min(EJECTIONS_MAX);
    let capped = grown.min(u64::from(policy.ejection_ticks_max));
    let spread = capped * (204 + u64::from(jitter) * 102 / 255) / 255;
    spread.clamp(1, u64::from(policy.ejection_ticks_max.max(1))) as u32
}

/// Back in service, at first with a small share.
fn recovered(word: Word, now: Ticks, policy: &Policy) -> Word {
    let up = word.enter(State::Up).with_cause(Cause::None);
    if policy.slow_start_ticks == 0 {
        return warm(up, now, policy);
    }
    up.with(5, 1, 1).with_deadline(now.after(policy.slow_start_ticks))
}

/// In service with its whole share; past ejections are remembered for as long as the longest one.
fn warm(up: Word, now: Ticks, policy: &Policy) -> Word {
    let up = up.with(5, 1, 0);
    if up.ejections() == 0 {
        up.with_deadline(Ticks(0))
    } else {
        up.with_deadline(now.after(policy.ejection_ticks_max))
    }
}

fn tick(word: Word, now: Ticks, policy: &Policy) -> Word {
    match word.state() {
        State::Ejected if now.reached(word.deadline()) => word.enter(State::Probation),
        State::Probation if word.trial_is_out() && now.reached(word.deadline()) => {
            word.enter(State::Probation)
        }
        State::Up if word.is_warming() => {
            if now.reached(word.deadline()) {
                warm(word, now, policy)
            } else {
                word
            }
        }
        State::Down if now.reached(word.deadline()) => word.with_cause(Cause::None),
        // Keeps the deadline from coming round again after half the clock's range.
        State::Up if word.ejections() > 0 && now.reached(word.deadline()) => {
            word.with_ejections(0).with_deadline(Ticks(0))
        }
        _ => word,
    }
}

fn trial_started(word: Word, now: Ticks, policy: &Policy) -> Word {
    if word.state() == State::Probation && !word.trial_is_out() {
        word.with(4, 1, 1).with_deadline(now.after(policy.trial_ticks))
    } else {
        word
    }
}

fn by_operator(word: Word, state: State) -> Word {
    if word.state() == state {
        return word;
    }
    let dead = word.state() == State::Down || word.is_dead();
    word.enter(state).with_dead(dead).with_cause(Cause::None)
}

fn enable(word: Word, policy: &Policy) -> Word {
    match word.state() {
        State::Draining | State::Maintenance => {
            let state = if word.is_dead() { State::Down } else { first_state(policy) };
            word.enter(state).with_dead(false).with_ejections(0)
        }
        _ => word,
    }
}

#[cfg(test)]
mod tests;
