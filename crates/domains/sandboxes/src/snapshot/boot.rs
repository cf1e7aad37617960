//! The cold boot that makes a snapshot.

use super::{Found, SnapshotError, SnapshotKey, SnapshotStore};
use crate::{
    EngineError,
    owner::{ColdBoot, Ends, Started, Stop, failed, save},
    teardown::TeardownReport,
};
use omnirun_vm_machine::Why;
use omnirun_vmm::DeviceState;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use tokio::sync::oneshot;

/// The owner task of a cold boot.
struct BootTask {
    cold: ColdBoot,
    purpose: String,
    key: SnapshotKey,
    store: SnapshotStore,
    done: oneshot::Sender<Result<Found, EngineError>>,
}

/// Prepares the boot that makes a snapshot. The caller holds the snapshot's lock.
pub(crate) fn make(
    store: &SnapshotStore,
    (cold, ends): (ColdBoot, Ends),
    purpose: &str,
    key: &SnapshotKey,
) -> Started<Found> {
    let (done, done_rx) = oneshot::channel();
    let id = cold.owned.identity.sandbox.clone();
    let task = BootTask {
        cold,
        purpose: purpose.to_owned(),
        key: key.clone(),
        store: store.clone(),
        done,
    };
    Started {
        id,
        task: Box::pin(task.run()),
        end: ends.end,
        done: done_rx,
    }
}

impl BootTask {
    async fn run(mut self) -> TeardownReport {
        let (why, answer) = match self.boot().await {
            Ok(made) => {
                // The VM has no further use; its memory is on the disk. Reading it for its digest takes a while.
                let (store, key) = (self.store.clone(), self.key.clone());
                let published = tokio::task::spawn_blocking(move || store.publish(&key, &made)).await;
                match published {
                    Ok(Ok(found)) => (Why::Snapshotted, Ok(found)),
                    Ok(Err(error)) => (
                        Why::Failed {
                            step: "publish",
                            reason: error.to_string(),
                        },
                        Err(error.into()),
                    ),
                    Err(panic) => {
                        let reason = panic.to_string();
                        (
                            Why::Failed {
                                step: "publish",
                                reason,
                            },
                            Err(EngineError::ShuttingDown),
                        )
                    }
                }
            }
            Err(stop) => (stop.why, Err(stop.error)),
        };
        let report = self.cold.owned.teardown(why).await;
        let _ = self.done.send(answer);
        report
    }

    async fn boot(&mut self) -> Result<PathBuf, Stop> {
        let purpose = format!("snapshot for {}", self.purpose);
        let (vm, guest) = self.cold.answer(&purpose).await?;
        self.cold.warm(&guest).await?;
        // Beside the sockets of the VM: whoever clears up after us removes a half-made snapshot with them.
        let made = self.cold.owned.identity.run_dir.join("snapshot");
        make_folder(&made).map_err(|e| failed(e.into()))?;
        let id = self.cold.owned.identity.sandbox.clone();
        let to = DeviceState {
            memory: made.join("memory"),
            state: made.join("state"),
        };
        self.cold
            .owned
            .step(save(&id, &*vm, guest, &to, "snapshot"))
            .await?;
        Ok(made)
    }
}

fn make_folder(path: &Path) -> Result<(), SnapshotError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|source| SnapshotError::File {
            step: "create",
            path: path.to_owned(),
            source,
        })
}
