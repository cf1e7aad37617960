//! The snapshots of this process: found or made, opened once, replaced when they are old or bad.

use super::{EndOnDrop, Inner};
use crate::{
    EngineError,
    owner::{ColdBoot, Started, trial},
    snapshot::{self, Notice, SnapshotError, SnapshotKey, Template},
    spec::{SandboxSize, SandboxSpec},
};
use omnirun_ids::{ByteSize, Digest};
use omnirun_vmm::MachineSize;
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

/// How often a process looks whether the other one has made the snapshot.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How often a snapshot is opened that changes or goes meanwhile.
const OPENINGS: usize = 3;
/// Appended to the driver's own kernel command line.
pub(super) const CMDLINE: &str = "";

impl Inner {
    pub(crate) async fn prepare(&self, spec: &SandboxSpec) -> Result<Arc<Template>, EngineError> {
        let machine = spec.size.machine(self.host_memory)?;
        let key = SnapshotKey::new(spec, machine, CMDLINE, self.context.vmm.facts());
        let digest = key.digest();
        loop {
            let cell = {
                let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
                templates.entry(digest.clone()).or_default().clone()
            };
            // Whoever comes first does it; the others of this process wait for him.
            let template = cell
                .get_or_try_init(|| self.open_template(spec, machine, &key))
                .await?;
            if !self.snapshots.too_old(template.created_ms) {
                return Ok(template.clone());
            }
            self.forget_template(&digest, template);
        }
    }

    pub(super) fn ready_size(&self, spec: &SandboxSpec) -> Result<Option<SandboxSize>, EngineError> {
        let machine = spec.size.machine(self.host_memory)?;
        let key = SnapshotKey::new(spec, machine, CMDLINE, self.context.vmm.facts());
        let found = self.snapshots.ready_size(&key)?;
        Ok(found.map(|machine| SandboxSize {
            vcpus: machine.vcpus,
            memory: ByteSize::mib(machine.memory_mib),
        }))
    }

    /// Whether this is still what [`Self::prepare`] would give for its key.
    pub(crate) fn is_current(&self, template: &Arc<Template>) -> bool {
        let templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let known = templates.get(&template.digest).and_then(|cell| cell.get());
        known.is_some_and(|t| Arc::ptr_eq(t, template)) && !self.snapshots.too_old(template.created_ms)
    }

    /// The next use looks at the files anew.
    fn forget_template(&self, digest: &Digest, template: &Arc<Template>) {
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let same = templates
            .get(digest)
            .and_then(|cell| cell.get())
            .is_some_and(|t| Arc::ptr_eq(t, template));
        if same {
            templates.remove(digest);
        }
    }

    async fn open_template(
        &self,
        spec: &SandboxSpec,
        machine: MachineSize,
        key: &SnapshotKey,
    ) -> Result<Arc<Template>, EngineError> {
        for _ in 0..OPENINGS {
            let found = self.find_or_make(spec, machine, key).await?;
            self.snapshots.touch(&found.digest);
            let name = found.digest.short().to_owned();
            let memory = self.context.vmm.open_memory(&found.memory).await;
            let memory = memory.map_err(|source| SnapshotError::Memory { name, source })?;
            let template = Template::new(&found, key.clone(), spec.image.clone(), memory);
            // It may have been evicted meanwhile, or worse. What was opened is what was found good, or is not used.
            if found.is_still_there() {
                return template.map(Arc::new).map_err(|source| {
                    SnapshotError::File {
                        step: "open",
                        path: found.state.clone(),
                        source,
                    }
                    .into()
                });
            }
        }
        Err(SnapshotError::Damaged {
            name: key.digest().short().to_owned(),
            what: "its files change while they are opened".to_owned(),
        }
        .into())
    }

    async fn find_or_make(
        &self,
        spec: &SandboxSpec,
        machine: MachineSize,
        key: &SnapshotKey,
    ) -> Result<snapshot::Found, EngineError> {
        let mut useless = match self.look(key, false).await? {
            snapshot::Lookup::Good(found) => return Ok(found),
            snapshot::Lookup::Missing => None,
            snapshot::Lookup::Useless { reason } => Some(reason),
        };
        let digest = key.digest();
        let mut told = false;
        let _lock = loop {
            if let Some(lock) = self.snapshots.try_lock(&digest)? {
                break lock;
            }
            if !told {
                (self.say)(Notice::Waiting);
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        };
        // Whoever had the lock may have made it.
        match self.look(key, false).await? {
            snapshot::Lookup::Good(found) => return Ok(found),
            snapshot::Lookup::Missing => useless = useless.filter(|_| false),
            snapshot::Lookup::Useless { reason } => useless = Some(reason),
        }
        let memory = ByteSize::mib(machine.memory_mib);
        self.snapshots.check_space(memory)?;
        match useless {
            Some(reason) => {
                (self.say)(Notice::Replacing { reason });
                self.snapshots.remove(&digest)?;
            }
            None => (self.say)(Notice::FirstUse {
                vcpus: machine.vcpus,
                memory,
            }),
        }
        let begun = Instant::now();
        let found = self.make(spec, machine, key).await?;
        let all = self.snapshots.list()?;
        let bytes = all
            .iter()
            .find(|s| s.name == digest.as_str())
            .map_or(ByteSize(0), |s| s.bytes);
        (self.say)(Notice::Ready {
            took: begun.elapsed(),
            bytes,
        });
        for notice in self.snapshots.evict(&digest)? {
            (self.say)(notice);
        }
        Ok(found)
    }

    /// Looking may read files whole.
    async fn look(&self, key: &SnapshotKey, thorough: bool) -> Result<snapshot::Lookup, EngineError> {
        let (store, key) = (self.snapshots.clone(), key.clone());
        match tokio::task::spawn_blocking(move || store.look(&key, thorough)).await {
            Ok(found) => Ok(found?),
            Err(_) => Err(EngineError::ShuttingDown),
        }
    }

    async fn make(
        &self,
        spec: &SandboxSpec,
        machine: MachineSize,
        key: &SnapshotKey,
    ) -> Result<snapshot::Found, EngineError> {
        let cold = ColdBoot::new(&self.context, spec.clone(), machine, CMDLINE)?;
        let started = snapshot::make(&self.snapshots, cold, &spec.purpose, key);
        self.booted(started).await.map_err(|source| match source {
            EngineError::Snapshot(_) | EngineError::Store(_) | EngineError::ShuttingDown => source,
            source => SnapshotError::Boot {
                source: Box::new(source),
            }
            .into(),
        })
    }

    /// Boots a machine, sees its agent answer, and ends it.
    pub(super) async fn try_boot(&self, spec: &SandboxSpec) -> Result<Duration, EngineError> {
        let machine = spec.size.machine(self.host_memory)?;
        let begun = Instant::now();
        let (cold, ends) = ColdBoot::new(&self.context, spec.clone(), machine, CMDLINE)?;
        self.booted(trial(cold, ends)).await?;
        Ok(begun.elapsed())
    }

    /// Runs a boot's task and waits for what comes of it.
    async fn booted<T>(&self, started: Started<T>) -> Result<T, EngineError> {
        self.registry.spawn(&started.id, &started.end, started.task)?;
        // If we are dropped while we wait, the boot is of no use to anybody.
        let guard = EndOnDrop(Some(started.end));
        let made = started.done.await.unwrap_or(Err(EngineError::ShuttingDown));
        guard.disarm();
        made
    }

    /// A clone of a snapshot could not be started. The snapshot may have rotted in a way that inode, size and ctime do
    /// not show, so it is read whole. Or it is whole, and the VMM `refused` to load it: then it fits this host no more,
    /// for a reason that its key does not know. In both cases the next use makes another.
    pub(super) async fn suspect(&self, template: &Arc<Template>, refused: bool) {
        let reason = match self.look(&template.key, true).await {
            Ok(snapshot::Lookup::Useless { reason }) => reason,
            // Another has been made meanwhile: that one has not been tried.
            Ok(snapshot::Lookup::Good(found)) if found.created_ms != template.created_ms => {
                return self.forget_template(&template.digest, template);
            }
            Ok(snapshot::Lookup::Good(_)) if refused => "the VMM does not take it".to_owned(),
            _ => return,
        };
        tracing::warn!(%reason, "the snapshot will be made anew");
        if let Ok(Some(_lock)) = self.snapshots.try_lock(&template.digest) {
            let _ = self.snapshots.remove(&template.digest);
        }
        self.forget_template(&template.digest, template);
    }
}
