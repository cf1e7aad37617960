//! What is wrong with a policy.

use crate::name::BadName;

/// What is wrong with a policy, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no TOML, or has keys that no policy has.
    #[error("{0}")]
    File(String),
    /// An entry is neither name nor address.
    #[error("{entry:?} is no host name: {source}; write NAME, *.NAME, NAME:PORT, an address or a CIDR")]
    Name {
        /// The entry.
        entry: String,
        /// Why not.
        source: BadName,
    },
    /// An entry's address or port.
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
        /// Those that come with OmniRun.
        known: String,
    },
    /// A preset that is broken.
    #[error("the preset {name:?}: {source}")]
    Preset {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: Box<PolicyError>,
    },
    /// Presets that contain each other.
    #[error("the preset {name:?} contains itself")]
    Cycle {
        /// Its name.
        name: String,
    },
    /// Fields that say different things.
    #[error("{0}")]
    Contradiction(String),
    /// What `--net` or a session's metadata says is none of the words.
    #[error(
        "{0:?} is no network policy: none, open, allow:NAME,..., preset:NAME, or the path of a policy file (with a / or \
         ending in .toml)"
    )]
    Flag(String),
    /// More than a policy may have.
    #[error("a policy has at most {most} entries; this one has more")]
    TooMany {
        /// The bound.
        most: usize,
    },
}
