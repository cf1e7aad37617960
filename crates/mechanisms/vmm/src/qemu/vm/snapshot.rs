//! From a paused machine to files.

use super::{COMMAND, Machine};
use crate::{
    DeviceState, VmmError, memory,
    qemu::qmp::commands::{GetFd, MIGRATION_CAPABILITIES, Migrate, SetCapabilities, SetParameters},
};
use std::{io, path::Path};

impl Machine {
    /// Writes device state, then memory; see [`Vm::snapshot`](crate::Vm::snapshot).
    pub(super) async fn save(&self, to: &DeviceState) -> Result<(), VmmError> {
        let Some(memory) = self.memory.clone() else {
            let reason =
                "a clone's memory is private to its process; only a machine that was booted can be snapshot"
                    .into();
            return Err(VmmError::Refused {
                step: "snapshot",
                reason,
            });
        };
        let state = memory::create(&to.state)?;
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
        self.migrated("saving the device state", ended).await?;

        let (memory_path, state_path) = (to.memory.clone(), to.state.clone());
        let saved = tokio::task::spawn_blocking(move || {
            let file = memory::create(&memory_path)?;
            let failed = |step, path: &Path| {
                let path = path.to_owned();
                move |source| VmmError::File { step, path, source }
            };
            memory::save(&memory, &file).map_err(failed("write", &memory_path))?;
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
}
