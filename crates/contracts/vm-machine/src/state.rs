//! States and what they carry.

use std::fmt;

/// Why a VM exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A cold boot whose memory becomes a snapshot.
    Boot,
    /// A clone of a snapshot: a sandbox.
    Clone,
}

/// Why a VM ends, or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its user has no more need of it.
    Released,
    /// The pool has no more need of it.
    Surplus,
    /// The process that owns it ends.
    Shutdown,
    /// The process that owned it died.
    Orphaned,
    /// Its memory and devices are in a snapshot.
    Snapshotted,
    /// A step on the way to being usable failed: which, and how.
    Failed {
        /// The step.
        step: &'static str,
        /// How, for people.
        reason: String,
    },
    /// The VMM went away by itself: the guest's kernel panicked, the guest powered off, or somebody killed it.
    Exited {
        /// Exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that did.
        signal: Option<i32>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => f.write_str("released"),
            Self::Surplus => f.write_str("not needed in the pool any more"),
            Self::Shutdown => f.write_str("its owner ends"),
            Self::Orphaned => f.write_str("its owner died"),
            Self::Snapshotted => f.write_str("it became a snapshot"),
            Self::Failed { step, reason } => write!(f, "{step} failed: {reason}"),
            Self::Exited {
                signal: Some(signal), ..
            } => write!(f, "its VMM was ended by signal {signal}"),
            Self::Exited { code: Some(0), .. } => f.write_str("the guest went down (panic or power off)"),
            Self::Exited { code: Some(code), .. } => write!(f, "its VMM exited with code {code}"),
            Self::Exited {
                code: None,
                signal: None,
            } => f.write_str("its VMM exited"),
        }
    }
}

/// Where a VM is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its row is written, its VMM not yet started.
    Creating,
    /// Its VMM runs: booting, or loading the snapshot and waking.
    Starting,
    /// Awake, unique, and nobody's.
    Pooled,
    /// Being given its disk and identity.
    Claiming {
        /// What it is to serve.
        purpose: String,
    },
    /// Somebody's.
    Claimed {
        /// What it serves.
        purpose: String,
    },
    /// Being torn down.
    Ending {
        /// The first reason.
        why: Why,
    },
    /// Gone, and checked to be gone.
    Ended {
        /// The first reason.
        why: Why,
    },
}

/// A state without what it carries, to be compared, counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// [`State::Creating`]
    Creating,
    /// [`State::Starting`]
    Starting,
    /// [`State::Pooled`]
    Pooled,
    /// [`State::Claiming`]
    Claiming,
    /// [`State::Claimed`]
    Claimed,
    /// [`State::Ending`]
    Ending,
    /// [`State::Ended`]
    Ended,
}

impl Phase {
    /// Its name, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Pooled => "pooled",
            Self::Claiming => "claiming",
            Self::Claimed => "claimed",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// Which it is.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Creating => Phase::Creating,
            Self::Starting => Phase::Starting,
            Self::Pooled => Phase::Pooled,
            Self::Claiming { .. } => Phase::Claiming,
            Self::Claimed { .. } => Phase::Claimed,
            Self::Ending { .. } => Phase::Ending,
            Self::Ended { .. } => Phase::Ended,
        }
    }

    /// Why it ends or has ended, if it does.
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Ending { why } | Self::Ended { why } => Some(why),
            _ => None,
        }
    }
}
