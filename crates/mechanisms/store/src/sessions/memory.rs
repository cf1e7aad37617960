//! The memory of a session between two work items: that of its VM, suspended, in a folder beside its disk.
//!
//! What is in the folder is the engine's. Whether it may be used is said by the record alone, which holds the
//! *generation* that it must be of: a name that is drawn for each memory and never comes again. It is taken out of the
//! record before the memory is used, so none is used twice, and a folder that the record does not know is rubbish. The
//! memory and the disk belong together: whoever gives the disk to another VM drops the memory first.

use super::{Lease, SessionHash, Sessions, allocated};
use crate::{StoreError, error::file};
use rusqlite::params;
use std::{fs, io::ErrorKind, path::PathBuf};

impl Sessions {
    /// Where the memory of a session is, if it has one.
    pub fn memory_folder(&self, hash: &SessionHash) -> PathBuf {
        self.folder(hash).join("memory")
    }

    /// Bytes that it really occupies.
    pub fn memory_bytes(&self, hash: &SessionHash) -> u64 {
        allocated(&self.memory_folder(hash))
    }

    /// Records that the folder holds a memory of this generation, whole.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn set_memory(&self, lease: &Lease, generation: &str) -> Result<(), StoreError> {
        self.db.with("record a session's memory", |c| {
            c.execute(
                "UPDATE sessions SET memory = ?2 WHERE hash = ?1",
                params![lease.hash().as_str(), generation],
            )
            .map(drop)
        })
    }

    /// The generation of the session's memory, for its one use: from here on the record knows of none.
    ///
    /// # Errors
    /// [`StoreError::Db`].
    pub fn take_memory(&self, lease: &Lease) -> Result<Option<String>, StoreError> {
        let hash = lease.hash().as_str();
        self.db.write("take a session's memory", |tx| {
            let found = tx.query_row("SELECT memory FROM sessions WHERE hash = ?1", [hash], |r| {
                r.get(0)
            });
            let found = match found {
                Err(rusqlite::Error::QueryReturnedNoRows) => None,
                found => found?,
            };
            tx.execute("UPDATE sessions SET memory = NULL WHERE hash = ?1", [hash])?;
            Ok(found)
        })
    }

    /// Drops the session's memory, and what a killed process left of one. Says whether there was one that could have
    /// been used.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn drop_memory(&self, lease: &Lease) -> Result<bool, StoreError> {
        let had = self.take_memory(lease)?.is_some();
        let folder = lease.folder().join("memory");
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(file("remove", &folder)(e)),
            _ => Ok(had),
        }
    }
}
