//! Why the store failed. Each variant names the step and the file.

use std::{io, path::PathBuf};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither a flag nor the environment says where the data folder is.
    #[error("no data folder: set --data-dir, OMNIRUN_DATA_DIR, XDG_DATA_HOME or HOME")]
    NoPlace,
    /// A file operation.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Locks, mappings and SQLite's WAL do not hold over a network.
    #[error("{path} is on a network file system ({kind}); give a folder on a local disk with --data-dir")]
    Network {
        /// The data folder.
        path: PathBuf,
        /// Name of the file system.
        kind: String,
    },
    /// Somebody else's folder.
    #[error("{path} belongs to user id {owner}, and you are {me}; give a folder of your own with --data-dir")]
    NotOurs {
        /// The data folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// We.
        me: u32,
    },
    /// A folder full of other things.
    #[error(
        "{path} is not an OmniRun data folder and is not empty; give an empty or a new one with --data-dir"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Written by a newer release.
    #[error("{path} has version {found}, and this omnirun knows {known}; use a newer omnirun")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A small file holds what it cannot.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The database.
    #[error("the database {path} failed to {step}")]
    Db {
        /// What was being done.
        step: &'static str,
        /// Its file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
}

/// Adapts an I/O error: `.map_err(file("read", &path))`.
pub(crate) fn file<'a>(
    step: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File {
        step,
        path: path.to_owned(),
        source,
    }
}
