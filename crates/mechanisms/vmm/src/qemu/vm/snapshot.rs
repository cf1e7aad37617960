//! From a paused machine to files.
//!
//! The memory of a machine that was booted is a file of its owner's, who copies it. A clone's is private to its process,
//! which writes it itself, into the stream of its devices' state: each page that is not zero, whether the clone has
//! written to it or not. QEMU has no way to tell it from which file a page could be had again.

use super::{COMMAND, Machine};
use crate::{
    DeviceState, VmmError, memory,
    qemu::qmp::commands::{GetFd, MIGRATION_CAPABILITIES, Migrate, SetCapabilities, SetParameters},
};
use std::{io, os::fd::OwnedFd, path::Path};

/// What a stream has beside the guest's memory: a header for each page, and the devices.
const STREAM: u64 = 64 << 20;

impl Machine {
    /// Writes device state, then memory; see [`Vm::snapshot`](crate::Vm::snapshot).
    pub(super) async fn save(&self, to: &DeviceState) -> Result<(), VmmError> {
        let bytes = self.size.memory_mib << 20;
        let state = memory::create(&to.state)?;
        let limit = match self.memory {
            Some(_) => None,
            // A clone may write what its session disk takes, and no more; now it writes its memory. Where that cannot be
            // changed, nothing was limited either.
            None => self.process.limit_file_size(bytes + STREAM).ok().flatten(),
        };
        let moved = self.migrate(&state, to).await;
        if let Some(limit) = limit {
            // One that has ended has none; what it was asked for says so.
            let _ = self.process.limit_file_size(limit);
        }
        moved?;

        let (memory, memory_path, state_path) = (self.memory.clone(), to.memory.clone(), to.state.clone());
        let saved = tokio::task::spawn_blocking(move || {
            let file = memory::create(&memory_path)?;
            let failed = |step, path: &Path| {
                let path = path.to_owned();
                move |source| VmmError::File { step, path, source }
            };
            match memory {
                Some(memory) => memory::save(&memory, &file),
                None => rustix::fs::ftruncate(&file, bytes).map_err(io::Error::from),
            }
            .map_err(failed("write", &memory_path))?;
            rustix::fs::fsync(&file)
                .map_err(io::Error::from)
                .map_err(failed("fsync", &memory_path))?;
            rustix::fs::fsync(&state)
                .map_err(io::Error::from)
                .map_err(failed("fsync", &state_path))
        });
        saved.await.unwrap_or_else(|e| {
            Err(VmmError::Io {
                step: "writing the memory file",
                source: io::Error::other(e),
            })
        })
    }

    /// Has the process write the state of its devices, and memory that is its own.
    async fn migrate(&self, state: &OwnedFd, to: &DeviceState) -> Result<(), VmmError> {
        let theirs = state.try_clone().map_err(|source| VmmError::File {
            step: "open",
            path: to.state.clone(),
            source,
        })?;
        let ended = self.control.expect_migration();
        let (bandwidth, downtime) = (1 << 40, 60_000);
        let capabilities = self.control.submit(&SetCapabilities {
            capabilities: MIGRATION_CAPABILITIES,
        });
        let parameters = self.control.submit(&SetParameters {
            max_bandwidth: bandwidth,
            downtime_limit: downtime,
        });
        let fd = self.control.submit_fd(&GetFd { fdname: "state" }, Some(theirs));
        let migrate = self.control.submit(&Migrate {
            uri: "fd:state".into(),
        });
        self.asked("migrate-set-capabilities", capabilities.within(COMMAND).await)
            .await?;
        self.asked("migrate-set-parameters", parameters.within(COMMAND).await)
            .await?;
        self.asked("getfd", fd.within(COMMAND).await).await?;
        self.asked("migrate", migrate.within(COMMAND).await).await?;
        self.migrated("saving the device state", ended).await
    }
}
