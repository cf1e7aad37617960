//! The cold boot that makes a snapshot.

use super::{SnapshotError, SnapshotKey, SnapshotStore, store::Found};
use crate::{
    EngineError,
    owner::{Context, Owned, Stop, bounded, connect, draw_id, vmm_error},
    spec::SandboxSpec,
    teardown::TeardownReport,
};
use omnirun_vm_machine::{Event, Kind, Why};
use omnirun_vmm::{BootSpec, DeviceState, MachineSize};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// From power-on to the agent's first answer. Seconds; under emulation on a loaded machine a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Running shell, git and python once.
const WARM_LIMIT: Duration = Duration::from_secs(180);

/// For the guest to notice the end of the connection and to come to rest. There is no event for it.
const SETTLE: Duration = Duration::from_millis(250);

/// The owner task of a cold boot.
struct BootTask {
    owned: Owned,
    spec: SandboxSpec,
    machine: MachineSize,
    cmdline: String,
    key: SnapshotKey,
    store: SnapshotStore,
    done: oneshot::Sender<Result<Found, EngineError>>,
}

/// What is needed to start one.
pub(crate) struct Boot {
    pub(crate) spec: SandboxSpec,
    pub(crate) machine: MachineSize,
    pub(crate) cmdline: String,
    pub(crate) key: SnapshotKey,
}

/// The boot's owner task, to be spawned; where its end can be asked for; and where the snapshot will be told.
pub(crate) struct Started {
    pub(crate) id: omnirun_ids::SandboxId,
    pub(crate) task: futures::future::BoxFuture<'static, TeardownReport>,
    pub(crate) end: watch::Sender<Option<Why>>,
    pub(crate) done: oneshot::Receiver<Result<Found, EngineError>>,
}

/// Prepares the boot that makes a snapshot. The caller holds the snapshot's lock.
pub(crate) fn make(
    context: &Arc<Context>,
    store: &SnapshotStore,
    boot: Boot,
) -> Result<Started, EngineError> {
    let id = draw_id()?;
    let (owned, ends) = Owned::new(context.clone(), id.clone(), Kind::Boot);
    let (done, done_rx) = oneshot::channel();
    let Boot {
        spec,
        machine,
        cmdline,
        key,
    } = boot;
    let task = BootTask {
        owned,
        spec,
        machine,
        cmdline,
        key,
        store: store.clone(),
        done,
    };
    Ok(Started {
        id,
        task: Box::pin(task.run()),
        end: ends.end,
        done: done_rx,
    })
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
        let report = self.owned.teardown(why).await;
        let _ = self.done.send(answer);
        report
    }

    async fn boot(&mut self) -> Result<PathBuf, Stop> {
        let id = self.owned.identity.sandbox.clone();
        let fail = |error: EngineError| Stop {
            why: Why::Failed {
                step: "start",
                reason: crate::error::chain(&error),
            },
            error,
        };
        self.owned
            .record(&format!("snapshot for {}", self.spec.purpose))
            .map_err(fail)?;
        // Beside the sockets of the VM: whoever clears up after us removes a half-made snapshot with them.
        let made = self.owned.identity.run_dir.join("snapshot");
        make_folder(&made).map_err(|e| fail(e.into()))?;

        let image = &self.spec.image;
        let boot = BootSpec {
            identity: self.owned.identity.clone(),
            kernel: image.kernel.clone(),
            vmlinux: image.vmlinux.clone(),
            initramfs: image.initramfs.clone(),
            cmdline: self.cmdline.clone(),
            base: image.base.clone(),
            size: self.machine,
        };
        let vmm = self.owned.context.vmm.clone();
        let vm = self
            .owned
            .step(async {
                vmm.start(boot)
                    .await
                    .map_err(|source| vmm_error(&id, "start", source))
            })
            .await?;
        let vm = self.owned.set_vm(vm);
        self.owned.apply(Event::Started);

        let to = DeviceState {
            memory: made.join("memory"),
            state: made.join("state"),
        };
        self.owned
            .step(async {
                let stream = vm
                    .channel()
                    .await
                    .map_err(|source| vmm_error(&id, "open the channel", source))?;
                let guest = connect(&id, stream, BOOT_LIMIT).await?;
                bounded(&id, "warm up", WARM_LIMIT, guest.warm()).await?;
                // A clone finds no open connection of ours in its memory.
                drop(guest);
                // Nor does it have to deal with the end of it: the guest does that, and comes to rest, before.
                tokio::time::sleep(SETTLE).await;
                vm.pause()
                    .await
                    .map_err(|source| vmm_error(&id, "pause", source))?;
                vm.snapshot(&to)
                    .await
                    .map_err(|source| vmm_error(&id, "snapshot", source))
            })
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
