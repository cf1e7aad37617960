//! Sessions on this host: their records, disks, leases, and the journal of their calls.
//!
//! ```text
//!   sessions/<hash>/lease      held with flock by the process that serves the session       [lease]
//!   sessions/<hash>/disk.raw   the session disk, 0600; locked by whoever has it attached    [disk]
//!   sessions/<hash>/memory/    its VM's memory, between two work items                      [memory]
//!   table sessions             what the disk is an overlay over, last use, retention        [record]
//!   table calls                started -> finished -> posted                                [journal]
//! ```
//!
//! Two locks, because they end at different moments. The **lease** belongs to a process: it says who serves the
//! session, and the kernel lets go of it when that process ends, whatever way. The **disk lock** is on the open file
//! that is handed to the VMM: both share it, so it lasts until the last of them is gone. An owner may be killed and its
//! VMM live on for a moment; the next owner gets the lease, but not the disk before that VMM is dead.
//!
//! All that changes a session asks for its [`Lease`], so that holding it is a fact that the compiler checks.

mod disk;
mod journal;
mod lease;
mod memory;
mod record;
mod removal;

pub use disk::{AttachedDisk, allocated};
pub use journal::{Admission, CallRow, CallStart, CallState, StoredResult, admit, input_digest};
pub use lease::{Holder, Lease};
pub use record::{NewSession, Seed, SessionHash, SessionRow, SessionState};
pub use removal::Removal;

use crate::{DataDir, Db, StoreError};
use std::path::PathBuf;

/// The sessions of a data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    db: Db,
    dir: DataDir,
}

/// What a recorded change has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of every process.
    #[default]
    Process,
    /// The loss of power too: each commit waits for the disk.
    Power,
}

impl Sessions {
    /// The sessions in this data folder.
    ///
    /// # Errors
    /// [`StoreError::Db`] if the connection cannot be set up.
    pub fn new(db: &Db, dir: &DataDir, durability: Durability) -> Result<Self, StoreError> {
        db.with("set up the journal", |c| {
            // A result that was dropped must not stay in free pages.
            c.pragma_update(None, "secure_delete", true)?;
            if durability == Durability::Power {
                c.pragma_update(None, "synchronous", "FULL")?;
            }
            Ok(())
        })?;
        Ok(Self {
            db: db.clone(),
            dir: dir.clone(),
        })
    }

    /// The folder of a session.
    pub fn folder(&self, hash: &SessionHash) -> PathBuf {
        self.dir.sessions().join(hash.as_str())
    }
}

#[cfg(test)]
mod tests;
