//! What is wrong with a policy.

use crate::name::BadName;

/// What is wrong with a policy, where, and what to write instead. It is said in one piece: there are no causes behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no TOML, or has keys that no policy has.
    #[error("{0}")]
    File(String),
    /// Something in a line, a field or a preset.
    #[error("{place}: {inner}")]
    In {
        /// Where.
        place: String,
        /// What.
        inner: Box<PolicyError>,
    },
    /// An entry is neither name nor address.
    #[error("{entry:?} is no host name: {why}; write NAME, *.NAME, NAME:PORT, an address or a CIDR")]
    Name {
        /// The entry.
        entry: String,
        /// Why not.
        why: BadName,
    },
    /// An entry cannot be what it says.
    #[error("{entry:?}: {what}")]
    Entry {
        /// The entry.
        entry: String,
        /// What is wrong.
        what: String,
    },
    /// An entry lists what is never reached.
    #[error("{entry:?} is never reached from a sandbox ({why}); take it out")]
    Never {
        /// The entry.
        entry: String,
        /// What it is.
        why: &'static str,
    },
    /// A preset that is not there.
    #[error("there is no preset {name:?}; there are: {known}")]
    NoPreset {
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A preset that contains itself.
    #[error("the preset {name:?} contains itself: {way}")]
    Cycle {
        /// Its name.
        name: String,
        /// By way of which.
        way: String,
    },
    /// Fields that say different things.
    #[error("{0}")]
    Contradiction(String),
    /// What `--net` or a session's metadata says is none of the words.
    #[error("{text:?} is no network policy: {hint}")]
    Flag {
        /// What it says.
        text: String,
        /// What to write.
        hint: String,
    },
    /// A file where none can be named.
    #[error("{0:?}: a policy file cannot be named here; write none, open, allow:NAME,... or preset:NAME")]
    NoFile(String),
    /// More than a policy may have.
    #[error("a policy has at most {most} entries, those of presets included; this one has more")]
    TooMany {
        /// The bound.
        most: usize,
    },
}

impl PolicyError {
    pub(crate) fn within(self, place: impl Into<String>) -> Self {
        Self::In {
            place: place.into(),
            inner: Box::new(self),
        }
    }

    pub(crate) fn entry(entry: &str, what: impl Into<String>) -> Self {
        Self::Entry {
            entry: entry.to_owned(),
            what: what.into(),
        }
    }
}
