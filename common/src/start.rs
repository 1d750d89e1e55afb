//! Why a worker process was started.

/// Room for causes in the shared region.
pub const STARTS_MAX: usize = 8;

/// Why a worker process was started: index into [`crate::abi::WorkerLine::starts`], so new ones go to the
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Start {
    /// With the daemon.
    First = 0,
    /// The one before it ended by itself.
    Exited = 1,
    /// The one before it was killed by a signal.
    Killed = 2,
    /// The one before it hung, and was killed for it.
    Hung = 3,
    /// The one before it could not be given its configuration.
    Unconfigured = 4,
    /// The one before it had lived as long as it may.
    Age = 5,
    /// The one before it had more memory than it may.
    Memory = 6,
}

impl Start {
    /// All of them, in index order.
    pub const ALL: [Self; 7] = [
        Self::First,
        Self::Exited,
        Self::Killed,
        Self::Hung,
        Self::Unconfigured,
        Self::Age,
        Self::Memory,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::Hung => "hung",
            Self::Unconfigured => "unconfigured",
            Self::Age => "age",
            Self::Memory => "memory",
        }
    }
}

const _: () = assert!(Start::ALL.len() <= STARTS_MAX);
