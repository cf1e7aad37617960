//! Suspending a sandbox to files of its user's, and going on from them.
//!
//! ```text
//!   suspend   pause, write into tmp/ -> the VM ends -> authenticate -> into the user's folder, whole
//!   resume    the user's folder into tmp/ -> verify -> restore, disk in place -> wake -> a claimed sandbox
//! ```
//!
//! Files are used once: they leave the user's folder before anything of them is looked at, and are removed whatever comes
//! of it. What a killed process leaves of them is in `tmp/` under its name, which is cleared up as all of that is. A
//! sandbox that cannot be resumed is an error like any other: its user makes a new one over the same disk.

use super::{Engine, awake, templates::CMDLINE};
use crate::{
    EngineError, Sandbox,
    owner::{Going, Order, draw_id},
    snapshot::{SnapshotError, SnapshotKey, Template},
    spec::{ClaimSpec, SandboxSpec},
};
use omnirun_ids::ByteSize;
use omnirun_vmm::AttachDisk;
use std::{fs, path::Path, sync::Arc};
use tokio::sync::oneshot;

impl Engine {
    /// Ends a claimed sandbox so that it can go on later, as it is: its memory and all that runs in it. They are then in
    /// the folder `to`, which must not be there yet, on the data folder's file system. `binding` is what the resuming one
    /// has to know: who it is for, and a generation that never comes again. `disk` is the path of its session disk. Says
    /// how many bytes it takes. Nobody else may be using the sandbox's agent.
    ///
    /// # Errors
    /// [`EngineError`]; the sandbox has ended all the same, and `to` is not there.
    pub async fn suspend(
        &self,
        sandbox: Sandbox,
        binding: &str,
        disk: &Path,
        to: &Path,
    ) -> Result<ByteSize, EngineError> {
        let (written, report) = sandbox.suspend().await;
        let written = written?;
        let going = written.folder;
        if !report.is_clean() {
            // A VMM that lives on may write to it.
            return Err(SnapshotError::Damaged {
                name: "of a suspended sandbox".to_owned(),
                what: report.to_string(),
            }
            .into());
        }
        let store = self.inner.snapshots.clone();
        let (binding, disk, to) = (binding.to_owned(), disk.to_owned(), to.to_owned());
        let sealed = tokio::task::spawn_blocking(move || {
            store.seal_suspended(&going.0, written.key, &binding, &disk, &to)
        });
        Ok(sealed.await.map_err(|_| EngineError::ShuttingDown)??)
    }

    /// Goes on with what [`Self::suspend`] has put into `from`. `claim` has its disk; whom it runs as, and where, it knows.
    /// The files are used up, also if this fails.
    ///
    /// # Errors
    /// [`EngineError`], also if they are not those of this binding, or do not fit this host any more.
    pub async fn resume(
        &self,
        spec: &SandboxSpec,
        binding: &str,
        from: &Path,
        claim: ClaimSpec,
    ) -> Result<Sandbox, EngineError> {
        let machine = spec.size.machine(self.inner.host_memory)?;
        let key = SnapshotKey::new(spec, machine, CMDLINE, self.vmm());
        let aside = self
            .data()
            .tmp()
            .join(format!("memory-{}.{}", draw_id()?, self.inner.context.owner));
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| SnapshotError::File { step, path, source }
        };
        fs::rename(from, &aside).map_err(failed("move", from))?;
        let going = Going(aside);
        let store = self.inner.snapshots.clone();
        let disk = AttachDisk {
            file: claim.disk,
            bytes: claim.disk_bytes,
        };
        let looked = {
            let (key, binding, folder) = (key.clone(), binding.to_owned(), going.0.clone());
            tokio::task::spawn_blocking(move || {
                let found = store.find_suspended(&folder, &key, &binding, &disk.file);
                found.map(|found| (found, disk))
            })
        };
        let (found, disk) = looked.await.map_err(|_| EngineError::ShuttingDown)??;
        let memory = self.inner.context.vmm.open_memory(&found.memory).await;
        let memory = memory.map_err(|source| SnapshotError::Memory {
            name: "of a suspended sandbox".to_owned(),
            source,
        })?;
        let template =
            Template::new(&found, key, spec.image.clone(), memory).map_err(failed("open", &found.state))?;
        if !found.is_still_there() {
            return Err(SnapshotError::Damaged {
                name: "of a suspended sandbox".to_owned(),
                what: "its files change while they are opened".to_owned(),
            }
            .into());
        }
        let clone = self.inner.begin_clone(spec, &Arc::new(template), Some(disk))?;
        let (ready, woken) = oneshot::channel();
        let order = Order {
            purpose: claim.purpose,
            claim: None,
            egress: claim.egress,
            ready,
        };
        let shared = clone
            .give(Box::new(order))
            .map_err(|_| EngineError::ShuttingDown)?;
        let (sandbox, _) = awake(shared, woken).await?;
        // What has it open goes on; it had to have its name for as long as it was being started.
        drop(going);
        Ok(sandbox)
    }
}
