//! The engine: what one process needs to own VMs.

mod memory;
mod suspend;
mod templates;

use crate::{
    EngineError, Network,
    owner::{Claim, CloneTask, Context, Order, RESTORE, Registry, Woken, ask_end, draw_id},
    pool::{Pool, PoolHandle},
    sandbox::{Begun, First, Sandbox, Shared},
    snapshot::{Notice, SnapshotInfo, SnapshotLimits, SnapshotStore, Template},
    spec::{ClaimSpec, SandboxSize, SandboxSpec},
    takeover::{TakeoverReport, take_over},
    teardown::TeardownReport,
    waiting::Waiting,
};
use futures::future::BoxFuture;
use memory::HostMemory;
use omnirun_guest_client::message::Claimed;
use omnirun_ids::{ByteSize, Digest};
use omnirun_store::{DataDir, Db, Owner, OwnerId, Vms};
use omnirun_vm_machine::Why;
use omnirun_vmm::{AttachDisk, Vmm, VmmError, VmmFacts};
use std::{
    collections::HashMap,
    fs::{self, File},
    future::Future,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OnceCell, oneshot};

/// Who hears of what takes long.
pub type Say = Arc<dyn Fn(Notice) + Send + Sync>;

/// What an engine is made of.
pub struct EngineConfig {
    /// The data folder.
    pub data: DataDir,
    /// Its database.
    pub db: Db,
    /// The VMM driver.
    pub vmm: Arc<dyn Vmm>,
    /// What this process is, for people: `omnirun worker`.
    pub command: String,
    /// Memory for spare clones; none: a quarter of what is free now.
    pub pool_memory: Option<ByteSize>,
    /// Where cards lead; none: no sandbox has one.
    pub network: Option<Arc<dyn Network>>,
    /// How much of snapshots is kept.
    pub snapshots: SnapshotLimits,
    /// Who hears of what takes long.
    pub say: Say,
}

/// Owns this process's VMs.
pub struct Engine {
    inner: Arc<Inner>,
    owner: Mutex<Option<Owner>>,
    takeover: TakeoverReport,
}

/// What handles need of the engine.
pub(crate) struct Inner {
    context: Arc<Context>,
    db: Db,
    pub(crate) registry: Registry,
    pub(crate) pool: Pool,
    snapshots: SnapshotStore,
    templates: Mutex<HashMap<Digest, Arc<OnceCell<Arc<Template>>>>>,
    host_memory: ByteSize,
    say: Say,
}

impl Engine {
    /// Makes this process an owner of VMs, and clears up after owners that died.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let EngineConfig {
            data,
            db,
            vmm,
            command,
            pool_memory,
            network,
            snapshots,
            say,
        } = config;
        let takeover = take_over(&data, &db, &*vmm).await?;
        let owner = Owner::register(&data, &command)?;
        let memory = HostMemory::read();
        let context = Context {
            vms: Vms::new(&db),
            vmm,
            owner: owner.id().clone(),
            data: data.clone(),
            network,
        };
        let inner = Inner {
            context: Arc::new(context),
            db,
            registry: Registry::default(),
            pool: Pool::new(pool_memory.unwrap_or(ByteSize(memory.available.0 / 4))),
            snapshots: SnapshotStore::open(&data, owner.id(), snapshots)?,
            templates: Mutex::new(HashMap::new()),
            host_memory: memory.total,
            say,
        };
        Ok(Arc::new(Self {
            inner: Arc::new(inner),
            owner: Mutex::new(Some(owner)),
            takeover,
        }))
    }

    /// What the opening found of dead owners.
    pub fn takeover(&self) -> &TakeoverReport {
        &self.takeover
    }

    /// Clears up after owners that have died since.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn take_over(&self) -> Result<TakeoverReport, EngineError> {
        take_over(&self.inner.context.data, &self.inner.db, &*self.inner.context.vmm).await
    }

    /// The data folder.
    pub fn data(&self) -> &DataDir {
        &self.inner.context.data
    }

    /// Its database.
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// What the VMM is.
    pub fn vmm(&self) -> &VmmFacts {
        self.inner.context.vmm.facts()
    }

    /// Who this process is as an owner. What has this name as its extension in `tmp/` is removed when it has died.
    pub fn owner(&self) -> &OwnerId {
        &self.inner.context.owner
    }

    /// How many VMs this process owns, spares included.
    pub fn vms(&self) -> usize {
        self.inner.registry.len()
    }

    /// How many spares there are or will be.
    pub fn spares(&self) -> usize {
        self.inner.pool.held()
    }

    /// All snapshots, the longest unused first.
    ///
    /// # Errors
    /// [`EngineError::Snapshot`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, EngineError> {
        Ok(self.inner.snapshots.list()?)
    }

    /// Makes sure that the snapshot for such a sandbox is there and open.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn prepare(&self, spec: &SandboxSpec) -> Result<Arc<Template>, EngineError> {
        self.inner.prepare(spec).await
    }

    /// A size for which there is a snapshot already that is like this sandbox's in all else; the last used. For work that
    /// needs a sandbox of any size. Reads files.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn ready_size(&self, spec: &SandboxSpec) -> Result<Option<SandboxSize>, EngineError> {
        self.inner.ready_size(spec)
    }

    /// Boots a machine of this kind until its agent answers and has run a shell, and ends it: whether this VMM, this
    /// image and this host work together. No snapshot is made. Says how long it took.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn try_boot(&self, spec: &SandboxSpec) -> Result<Duration, EngineError> {
        self.inner.try_boot(spec).await
    }

    /// A new sandbox, awake and not claimed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn create(&self, spec: SandboxSpec) -> Result<Sandbox, EngineError> {
        let template = self.inner.prepare(&spec).await?;
        Ok(self.inner.clone_of(&spec, &template, None).await?.0)
    }

    /// A new sandbox, claimed, with its first call on its way. The claim is prepared while the VMM starts, and the
    /// requests of wake, claim and first call travel together: the fastest way to a first exec.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn create_claimed(
        &self,
        spec: SandboxSpec,
        claim: impl Future<Output = Result<ClaimSpec, EngineError>> + Send + 'static,
        first: First,
    ) -> Result<(Sandbox, Claimed, Begun), EngineError> {
        let template = self.inner.prepare(&spec).await?;
        let claim = Claim {
            spec: Box::pin(claim),
            first,
        };
        match self.inner.clone_of(&spec, &template, Some(claim)).await? {
            (sandbox, Some((claimed, begun))) => Ok((sandbox, claimed, begun)),
            (sandbox, None) => {
                debug_assert!(false, "a clone with a claim was not claimed");
                Err(EngineError::Ended {
                    sandbox: sandbox.id().clone(),
                    why: Why::Released,
                    console: omnirun_redact::Guest::default(),
                })
            }
        }
    }

    /// Access to the pool for one user, for as long as it is held.
    pub fn pool(&self, spec: SandboxSpec) -> Arc<PoolHandle> {
        PoolHandle::new(self.inner.clone(), spec)
    }

    /// Ends every VM of this process, waits, and reports. Nothing new begins afterwards. Idempotent.
    pub async fn shutdown(&self) -> Vec<TeardownReport> {
        self.inner.pool.clear();
        let reports = self.inner.registry.shutdown().await;
        // Spares that arrived meanwhile have been ended with the rest.
        self.inner.pool.clear();
        if let Some(network) = &self.inner.context.network {
            for left in network.shutdown().await {
                tracing::warn!("still there: {left}; the next omnirun command removes it");
            }
        }
        self.leave();
        reports
    }

    /// A new disk of nobody's, a copy of an empty one, without a name: it is gone with its last descriptor.
    ///
    /// # Errors
    /// [`EngineError::Disk`].
    pub async fn scratch_disk(&self, template: PathBuf) -> Result<(OwnedFd, u64), EngineError> {
        // If we are killed while it has a name, the takeover finds it by ours.
        let path = self
            .data()
            .tmp()
            .join(format!("disk-{}.{}", draw_id()?, self.inner.context.owner));
        let copied = tokio::task::spawn_blocking(move || {
            let fail = |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Disk {
                path: path.clone(),
                source,
            };
            let file = nameless(&path).map_err(|e| fail(e.into()))?;
            omnirun_images::copy_sparse_into(&template, &file, &path).map_err(|e| fail(e.into()))?;
            let bytes = file.metadata().map_err(|e| fail(e.into()))?.len();
            Ok((OwnedFd::from(file), bytes))
        });
        copied.await.unwrap_or(Err(EngineError::ShuttingDown))
    }

    /// Stops being an owner.
    fn leave(&self) {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(owner) = owner {
            let left = self.inner.context.vms.of_owner(owner.id());
            if left.map_or(true, |rows| !rows.is_empty()) {
                // Its file stays, unlocked: the next process takes over what is left.
                owner.abandon();
            }
        }
    }

    /// Makes a snapshot so much older.
    #[cfg(test)]
    pub(crate) fn age(&self, template: &Template, by: Duration) {
        self.inner.snapshots.age(template.digest(), by).expect("aged");
    }

    /// Lets go of the owner's lock, as the kernel does when a process is killed.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        self.leave();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Inner {
    /// Starts the owner task of a clone that waits to be told what to become. `disk`: the one of a sandbox that goes on.
    pub(crate) fn begin_clone(
        &self,
        spec: &SandboxSpec,
        template: &Arc<Template>,
        disk: Option<AttachDisk>,
    ) -> Result<Waiting, EngineError> {
        let (task, shared, give) = CloneTask::new(&self.context, template.clone(), spec, disk)?;
        let run: BoxFuture<'static, TeardownReport> = Box::pin(task.run());
        self.registry.spawn(&shared.id, &shared.end, run)?;
        Ok(Waiting::new(template.clone(), shared, give))
    }

    /// A clone, awake; claimed, too, if a claim is given. If the snapshot turns out to be bad on the way, it is made
    /// anew for the next use, and the error says so.
    pub(crate) async fn clone_of(
        &self,
        spec: &SandboxSpec,
        template: &Arc<Template>,
        claim: Option<Claim>,
    ) -> Result<(Sandbox, Option<(Claimed, Begun)>), EngineError> {
        let (ready, woken) = oneshot::channel();
        let order = Box::new(Order {
            purpose: spec.purpose.clone(),
            claim,
            egress: None,
            ready,
        });
        let given = match self.pool.take_waiting(template, spec.card) {
            Some(waiting) => waiting.give(order),
            None => Err(order),
        };
        let shared = match given {
            Ok(shared) => shared,
            // None waits, or it has ended at this very moment.
            Err(order) => {
                let clone = self.begin_clone(spec, template, None)?;
                clone.give(order).map_err(|_| EngineError::ShuttingDown)?
            }
        };
        match awake(shared, woken).await {
            Ok(started) => Ok(started),
            Err(error) => {
                if let EngineError::Vmm { step, source, .. } = &error {
                    let refused = *step == RESTORE
                        && matches!(source, VmmError::Refused { .. } | VmmError::Gone { .. });
                    self.suspect(template, refused).await;
                }
                Err(error)
            }
        }
    }
}

/// Waits until a clone is awake. If we are dropped meanwhile, it is of no use to anybody.
async fn awake(
    shared: Shared,
    woken: oneshot::Receiver<Result<Woken, EngineError>>,
) -> Result<(Sandbox, Option<(Claimed, Begun)>), EngineError> {
    let guard = EndOnDrop(Some(shared.end.clone()));
    let woken = woken.await.unwrap_or(Err(EngineError::ShuttingDown));
    guard.disarm();
    Ok(Sandbox::new(shared, woken?))
}

/// A file without a name, in the folder of this path. It never had one, so that a driver can give it one in a jail; where
/// the file system cannot do that, it had this one for a moment.
fn nameless(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let folder = path.parent().unwrap_or(path);
    let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    if let Ok(file) = options.clone().custom_flags(flags).open(folder) {
        return Ok(file);
    }
    let file = options.create_new(true).open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Ends a VM whose maker is dropped before it has it.
struct EndOnDrop(Option<tokio::sync::watch::Sender<Option<Why>>>);

impl EndOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(end) = &self.0 {
            ask_end(end, Why::Released);
        }
    }
}
