//! From a paused machine to files.
//!
//! Firecracker writes into its jail, every page whether it is zero or not. The owner copies what is not zero into files
//! of its own: they are sparse, and no process that a guest may have taken over still has one of them open.
//!
//! A machine that goes on after a pause needs a snapshot as well, one that comes to nothing. Before it saves anything
//! Firecracker orders the guest to reset its vsock, and after every resume it sends the guest nothing until that order is
//! acknowledged. Without an order it would wait for ever, and the channel would be dead (1.16.1; firecracker#6100).
//!
//! A clone that counts what it writes is given a copy of what its memory was, and writes into that only what has changed
//! since ("diff" to Firecracker). The copy is of what is not zero, so it costs by what the guest has ever used; of all its
//! memory that is mostly a small part. It counts from its last snapshot on, so a second one is of everything again.

use super::Machine;
use crate::{
    DeviceState, VmmError,
    firecracker::api::{ApiError, Snapshot},
    memory,
};
use rustix::fs::{fstat, fsync};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// Names in the jail, for as long as it takes.
const MEMORY: &str = "snapshot.memory";
const STATE: &str = "snapshot.state";
/// Device states are tens of kilobytes.
const MAX_STATE: u64 = 16 << 20;

impl Machine {
    /// See [`Vm::snapshot`](crate::Vm::snapshot).
    pub(super) async fn save(&self, to: &DeviceState) -> Result<(), VmmError> {
        let step = "snapshot";
        let theirs = [self.jail.writable(MEMORY, 0)?, self.jail.writable(STATE, 0)?];
        let bytes = self.size.memory_mib << 20;
        let base = self.base.lock().unwrap_or_else(|e| e.into_inner()).take();
        let snapshot_type = if base.is_some() { "Diff" } else { "Full" };
        if let Some(base) = base {
            let failed = |source| VmmError::Io { step, source };
            let to = theirs[0].try_clone().map_err(failed)?;
            let copied = tokio::task::spawn_blocking(move || memory::save(&base, &to)).await;
            copied
                .unwrap_or_else(|e| Err(io::Error::other(e)))
                .map_err(failed)?;
        }
        let snapshot = Snapshot {
            snapshot_type,
            snapshot_path: &format!("/{STATE}"),
            mem_file_path: &format!("/{MEMORY}"),
        };
        // A clone may write what its session disk takes, and no more; now it writes its memory.
        let limit = match self.may_limit {
            true => self
                .process
                .limit_file_size(bytes + MAX_STATE)
                .map_err(|source| VmmError::Io { step, source })?,
            false => None,
        };
        let taken = self.api.create_snapshot(&snapshot).await;
        if let Some(limit) = limit {
            // One that has ended has none; what it was asked for says so.
            let _ = self.process.limit_file_size(limit);
        }
        // Their bytes live on in our descriptors.
        let removed = self.jail.remove(MEMORY).and(self.jail.remove(STATE));
        self.asked(step, taken).await?;
        self.reset_was_ordered();
        removed?;
        let [their_memory, their_state] = theirs;
        for (file, good) in [(&their_memory, bytes..=bytes), (&their_state, 1..=MAX_STATE)] {
            let stat = fstat(file).map_err(|e| VmmError::Io {
                step,
                source: e.into(),
            })?;
            if !good.contains(&stat.st_size.unsigned_abs()) {
                let source = io::Error::other(format!("a file of it has {} bytes", stat.st_size));
                return Err(VmmError::Io { step, source });
            }
        }
        let copies = [(their_memory, to.memory.clone()), (their_state, to.state.clone())];
        let copied = tokio::task::spawn_blocking(move || copies.into_iter().try_for_each(copy));
        copied.await.unwrap_or_else(|e| {
            Err(VmmError::Io {
                step,
                source: io::Error::other(e),
            })
        })
    }

    fn reset_was_ordered(&self) {
        self.unsaved.store(false, Ordering::Relaxed);
        self.end_connection();
    }

    /// Has the guest of a paused machine ordered to reset its vsock, which is what a snapshot begins with. There is no
    /// place for it to go to, so it ends there.
    pub(super) async fn order_reset(&self) -> Result<(), VmmError> {
        let nowhere = Snapshot {
            snapshot_type: "Full",
            snapshot_path: "/nowhere/state",
            mem_file_path: "/nowhere/memory",
        };
        match self.api.create_snapshot(&nowhere).await {
            Err(ApiError::Fault(_)) => Ok(()),
            answer => self.asked("resetting the channel", answer).await,
        }?;
        self.reset_was_ordered();
        Ok(())
    }
}

fn copy((from, path): (OwnedFd, PathBuf)) -> Result<(), VmmError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| VmmError::File { step, path, source }
    };
    let file = memory::create(&path)?;
    memory::save(&from, &file).map_err(failed("write", &path))?;
    fsync(&file)
        .map_err(io::Error::from)
        .map_err(failed("fsync", &path))
}
