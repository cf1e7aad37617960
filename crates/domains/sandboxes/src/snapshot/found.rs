//! What a look for a snapshot brings.

use super::record::FileRecord;
use omnirun_ids::Digest;
use std::path::PathBuf;

/// A snapshot that has been found good, its files still to be opened.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) memory: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) created_ms: i64,
    pub(super) records: [FileRecord; 2],
}

impl Found {
    /// Whether its files are still those that were found good. To be asked once they are open: then what was opened is
    /// good.
    pub(crate) fn is_still_there(&self) -> bool {
        let files = [&self.memory, &self.state].into_iter().zip(&self.records);
        files
            .into_iter()
            .all(|(path, record)| record.looks_like(path).unwrap_or(false))
    }
}

/// What a look for a snapshot brought.
#[derive(Debug)]
pub(crate) enum Lookup {
    Good(Found),
    Missing,
    /// There is one, and it is of no use.
    Useless {
        reason: String,
    },
}
