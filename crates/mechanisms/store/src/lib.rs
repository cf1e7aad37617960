//! What several `omnirun` processes share: one data folder, one database, and the word of who lives.
//!
//! ```text
//!   <data folder>  0700, on a local file system
//!     layout            version of this layout
//!     state.db          SQLite (WAL): VM rows, sessions, call journal       [db]
//!     snapshot.key      0600, authenticates snapshots
//!     images/           immutable, named by digest
//!     snapshots/        immutable, named by key
//!     sessions/         session disks
//!     owners/<id>.lock  held with flock for the life of an owner            [owner]
//!     run/<sandbox>/    sockets and logs of one VM
//!     audit/            what left sandboxes, one file for each session      [audit]
//!     tmp/              work in progress; whoever works there holds a lock
//!     **/*.new          a file that is being written, locked by its writer  [atomic]
//! ```
//!
//! A process that wants VMs is an [`Owner`]. It writes a [`VmRow`] before it starts a VMM and removes it when the
//! teardown has checked that nothing is left. So whatever a killed owner left can be found: by its rows, and by its
//! lock, which the kernel lets go of whatever way a process ends. A pid would say less: pids come back.
//!
//! All writes are durable against the death of every process at their return (WAL, `synchronous=NORMAL`); the loss of
//! power may cost the last ones, never the database's consistency.

mod atomic;
mod audit;
mod data_dir;
mod db;
mod error;
mod owner;
pub mod sessions;
mod vms;

pub use atomic::{FileLock, Unfinished, sync_dir, write_atomic};
pub use audit::AuditLog;
pub use data_dir::DataDir;
pub use db::Db;
pub use error::StoreError;
pub use owner::{DeadOwner, Owner, OwnerId, OwnerInfo, dead_owners, living_owners};
pub use vms::{VmKind, VmRow, VmState, Vms};

/// Re-exported so that users of [`Db::with`] speak of the same SQLite.
pub use rusqlite;

/// Milliseconds since the Unix epoch, as all tables have them.
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
