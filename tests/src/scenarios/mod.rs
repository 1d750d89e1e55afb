//! What becomes of requests and connections when backends misbehave, in ten ways.
//!
//! A client in a namespace of its own keeps asking by both planes, at fixed times; one backend (or
//! more) falls ill, is recognised, and recovers. Read off are the client's records and the pinned
//! tables: when new work went elsewhere and when it came back, what failed, and how often the backend
//! was taken out and let in.

mod course;
mod outcome;
mod watch;

pub use self::course::{Course, Rates, Setting};
pub use self::outcome::{Outcome, PlaneOutcome};
pub use self::watch::{Change, Watch};

use std::time::{Duration, Instant};

use anyhow::Result;
use steerage_lab::wait;

use crate::moody::Mood;
use crate::stand::name;

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long nothing may have gone wrong before a scenario goes on.
const CALM: Duration = Duration::from_millis(400);
/// Between two changes of a flapping backend: shorter than what it takes to be let in again.
const FLAP: Duration = Duration::from_millis(300);
/// How often a flapping backend changes.
pub const FLAPS: usize = 20;

/// A way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Well and failing by turns.
    Flapping,
    /// Too slow for its probes; it does answer.
    Slow,
    /// It hears nothing.
    Blackholed,
    /// It resets connections in place of answers.
    Resetting,
    /// It answers 503 to all.
    Failing,
    /// It answers 503 to requests, and its probes are good.
    FailingRequests,
    /// It answers requests, and its probes fail.
    FailingProbes,
    /// All are dead.
    AllDown,
    /// All but one are dead, and health counts however few are left.
    AllButOneDown,
    /// It was dead, and comes back under load.
    Recovering,
}

impl Scenario {
    /// All, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Flapping,
        Self::Slow,
        Self::Blackholed,
        Self::Resetting,
        Self::Failing,
        Self::FailingRequests,
        Self::FailingProbes,
        Self::AllDown,
        Self::AllButOneDown,
        Self::Recovering,
    ];

    /// The name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flapping => "flapping",
            Self::Slow => "slow",
            Self::Blackholed => "blackholed",
            Self::Resetting => "resetting",
            Self::Failing => "503 to all",
            Self::FailingRequests => "503 to requests, 200 to probes",
            Self::FailingProbes => "200 to requests, 503 to probes",
            Self::AllDown => "all down",
            Self::AllButOneDown => "all but one down",
            Self::Recovering => "recovering",
        }
    }

    /// Whether it leaves so few that health would be ignored by default.
    #[must_use]
    pub fn panics(self) -> bool {
        matches!(self, Self::AllDown | Self::AllButOneDown)
    }

    const fn mood(self) -> Mood {
        match self {
            Self::Flapping | Self::Failing => Mood::Failing,
            Self::Slow => Mood::Slow,
            Self::Blackholed => Mood::Blackholed,
            Self::Resetting => Mood::Resetting,
            Self::FailingRequests => Mood::FailingRequests,
            Self::FailingProbes => Mood::FailingProbes,
            Self::AllDown | Self::AllButOneDown | Self::Recovering => Mood::Dead,
        }
    }

    /// Who misbehaves, of so many.
    fn victims(self, backends: u8) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::AllDown => 1..=backends,
            Self::AllButOneDown => 1..=backends - 1,
            _ => 1..=1,
        }
    }

    /// Plays it.
    ///
    /// # Errors
    /// If something that must come does not.
    pub fn play(self, setting: &mut Setting) -> Result<Outcome> {
        let victims = self.victims(setting.backends());
        setting.heal()?;
        let course = Course::start(setting)?;
        let all: Vec<u8> = (1..=setting.backends()).collect();
        course.wait_for_answers(&all, Instant::now())?;

        let onset = Instant::now();
        if self == Self::Flapping {
            for flap in 0..FLAPS {
                let mood = if flap % 2 == 0 { self.mood() } else { Mood::Well };
                setting.set(1, mood)?;
                std::thread::sleep(FLAP);
            }
        } else {
            for victim in victims.clone() {
                setting.set(victim, self.mood())?;
            }
            self.wait_for_recognition(&course, victims.clone(), onset, setting.panics())?;
        }

        let recovery = Instant::now();
        for victim in victims.clone() {
            setting.set(victim, Mood::Well)?;
        }
        let recovered = Instant::now();
        course.wait_for_answers(&victims.clone().collect::<Vec<_>>(), recovery)?;
        wait::for_condition("all backends to be up", PATIENCE, || {
            all.iter().all(|backend| course.watch.accepts_new(*backend))
        })?;
        course.wait_for_calm(|_| true)?;
        Ok(course.finish([onset, recovery, recovered], victims))
    }

    fn wait_for_recognition(
        self,
        course: &Course,
        victims: std::ops::RangeInclusive<u8>,
        onset: Instant,
        panics: bool,
    ) -> Result<()> {
        wait::for_condition(format!("{} to be recognised", self.name()), PATIENCE, || {
            victims.clone().all(|victim| !course.watch.accepts_new(victim))
        })?;
        match self {
            // It is let in and thrown out again, for longer each time.
            Self::FailingRequests => wait::for_condition("three ejections", PATIENCE, || {
                course.watch.since(onset).iter().any(|change| change.ejections >= 3)
            }),
            // Health is ignored, so nothing calms down.
            _ if self.panics() && panics => {
                let since = Instant::now();
                wait::for_condition("connections to fail", PATIENCE, || {
                    course.has_failed(since, 50)
                })
            }
            _ => {
                let names: Vec<String> = victims.map(name).collect();
                course.wait_for_calm(|answer| names.iter().all(|name| name != answer))
            }
        }
    }
}
