//! Snapshots: what every sandbox is a clone of.
//!
//! ```text
//!   key       everything that decides whether memory and devices can be restored      [key]
//!   record    a keyed digest of a file, and how it looked                              [record]
//!   manifest  the key, when it was made, and the record of each file                   [manifest]
//!   store     snapshots/<key>/{memory,state,manifest.json}: load, verify, publish, evict  [store]
//!   boot      the cold boot that makes one                                             [boot]
//!   suspended  a sandbox's own snapshot, to go on from once                          [suspended]
//!   Template  a snapshot opened by this process, ready to be cloned                    [template]
//! ```
//!
//! Snapshot files are trusted input to a VMM. They are private to the owner of the data folder, fsynced before the
//! manifest's folder is renamed into place, and authenticated with a key that lies beside them: when they are made,
//! and again whenever device, inode, size or ctime are not those of the record, also after this process has opened them. A
//! snapshot that does not hold up is removed, and the next use makes another, with a word.
//!
//! Two processes that want the same new snapshot at once: the second waits for the first, and says so. Should both
//! make it after all, the second rename fails and its copy is dropped: a snapshot, once there, never changes.

mod boot;
mod found;
mod key;
mod manifest;
mod record;
mod store;
mod suspended;
mod template;

pub use key::SnapshotKey;
pub use store::{SnapshotInfo, SnapshotLimits};
pub use template::Template;

pub(crate) use boot::make;
pub(crate) use found::{Found, Lookup};
pub(crate) use store::SnapshotStore;

use omnirun_ids::ByteSize;
use std::{fmt, path::PathBuf, time::Duration};

/// Why a snapshot cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file operation.
    #[error("snapshot: cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not what was made.
    #[error("snapshot {name} is damaged: {what}")]
    Damaged {
        /// Which.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The key file is not a key.
    #[error("{path} is damaged; remove it, and snapshots are made anew")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The cold boot that was to become a snapshot failed.
    #[error("the first boot of this image failed")]
    Boot {
        /// How.
        #[source]
        source: Box<crate::EngineError>,
    },
    /// The memory could not be opened for cloning.
    #[error("snapshot {name}: cannot open its memory")]
    Memory {
        /// Which.
        name: String,
        /// How.
        #[source]
        source: omnirun_vmm::VmmError,
    },
    /// No room.
    #[error("{free} are free in {path}, and a snapshot of this size may take {needed}")]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What there is.
        free: ByteSize,
        /// What it may take.
        needed: ByteSize,
    },
}

/// What a person may want to know while a snapshot is being prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// There is none for this key yet.
    FirstUse {
        /// CPUs.
        vcpus: u32,
        /// Memory.
        memory: ByteSize,
    },
    /// Another process is making it.
    Waiting,
    /// The one that was there is of no use.
    Replacing {
        /// Why.
        reason: String,
    },
    /// It is made.
    Ready {
        /// In so long.
        took: Duration,
        /// Its size on disk.
        bytes: ByteSize,
    },
    /// An old one went, to stay within the budget.
    Evicted {
        /// Which.
        name: String,
        /// Its size on disk.
        bytes: ByteSize,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstUse { vcpus, memory } => {
                let cpus = if *vcpus == 1 { "CPU" } else { "CPUs" };
                write!(
                    f,
                    "first use of this size ({vcpus} {cpus}, {memory}): booting once to make a snapshot"
                )
            }
            Self::Waiting => f.write_str("another process is making this snapshot: waiting for it"),
            Self::Replacing { reason } => write!(f, "{reason}: making the snapshot anew"),
            Self::Ready { took, bytes } => {
                write!(
                    f,
                    "snapshot made in {:.1} s ({bytes}); from now on sandboxes start from it",
                    took.as_secs_f64()
                )
            }
            Self::Evicted { name, bytes } => write!(f, "removed the snapshot {name}, long unused ({bytes})"),
        }
    }
}
